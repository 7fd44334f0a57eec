from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer

from tests.support.small_tokenizers import byte_level, sentence_piece, unigram, word_piece
from turnloom.masks.domain.errors import ModelNotUsable
from turnloom.masks.tokenizer import tokenizer_json
from turnloom.masks.tokenizer.tokenizer_json import Prefix, take_apart
from turnloom.masks.tokenizer.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("small", "prefix", "after_normalized"),
    [
        (byte_level(), Prefix.NEVER, False),
        (sentence_piece("first"), Prefix.FIRST, True),
        (sentence_piece("always"), Prefix.EVERY, True),
        (sentence_piece("legacy"), Prefix.EVERY, False),
        (unigram(), Prefix.EVERY, True),
        (word_piece(), Prefix.NEVER, False),
    ],
)
def test_the_prefix_space_of_each_family_is_found(small: str, prefix: Prefix, after_normalized: bool) -> None:
    parts = take_apart(small)
    assert (parts.prefix, parts.prefix_after_normalized) == (prefix, after_normalized)
    assert (parts.prefixed is None) == (prefix is Prefix.NEVER)


def test_a_byte_level_prefix_space_is_found_and_taken_away() -> None:
    root = json.loads(byte_level())
    root["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True
    words = Vocabulary(json.dumps(root))
    assert words.parts.prefix is Prefix.EVERY
    assert words.decode(words.encode(["hello"], [False]).ids) == b"hello"
    assert words.decode(words.encode(["hello"], [True]).ids) == b" hello"


def test_pieces_with_and_without_prefix_come_back_in_order() -> None:
    words = Vocabulary(sentence_piece("always"))
    mixed = words.encode(["hello", "world", "fox"], [False, True, False])
    apart = [
        words.encode([text], [flag]).ids.tolist() for text, flag in (("hello", False), ("world", True), ("fox", False))
    ]
    assert mixed.ids.tolist() == [index for ids in apart for index in ids]
    assert mixed.lengths.tolist() == [len(ids) for ids in apart]


def test_added_tokens_of_white_space_are_ordinary_text() -> None:
    tokenizer = Tokenizer.from_str(byte_level())
    tokenizer.add_tokens(["\n\n\n\n\n"])
    parts = take_apart(tokenizer.to_str())
    assert "\n\n\n\n\n" not in {token.content for token in parts.control_tokens}
    words = Vocabulary(tokenizer.to_str())
    text = "a\n\n\n\n\nb"
    assert words.encode([text], [False]).ids.tolist() == tokenizer.encode(text).ids
    assert words.decode(words.encode([text], [False]).ids) == text.encode()


def test_merges_that_lead_to_a_control_token_are_taken_away() -> None:
    tokenizer = Tokenizer.from_str(byte_level())
    root = json.loads(tokenizer.to_str())
    size = max(root["model"]["vocab"].values()) + 1 + len(root["added_tokens"])
    root["model"]["vocab"] |= {"<z": size, "<z>": size + 1}
    root["model"]["merges"] = [["<", "z"], ["<z", ">"], *root["model"]["merges"]]
    root["added_tokens"].append(root["added_tokens"][0] | {"id": size + 1, "content": "<z>", "special": True})
    words = Vocabulary(json.dumps(root))
    ids = words.encode(["<z>"], [False]).ids.tolist()
    assert size + 1 not in ids
    assert words.decode(words.encode(["<z>"], [False]).ids) == b"<z>"


def test_a_vocabulary_whose_text_gives_a_control_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_json, "_hide", lambda model, contents: None)
    with pytest.raises(ModelNotUsable, match="ordinary text gives the control token '<s>', so users could end a turn"):
        Vocabulary(unigram())


def test_a_tokenizer_whose_pieces_get_other_ids_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer.from_str(byte_level())
    tokenizer.add_tokens(["\n\n\n\n\n"])
    monkeypatch.setattr(tokenizer_json, "_keep_ids", lambda model, kept: None)
    with pytest.raises(ModelNotUsable, match="gets other ids as a piece than the stock tokenizer gives it"):
        Vocabulary(tokenizer.to_str())


def test_a_tokenizer_that_loses_spaces_without_saying_so_is_refused() -> None:
    root = json.loads(byte_level())
    root["pre_tokenizer"]["pretokenizers"].insert(
        0, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext", "invert": False}
    )
    root["model"]["vocab"] = {entry: index for entry, index in root["model"]["vocab"].items() if entry != "Ġ"}
    root["model"]["merges"] = [merge for merge in root["model"]["merges"] if not merge[0].startswith("Ġ")]
    with pytest.raises(ModelNotUsable, match="'a b' decodes to 'ab', so text would be lost; prepare the model again"):
        Vocabulary(json.dumps(root))


@pytest.mark.parametrize(
    ("pre_tokenizer", "reason"),
    [
        ({"type": "Whitespace"}, "the pre-tokenizer Whitespace drops characters"),
        (
            {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
            "the pre-tokenizer Split drops characters",
        ),
    ],
)
def test_a_tokenizer_known_to_lose_text_is_named(pre_tokenizer: dict[str, object], reason: str) -> None:
    root = json.loads(byte_level())
    root["pre_tokenizer"]["pretokenizers"].insert(0, pre_tokenizer)
    assert take_apart(json.dumps(root)).lossy == reason


def test_a_file_that_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(ModelNotUsable, match=r"tokenizer\.json can't be used: .*; prepare the model again"):
        Vocabulary("{}")


def test_truncation_and_padding_saved_in_the_file_do_nothing() -> None:
    tokenizer = Tokenizer.from_str(byte_level())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    words = Vocabulary(tokenizer.to_str())
    text = "hello world, how are you"
    assert words.decode(words.encode([text], [False]).ids) == text.encode()
    assert words.stock.encode(text).ids == Tokenizer.from_str(byte_level()).encode(text).ids


def test_no_unknown_token_is_no_word_of_the_vocabulary() -> None:
    root = json.loads(byte_level())
    root["model"]["unk_token"] = None
    root["model"]["vocab"]["None"] = max(root["model"]["vocab"].values(), default=0) + 100
    assert take_apart(json.dumps(root)).unknown_id is None


def test_an_added_token_under_another_id_than_the_vocabularys_is_refused() -> None:
    root = json.loads(byte_level())
    token = root["added_tokens"][-1]
    root["model"]["vocab"][token["content"]] = 3
    with pytest.raises(ModelNotUsable, match=r"the added token .* has the id \d+ there, but tokenizers gives it 3"):
        Vocabulary(json.dumps(root))
