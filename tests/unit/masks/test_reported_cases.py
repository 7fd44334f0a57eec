"""Inputs of kinds that other trainers get wrong, each read by client and worker, with the values that are right."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from bench.templates import DATE, SPECIAL_TOKENS, chat_format
from services.preprocess.datasets.sources.converting import conversation_of
from services.preprocess.datasets.sources.reading import pieces_of, read
from services.preprocess.wire.conversation import conversation
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.options import NextHeaderStop, Options
from turnloom.masks.inspect.lint import lint
from turnloom.masks.inspect.preview import Preview, preview
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import preprocess
from turnloom.masks.template.compiled import compile_template
from turnloom.reading.local_sources import LocalSource
from turnloom.reading.rows import shape_of
from turnloom.wire.conversations import from_json

SHARED = Path(os.environ.get("TURNLOOM_SHARED", Path(__file__).parents[4] / "shared"))
CASES, TEMPLATES, TOKENIZER = SHARED / "cases", SHARED / "templates", SHARED / "tokenizers/qwen3/tokenizer.json"
OPTIONS = Options(date=DATE)

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(
        not (CASES.is_dir() and TEMPLATES.is_dir() and TOKENIZER.is_file()),
        reason="no folder of reported cases, public templates and Qwen3's tokenizer (TURNLOOM_SHARED)",
    ),
]


@cache
def qwen3() -> Model:
    return build_model("qwen3", TOKENIZER.read_text(encoding="utf-8"), "", SPECIAL_TOKENS)


@cache
def model(template: str) -> Model:
    """Qwen3's tokenizer with a template and the tokens that this spells."""
    source = compile_template(KIMI if template == KIMI else (TEMPLATES / f"{template}.jinja").read_text("utf-8"))
    return replace(qwen3(), name=template, chat_format=chat_format(source))


def rows(name: str, folder: Path) -> list[Conversation]:
    """The conversations of a case, as the client sends them and the worker makes them."""
    path = CASES / name
    sent = [conversation(from_json(document)) for _, document in LocalSource.open([path]).whole().wanted()]
    found = [one for piece in pieces_of(str(path), str(folder / "staged")) for one in read(piece)]
    shape = shape_of(found)
    made = [conversation_of(row, shape)[0] for row in found]
    assert made == sent
    return sent


def trained(chat: Conversation, template: str, options: Options = OPTIONS) -> str:
    """The text of all tokens that carry weight."""
    return text_of(shown(chat, template, options))


def shown(chat: Conversation, template: str, options: Options = OPTIONS) -> Preview:
    preprocess(chat, options, model(template))
    return preview(chat, options, model(template))


def text_of(made: Preview) -> str:
    return "".join(token.text for example in made.examples for token in example.tokens if token.weight)


def refusal(chat: Conversation, template: str) -> str:
    with pytest.raises(PreprocessError) as caught:
        preprocess(chat, OPTIONS, model(template))
    found = [one.sentence for all_ in lint([chat], OPTIONS, model(template)).first.values() for one in all_]
    assert str(caught.value) in found, "lint says the same"
    return str(caught.value)


QWEN3 = "llamacpp__Qwen-Qwen3-0.6B"
GLM = "llamacpp__GLM-4.6"
#: Tells calls by their ids alone, as Kimi-K2-Thinking's does.
KIMI = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    "<|call|>{{ call.id }}<|arguments|>{{ call.function.arguments | tojson }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_nulls_of_a_table_are_absent_at_every_depth(tmp_path: Path) -> None:
    table, lines = rows("01_arrow_content_key.parquet", tmp_path), rows("01_arrow_content_key.jsonl", tmp_path)
    assert [shown(chat, QWEN3) for chat in table] == [shown(chat, QWEN3) for chat in lines]
    assert '{"name": "read_file", "arguments": {"path": "a.txt"}}' in trained(table[0], QWEN3)
    assert all("null" not in example.rendered_text for chat in table for example in shown(chat, QWEN3).examples)


def test_columns_of_json_are_read(tmp_path: Path) -> None:
    (chat,) = rows("02_arrow_json_type.parquet", tmp_path)
    assert chat.tools is not None
    assert '{"name": "f", "arguments": {"a": 1}}' in trained(chat, QWEN3)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("trl__llama3_1", '{"name": "get_time", "parameters": {"zone": "Oslo"}}<|eot_id|>'),
        (GLM, "<arg_key>zone</arg_key>\n<arg_value>Oslo</arg_value>"),
        ("vllmex__tool_chat_template_llama4_pythonic", '[get_time(zone="Oslo")]<|eot|>'),
        ("hfjs__Qwen_Qwen3.5-4B", "<function=get_time>\n<parameter=zone>\nOslo"),
    ],
)
def test_arguments_as_text_are_trained_as_the_object(template: str, text: str, tmp_path: Path) -> None:
    (chat,) = rows("03_arguments_text.jsonl", tmp_path)
    assert text in trained(chat, template)


