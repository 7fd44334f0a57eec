"""Every setting that docs/coming-from.md names exists, and README's example of the engine runs as it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.unit.masks.test_model import source
from turnloom import masks
from turnloom.masks import Options
from turnloom.wire.options import preprocess_options

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/coming-from.md").read_text(encoding="utf-8")
SETTINGS = sorted({(name, value) for name, value in re.findall(r"`?\b([a-z_]+)=\"([a-z_]+)\"", PAGE)})


@pytest.mark.parametrize(("name", "value"), SETTINGS)
def test_the_setting_is_one_of_ours(name: str, value: str) -> None:
    assert preprocess_options("m", {name: value})  # type: ignore[misc]


def test_the_page_names_the_policies_that_there_are() -> None:
    named = {value for name, value in SETTINGS if name == "train_on"}
    assert named == {policy.value for policy in masks.TrainOn}


@pytest.mark.parametrize("expression", sorted(set(re.findall(r"^(Options\(.*\)) +#", PAGE, re.MULTILINE))))
def test_the_example_is_python(expression: str) -> None:
    assert isinstance(eval(expression, vars(masks)), Options)


def test_the_readmes_example_masks_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "Masker" in block]
    source(tmp_path / "Qwen3-0.6B")
    chats = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}], [{"role": "user"}]]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    printed = capsys.readouterr().out
    assert "dtype=int32" in printed
    assert "dtype=float32" in printed
    assert "no assistant message" in printed or "chooses no message" in printed
