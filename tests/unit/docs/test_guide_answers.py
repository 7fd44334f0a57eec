"""Answers of docs/guide.md that no other test holds. The rest:

hub: test_sources_hub (mirror, 15 seconds, folder), test_doctor. Progress: test_progress, test_notebook, test_cli_jobs
(lines, JSON, Ctrl-C). Memory: test_trainer_jobs (halving), test_api_jobs (what max_length cuts), test_trainer_errors.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from scripts.cli_docs import commands
from services.trainer import settings as trainer_settings
from services.trainer.errors import Code, backend_error
from services.variables import BadSetting
from tests.support.notebook_runs import EXAMPLES, KERNEL, register_kernel
from turnloom.cli.app import app
from turnloom.cli.running import session as cli_session
from turnloom.wire.options import HyperparameterFields

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
QUESTIONS = GUIDE[GUIDE.index("## Questions") : GUIDE.index("## Using the adapter")]


def answer(question: str) -> str:
    """The text below one question."""
    return next(part for part in QUESTIONS.split("\n### ") if part.startswith(question))


def test_every_question_of_the_guide_has_its_answer() -> None:
    assert re.findall(r"^### (.+)$", QUESTIONS, re.MULTILINE) == [
        "The Hugging Face hub is not reachable",
        "Invalid api_key: which key wins",
        "Progress bars outside notebooks",
        "Out of memory, or slow",
        "A notebook that does not see the virtual environment",
        "A run broke off",
    ]


def test_answers_name_options_and_variables_that_exist() -> None:
    named = set(re.findall(r"(--[a-z][a-z-]*)", QUESTIONS)) - {"--user", "--name"}  # ipykernel's
    assert named
    assert named <= {word for _, command in commands(get_command(app)) for one in command.params for word in one.opts}
    sources = "".join(path.read_text() for top in ("turnloom", "services") for path in (ROOT / top).rglob("*.py"))
    for variable in set(re.findall(r"\b((?:TURNLOOM|HF|TINKER)_[A-Z_]+)\b", QUESTIONS)):
        short = variable.removeprefix("TURNLOOM_")
        assert variable in sources or f'"{short}"' in sources, variable
    assert "max_tokens_per_call" in HyperparameterFields.__annotations__


def test_memory_is_saved_in_the_order_that_the_job_itself_names() -> None:
    hint = backend_error(Code.OUT_OF_MEMORY, "no room").hint
    text = answer("Out of memory")
    for told, names in (
        (hint, ("max_length", "batch_size", "lora_rank")),
        (text, ("max_length", "batch_size", "the rank")),
    ):
        places = [told.index(name) for name in names]
        assert places == sorted(places)


def test_a_token_on_the_command_line_beats_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str | None] = []
    monkeypatch.setenv("TURNLOOM_TOKEN", "of-the-variable")
    monkeypatch.setattr(
        cli_session,
        "TurnloomClient",
        lambda address, token, tls: sent.append(token) or _Closed(),  # type: ignore[func-returns-value]
    )
    for words in ([], ["--token", "of-the-line"]):
        with pytest.raises(SystemExit):
            app(["init", "/nowhere/at/all/job.toml", *words], standalone_mode=True)
    assert sent == ["of-the-variable", "of-the-line"]


class _Closed:
    def __enter__(self):
        return self

    def __exit__(self, *_error: object) -> None:
        return None


@pytest.mark.parametrize("key", ["hf_abc", "sk-abc", "abc"])
def test_a_key_that_tuft_could_not_take_is_refused_at_the_start_and_not_shown(key: str) -> None:
    environment = {"TURNLOOM_HOST": "h", "TURNLOOM_TUFT_API_KEY": key, "TURNLOOM_TUFT_CHECKPOINT_DIR": "/x"}
    with pytest.raises(BadSetting) as caught:
        trainer_settings.from_environment(environment)
    assert str(caught.value) == "TURNLOOM_TUFT_API_KEY: its value can't be used; give a key that starts with tml-"


def test_the_kernel_that_the_guide_registers_is_this_very_interpreter(tmp_path: Path) -> None:
    text = answer("A notebook")
    assert f"python -m ipykernel install --user --name {KERNEL}" in text
    found = register_kernel(tmp_path) / "kernels" / KERNEL / "kernel.json"
    assert json.loads(found.read_text())["argv"][0] == sys.executable


def test_the_notebook_and_the_guide_point_at_each_other() -> None:
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", GUIDE, re.MULTILINE)
    }
    linked = re.findall(r"docs/guide\.md#([a-z0-9-]+)", (EXAMPLES / "chat_sft.ipynb").read_text(encoding="utf-8"))
    assert linked
    assert set(linked) <= anchors
    assert "examples/chat_sft.ipynb" in GUIDE


def test_the_client_needs_neither_torch_nor_the_hub_nor_a_widget(tmp_path: Path) -> None:
    heavy = "torch", "transformers", "datasets", "huggingface_hub", "tinker", "ipywidgets", "IPython", "matplotlib"
    code = f"import sys; from turnloom import TurnloomClient, progress; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"


def test_importing_the_package_loads_neither_grpc_nor_numpy_and_every_public_name_is_there(tmp_path: Path) -> None:
    code = (
        "import sys, turnloom; print([n for n in ('grpc', 'numpy', 'google') if n in sys.modules]);"
        "[getattr(turnloom, name) for name in turnloom.__all__]; print(set(turnloom.__all__) <= set(dir(turnloom)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\nTrue\n"