@pytest.mark.parametrize(
    "template", [GLM, "trl__glm4moe", "llamacpp__GLM-4.7-Flash", "hfjs__zai-org_GLM-5.1", "llamacpp__GLM-5.2", QWEN3]
)
def test_null_content_is_empty(template: str, tmp_path: Path) -> None:
    (chat,) = rows("04_null_content_printed.jsonl", tmp_path)
    messages = [{**message, "content": ""} if message["content"] is None else message for message in chat.messages]
    assert shown(chat, template) == shown(Conversation(messages, chat.tools), template)
    assert "None" not in trained(chat, template)


def test_a_tokenizer_without_unknown_token_knows_the_word_none(tmp_path: Path) -> None:
    (chat,) = rows("05_unk_token_null.jsonl", tmp_path)
    made = preprocess(chat, OPTIONS, model(QWEN3))
    assert model(QWEN3).vocabulary.parts.unknown_id is None
    assert (made.warnings, made.unchecked) == ((), 0)


def test_reasoning_in_content_that_is_cut_off_is_warned_of(tmp_path: Path) -> None:
    (chat,) = rows("06_reasoning_in_content_lost.jsonl", tmp_path)
    warning = "messages[1].content: the template leaves out the reasoning in this text"
    assert warning in shown(chat, "hfjs__deepseek-ai_DeepSeek-R1").warnings
    report = lint([chat], OPTIONS, model("hfjs__deepseek-ai_DeepSeek-R1"))
    assert any(finding.sentence == warning for found in report.first.values() for finding in found)


def test_a_part_of_an_answer_that_is_lost_is_refused(tmp_path: Path) -> None:
    (chat,) = rows("07_part_of_content_lost.jsonl", tmp_path)
    assert refusal(chat, QWEN3) == "messages[1].content: the template leaves out or changes a part of this text"


@pytest.mark.parametrize("template", ["trl__gptoss", "llamacpp__GigaChat3-10B-A1.8B"])
def test_a_second_call_that_is_lost_is_refused(template: str, tmp_path: Path) -> None:
    (chat,) = rows("08_second_call_lost.jsonl", tmp_path)
    assert refusal(chat, template) == "messages[1].tool_calls[1]: the template leaves this call out"


def test_a_column_that_nobody_uses_spoils_no_row(tmp_path: Path) -> None:
    (chat,) = rows("09_unused_column.parquet", tmp_path)
    assert trained(chat, "chujiezheng__chatml") == "yo<|im_end|>"


def test_a_call_that_loses_its_name_is_refused_or_gets_an_id_that_names_it(tmp_path: Path) -> None:
    (chat,) = rows("10_function_name_lost.jsonl", tmp_path)
    said = refusal(chat, KIMI)
    assert said.startswith("messages[1].tool_calls[0].function.name: the template leaves this name out")
    assert "functions.NAME:0" in said
    made = trained(chat, KIMI, Options(date=DATE, make_tool_call_ids=True))
    assert '<|call|>functions.get_time:0<|arguments|>{"zone": "Oslo"}<|im_end|>' in made


def test_calls_in_openais_first_form_are_read(tmp_path: Path) -> None:
    (chat,) = rows("11_legacy_function_call.jsonl", tmp_path)
    assert chat.tools == [
        {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
    ]
    assert '{"name": "get_time", "arguments": {"zone": "Oslo"}}' in trained(chat, QWEN3)
    assert not lint([chat], OPTIONS, model(QWEN3)).counts


def test_keys_that_keep_a_message_from_training_are_obeyed(tmp_path: Path) -> None:
    chats = rows("12_mask_keys_ignored.jsonl", tmp_path)
    assert [trained(chat, "chujiezheng__chatml") for chat in chats] == ["good<|im_end|>"] * 4


def test_the_next_header_is_trained_where_it_ends_a_turn(tmp_path: Path) -> None:
    (chat,) = rows("13_glm_stop.jsonl", tmp_path)
    assert trained(chat, GLM).count("</tool_call><|observation|>") == 1
    never = Options(date=DATE, next_header_stop=NextHeaderStop.NEVER)
    assert "<|observation|>" not in trained(chat, GLM, never)
    assert trained(chat, GLM, Options(date=DATE, ensure_final_stop=True)).endswith("one<|user|>")


def test_json_text_where_a_list_stands_is_read(tmp_path: Path) -> None:
    (chat,) = rows("14_text_where_list.jsonl", tmp_path)
    assert trained(chat, "chujiezheng__chatml") == "yo<|im_end|>"


def test_maps_are_objects(tmp_path: Path) -> None:
    (chat,) = rows("15_map_messages.parquet", tmp_path)
    assert trained(chat, "chujiezheng__chatml") == "yo<|im_end|>"
