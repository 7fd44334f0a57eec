from __future__ import annotations

import pytest

from tests.support.small_tokenizers import rendered
from turnloom.masks.domain.errors import ControlTokenRejected
from turnloom.masks.domain.options import ControlTokens
from turnloom.masks.domain.rendered_text import TOOLS, UNKNOWN, RenderedText
from turnloom.masks.tokenizer.control_tokens import ControlToken, ControlTokenTable
from turnloom.masks.tokenizer.segments import TEXT, CutRules, Segments, cut
from turnloom.masks.tokenizer.tokenizer_json import Prefix

START = ControlToken(1, "<|im_start|>", special=True)
END = ControlToken(2, "<|im_end|>", special=True)
THINK = ControlToken(3, "<think>", special=False)


def pieces_of(
    text: RenderedText,
    *,
    tokens: tuple[ControlToken, ...] = (START, END, THINK),
    boundaries: tuple[int, ...] = (),
    assistant: frozenset[int] = frozenset({1}),
    policy: ControlTokens = ControlTokens.ESCAPE,
    prefix: Prefix = Prefix.NEVER,
    after_normalized: bool = True,
) -> Segments:
    return cut(text, boundaries, assistant, CutRules(ControlTokenTable(tokens), prefix, after_normalized), policy)


def slots(segments: Segments) -> list[int | str]:
    texts = iter(segments.texts)
    return [next(texts) if slot == TEXT else slot for slot in segments.slots]


def test_control_tokens_come_from_literals_and_never_from_a_users_text() -> None:
    segments = pieces_of(rendered("<|im_start|>user\n", ("hi<|im_end|>", 0, "content"), "<|im_end|>"))
    assert slots(segments) == [1, "user\nhi<|im_end|>", 2]
    assert [(span.message_index, span.offset, span.text) for span in segments.escaped] == [(0, 19, "<|im_end|>")]


def test_a_token_spelled_half_by_the_template_and_half_by_a_message_is_ordinary_text() -> None:
    segments = pieces_of(rendered("<|im_", ("end|> and <|im_", 0, "content"), "start|><|im_end|>"))
    assert slots(segments) == ["<|im_end|> and <|im_start|>", 2]
    assert segments.escaped == []


def test_a_users_text_cannot_hide_a_literals_token() -> None:
    brackets = ControlToken(7, "[[", special=True)
    inst = ControlToken(8, "[INST]", special=True)
    segments = pieces_of(rendered(("x[", 0, "content"), "[INST]"), tokens=(brackets, inst))
    assert slots(segments) == ["x[", 8]


@pytest.mark.parametrize("index", [0, TOOLS, UNKNOWN])
def test_a_non_special_token_counts_in_assistant_text_and_literals_only(index: int) -> None:
    text = rendered("<think>", ("a<think>", index, "content"), ("<think>b", 1, "content"))
    segments = pieces_of(text)
    assert slots(segments) == [3, "a<think>", 3, "b"]
    assert [span.message_index for span in segments.escaped] == [index]


def test_a_special_token_does_not_count_in_assistant_text() -> None:
    segments = pieces_of(rendered(("<|im_end|>", 1, "content")))
    assert slots(segments) == ["<|im_end|>"]
    assert len(segments.escaped) == 1


def test_reject_names_message_and_offset() -> None:
    text = rendered("<|im_start|>user\n", ("hi <|im_end|>", 0, "content"))
    with pytest.raises(
        ControlTokenRejected,
        match=r"^messages\[0\]: spells the control token '<\|im_end\|>' at character 20 of the rendered text",
    ):
        pieces_of(text, policy=ControlTokens.REJECT)


def test_reject_says_when_no_message_is_to_blame() -> None:
    with pytest.raises(ControlTokenRejected, match=r"^text of tools or of unknown origin spells the control token"):
        pieces_of(rendered(("<|im_end|>", TOOLS, "tools")), policy=ControlTokens.REJECT)


def test_allow_matches_wherever_a_token_is_spelled() -> None:
    text = rendered("<|im_", ("end|>x<think>", 0, "content"))
    assert slots(pieces_of(text, policy=ControlTokens.ALLOW)) == [2, "x", 3]


def test_a_region_start_cuts_a_piece() -> None:
    text = rendered("<|im_start|>assistant\n", ("\n\nhi", 1, "content"), "<|im_end|>\n")
    assert slots(pieces_of(text, boundaries=(22,))) == [1, "assistant\n", "\n\nhi", 2, "\n"]


def test_only_the_first_piece_has_the_prefix_space() -> None:
    text = rendered("ask: ", ("hi", 0, "content"), "<|im_end|>reply:", ("yes", 1, "content"), "<|im_end|>")
    first = pieces_of(text, prefix=Prefix.FIRST, boundaries=(len("ask: hi<|im_end|>reply:"),))
    assert slots(first) == ["ask: hi", 2, "reply:", "yes", 2]
    assert first.prefixed == [True, False, False]


def test_a_vocabulary_that_prefixes_every_segment_never_prefixes_a_forced_boundary() -> None:
    text = rendered("ask: ", ("hi", 0, "content"), "<|im_end|>reply:", ("yes", 1, "content"), "<|im_end|>")
    every = pieces_of(text, prefix=Prefix.EVERY, boundaries=(len("ask: hi<|im_end|>reply:"),))
    assert every.prefixed == [True, True, False]


def test_a_normalizers_prefix_does_not_follow_a_normalized_token() -> None:
    normalized = ControlToken(5, "<t>", special=False, normalized=True)
    text = rendered("<t>a<|im_end|>b")
    segments = pieces_of(text, tokens=(normalized, END), prefix=Prefix.EVERY, after_normalized=False)
    assert segments.prefixed == [False, True]


def test_rstrip_takes_white_space_up_to_the_region_and_no_further() -> None:
    token = ControlToken(9, "<|assistant|>", special=True, rstrip=True)
    text = rendered("<|assistant|>\n", (" \n hi", 1, "content"))
    assert slots(pieces_of(text, tokens=(token,), boundaries=(14,))) == [9, " \n hi"]
    assert slots(pieces_of(text, tokens=(token,))) == [9, "hi"]


def test_lstrip_takes_white_space_but_not_out_of_an_earlier_token_or_region() -> None:
    token = ControlToken(9, "<e>", special=True, lstrip=True, rstrip=True)
    text = rendered("a \n<e> <e>", ("b ", 1, "content"), "<e>")
    assert slots(pieces_of(text, tokens=(token,))) == ["a", 9, 9, "b", 9]
    segments = pieces_of(rendered("p \n", (" \n", 1, "content"), "<e>"), tokens=(token,), boundaries=(3,))
    assert slots(segments) == ["p \n", 9]
    assert segments.starts == [0, 3]


def test_a_single_word_token_must_stand_alone() -> None:
    token = ControlToken(9, "tool", special=True, single_word=True)
    assert slots(pieces_of(rendered("tools tool _tool tool"), tokens=(token,))) == ["tools ", 9, " _tool ", 9]


def test_the_longest_of_two_tokens_is_taken() -> None:
    short, long = ControlToken(1, "<a", special=True), ControlToken(2, "<a>", special=True)
    assert slots(pieces_of(rendered("<a><a<a>"), tokens=(short, long))) == [2, 1, 2]


def test_a_tokenizer_without_control_tokens_gives_one_piece() -> None:
    assert slots(pieces_of(rendered("<|im_end|>"), tokens=())) == ["<|im_end|>"]
