import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from turnloom.embedded.sample_data import train_conversations
from turnloom.embedded.tiny_model import CHAT_TEMPLATE, ModelNotMade, build, texts
from turnloom.masks import Masker, Options, load_model

pytestmark = pytest.mark.tuft


def test_the_same_conversations_give_the_same_model_to_the_byte(
    tuft_python: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
) -> None:
    again = build(tuft_python, tmp_path / "again", [tiny_model_dir.parent / "conversations.jsonl"])
    for name in ("model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"):
        assert (again / name).read_bytes() == (tiny_model_dir / name).read_bytes(), name


def test_a_model_made_before_is_not_made_again(tiny_model_dir: Path) -> None:
    # An interpreter that does not exist proves that none was started.
    assert build(Path("/no/python"), tiny_model_dir, [tiny_model_dir.parent / "conversations.jsonl"]) == tiny_model_dir


@pytest.mark.parametrize("text", ["Grüße aus dem Dachboden", "屋根裏", "\x00\x7f\r\n\t", "🪁 kite", "And the kite?"])
def test_any_text_can_be_encoded_and_decoded(tiny_model_dir: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_the_chat_template_keeps_the_prefix_property(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    for conversation in train_conversations()[:40]:
        messages = conversation["messages"]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        for turn, message in enumerate(messages):
            before = tokenizer.apply_chat_template(messages[: turn + 1], tokenize=False)
            assert whole.startswith(before)
            if message["role"] == "assistant":
                prompt = tokenizer.apply_chat_template(messages[:turn], tokenize=False, add_generation_prompt=True)
                assert whole.startswith(prompt + message["content"] + "<|end|>\n")


def test_control_tokens_are_one_token_each(tiny_model_dir: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    assert [tokenizer.token_to_id(token) for token in ("<|endoftext|>", "<|turn|>", "<|end|>")] == [0, 1, 2]
    config = json.loads((tiny_model_dir / "config.json").read_text())
    assert (config["model_type"], config["eos_token_id"]) == ("qwen3", 2)
    assert config["vocab_size"] >= tokenizer.get_vocab_size()


def test_a_line_that_is_no_conversation_is_named(tuft_python: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n{"text": "hi"}\n')
    with pytest.raises(ModelNotMade, match=r"bad\.jsonl:2: not a conversation with a list 'messages'"):
        build(tuft_python, tmp_path / "model", [bad])


def test_only_a_newline_ends_a_line(tmp_path: Path) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"messages": [{"role": "user", "content": "a\u2028b\x85c"}]}\n', encoding="utf-8")
    assert list(texts([odd])) == ["user\n", "a\u2028b\x85c"]


def test_contents_that_are_not_text_give_no_text(tmp_path: Path) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"messages": [{"role": "assistant", "content": null}, {"role": "tool", "content": [1]}]}\n\n')
    assert list(texts([odd])) == ["assistant\n", "tool\n"]


def test_the_chat_template_prints_null_as_nothing_and_parts_as_their_text(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    parts = [{"type": "text", "text": "two "}, {"type": "image"}, {"type": "text", "text": "parts"}]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": None}, {"role": "tool"}]
    shown = "<|turn|>user\ntwo parts<|end|>\n<|turn|>assistant\n<|end|>\n<|turn|>tool\n<|end|>\n"
    assert tokenizer.apply_chat_template(said, tokenize=False) == shown


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}]
TOOL_CHAT = [
    {"role": "user", "content": "Will it rain?"},
    {"role": "assistant", "content": None, "tool_calls": CALLS},
    {"role": "tool", "tool_call_id": "c1", "content": '{"rain": true}'},
    {"role": "assistant", "reasoning_content": "It says so.", "content": "Yes, it will."},
]


@pytest.mark.parametrize("arguments", [{"city": "Zürich", "days": 2}, '{"city": "Zürich"}', {}])
def test_calls_of_tools_and_reasoning_are_rendered_and_trained(tiny_model_dir: Path, arguments: object) -> None:
    calls = [{**CALLS[0], "function": {"name": "weather", "arguments": arguments}}]
    chat = {"messages": [TOOL_CHAT[0], {**TOOL_CHAT[1], "tool_calls": calls}, *TOOL_CHAT[2:]], "tools": TOOLS}
    (masked,) = Masker(load_model(tiny_model_dir), Options(date="2026-01-01"))([chat])
    assert masked.error is None
    (row,) = masked.rows
    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
    trained = tokenizer.decode(row.token_ids[1:][row.target_weights > 0].tolist(), skip_special_tokens=False)
    assert "weather" in trained
    assert "It says so." in trained
    assert "Yes, it will.<|end|>" in trained
    assert "rain?" not in trained
    assert '"rain"' not in trained


def test_the_prefix_property_holds_with_tools(tiny_model_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    whole = tokenizer.apply_chat_template(TOOL_CHAT, tools=TOOLS, tokenize=False)
    assert whole.startswith("<|turn|>tools\n")
    for turn in range(len(TOOL_CHAT)):
        assert whole.startswith(tokenizer.apply_chat_template(TOOL_CHAT[: turn + 1], tools=TOOLS, tokenize=False))
