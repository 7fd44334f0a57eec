"""Inputs that other trainers get wrong, by each way in: `preview --json`, streamed over gRPC, `dataset import`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from services.preprocess.models.registry import ModelEntry, load_entry
from tests.support.api_calls import MODEL, write_model
from tests.support.cli_runs import turnloom
from tests.support.source_runs import Sources
from turnloom.masks.model import Model

CASES = Path(os.environ.get("TURNLOOM_SHARED", Path(__file__).parents[3] / "shared")) / "cases"
#: Prints tools and one call a message, and cuts content at `</think>`.
LOSSY = (
    "{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
    "{% for call in (m.tool_calls or [])[:1] %}"
    "<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CALL = '<tool_call>{"name": "get_time", "arguments": {"zone": "Oslo"}}</tool_call><|im_end|>'

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CASES.is_dir(), reason="no folder of reported cases (TURNLOOM_SHARED)"),
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "lossy", LOSSY)


@pytest.fixture(scope="module")
def loaded_model(model_folder: Path) -> Model:
    return load_entry(ModelEntry(name=MODEL, source=str(model_folder)), model_folder)


@pytest.mark.parametrize(
    ("name", "trained"),
    [
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
    ],
)
def test_every_way_in_trains_the_same_right_text(sources: Sources, name: str, trained: list[str]) -> None:
    sources.workers.start()
    path = sources.roots / name
    shutil.copy(CASES / name, path)
    shown = turnloom(sources.api.address, "preview", path, "--json")
    assert shown.code == 0, shown.err
    assert stretches(shown.document["examples"]) == trained
    created = turnloom(sources.api.address, "dataset", "create", path, "--json")
    imported = turnloom(sources.api.address, "dataset", "import", path, "--json")
    assert (created.code, imported.code) == (0, 0), created.err + imported.err
    one, other = (
        dict(ran.document[0] if isinstance(ran.document, list) else ran.document) for ran in (created, imported)
    )
    assert one["sha256"] == other["sha256"]
    assert (one["skipped_conversations"], other["skipped_conversations"]) == (0, 0)


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
    ("name", "place"),
    [
        ("08_second_call_lost.jsonl", "messages[1].tool_calls[1]: the template leaves this call out"),
        (
            "07_part_of_content_lost.jsonl",
            "messages[1].content: the template leaves out or changes a part of this text",
        ),
    ],
)
def test_what_a_template_loses_is_refused_by_its_place(sources: Sources, name: str, place: str) -> None:
    path = sources.roots / name
    shutil.copy(CASES / name, path)
    for command in (("preview",), ("dataset", "create")):
        refused = turnloom(sources.api.address, *command, path, "--json")
        assert refused.code != 0
        assert place in str(refused.error), command
