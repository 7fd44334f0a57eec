"""Inputs that other trainers get wrong, by each way in: `preview --json`, streamed over gRPC, `dataset import`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from services.preprocess.models.registry import load_entry
from tests.graveyard.engine import tokenizer_json
from tests.support.api_calls import MODEL, write_model
from tests.support.cli_runs import turnloom
from tests.support.source_runs import Sources
from turnloom.masks.model import Model
from turnloom.masks.sandbox.pool import Sandbox
from turnloom.models_file import ModelEntry

CASES = Path(os.environ.get("TURNLOOM_SHARED", Path(__file__).parents[3] / "shared")) / "cases"
#: Prints tools and one call a message, and cuts content at `</think>`.
LOSSY = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
    "{% for call in (m.tool_calls or [])[:1] %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Tells calls by their ids alone, as Kimi-K2-Thinking's does.
BY_ID = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.id }} {{ call.function.arguments | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
#: Closes no turn, as GLM's do.
OPEN = (
    "{% for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CALL = '<tool_call>{"name": "get_time", "arguments": {"zone": "Oslo"}}</tool_call><|im_end|>'

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CASES.is_dir(), reason="no folder of reported cases (TURNLOOM_SHARED)"),
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "lossy", LOSSY, tokenizer_json("byte_level"))


@pytest.fixture(scope="module")
def loaded_model(model_folder: Path) -> Iterator[Model]:
    with closing(Sandbox()) as sandbox:
        yield load_entry(ModelEntry(name=MODEL, source=str(model_folder)), model_folder, sandbox)


def case(name: str, trained: list[str], options: Sequence[str] = ()) -> tuple[str, list[str], list[str]]:
    """A file, what is trained of it, and the options under which it is."""
    return name, trained, [word for option in options for word in ("-o", option)]


@pytest.mark.parametrize(
    ("name", "trained", "options"),
    [
        case(*one)
        for one in (
            (
                "01_arrow_content_key.parquet",
                [
                    '<tool_call>{"name": "read_file", "arguments": {"path": "a.txt"}}</tool_call><|im_end|>',
                    "It says A.<|im_end|>",
                ],
            ),
            ("02_arrow_json_type.parquet", ['<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><|im_end|>']),
            ("03_arguments_text.jsonl", [CALL, "one<|im_end|>"]),
            ("04_null_content_printed.jsonl", [CALL, "one<|im_end|>"]),
            ("05_unk_token_null.jsonl", ["None of these.<|im_end|>"]),
            ("09_unused_column.parquet", ["yo<|im_end|>"]),
            ("11_legacy_function_call.jsonl", [CALL]),
            ("12_mask_keys_ignored.jsonl", ["good<|im_end|>"]),
            ("14_text_where_list.jsonl", ["yo<|im_end|>"]),
            ("15_map_messages.parquet", ["yo<|im_end|>"]),
            ("06_reasoning_in_content_lost.jsonl", ["\n\nfirst<|im_end|>"]),
            (
                "10_function_name_lost.jsonl",
                ['<tool_call>functions.get_time:0 {"zone": "Oslo"}</tool_call><|im_end|>', "one<|im_end|>"],
                [f"chat_template={BY_ID}", "make_tool_call_ids=true"],
            ),
            (
                "13_glm_stop.jsonl",
                [
                    '<tool_call>{"name": "get_time", "arguments": {"zone": "Oslo"}}</tool_call><|observation|>',
                    "one<|user|>",
                ],
                [f"chat_template={OPEN}", "ensure_final_stop=true"],
            ),
        )
    ],
)
def test_every_way_in_trains_the_same_right_text(
    sources: Sources, name: str, trained: list[str], options: list[str]
) -> None:
    sources.workers.start()
    path = sources.roots / name
    shutil.copy(CASES / name, path)
    shown = turnloom(sources.api.address, "preview", path, *options, "--json")
    assert shown.code == 0, shown.err
    assert stretches(shown.document["examples"]) == trained
    created = turnloom(sources.api.address, "dataset", "create", path, *options, "--json")
    imported = turnloom(sources.api.address, "dataset", "import", path, *options, "--json")
    assert (created.code, imported.code) == (0, 0), created.err + imported.err
    one, other = (
        dict(ran.document[0] if isinstance(ran.document, list) else ran.document) for ran in (created, imported)
    )
    assert one["sha256"] == other["sha256"]
    assert (one["skipped_conversations"], other["skipped_conversations"]) == (0, 0)
    assert one["warnings"] == other["warnings"]
    if name.startswith("06"):
        lost = "messages[1].content: the template leaves out the reasoning in this text"
        assert lost in shown.document["warnings"]
        assert [warning["message"] for warning in one["warnings"]] == [lost]


def stretches(examples: list[dict]) -> list[str]:
    """Text of neighbouring tokens that carry weight."""
    found: list[str] = []
    inside = False
    for example in examples:
        for token in example["tokens"]:
            if token["weight"]:
                found = [*found[:-1], found[-1] + token["text"]] if inside else [*found, token["text"]]
            inside = bool(token["weight"])
    return found


@pytest.mark.parametrize(
    ("name", "place", "options"),
    [
        (
            "10_function_name_lost.jsonl",
            "messages[1].tool_calls[0].function.name: the template leaves this name out",
            ("-o", f"chat_template={BY_ID}"),
        ),
        ("08_second_call_lost.jsonl", "messages[1].tool_calls[1]: the template leaves this call out", ()),
        (
            "07_part_of_content_lost.jsonl",
            "messages[1].content: the template leaves out or changes a part of this text",
            (),
        ),
    ],
)
def test_what_a_template_loses_is_refused_by_its_place(
    sources: Sources, name: str, place: str, options: Sequence[str]
) -> None:
    sources.workers.start()
    path = sources.roots / name
    shutil.copy(CASES / name, path)
    for command in (("preview",), ("dataset", "create"), ("dataset", "import")):
        refused = turnloom(sources.api.address, *command, path, *options, "--json")
        assert refused.code != 0
        assert place in str(refused.error), command
