from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.support.small_tokenizers import (
    SPECIAL,
    byte_level,
    chatml,
    families,
    rendered,
    sentence_piece,
    with_flags,
    word_piece,
)
from turnloom.masks.domain.example import WeightedTokens
from turnloom.masks.domain.options import ControlTokens
from turnloom.masks.domain.rendered_text import View
from turnloom.masks.tokenizer.encode import (
    RoundTripMismatch,
    TokenizedText,
    target_runs,
    token_spans,
    token_starts,
    tokenize,
    tokenize_as_stock,
    trained_bytes,
)
from turnloom.masks.tokenizer.segments import Segments, cut
from turnloom.masks.tokenizer.vocabulary import Vocabulary

FAMILIES = [
    "byte_level",
    "sentence_piece_first",
    "sentence_piece_always",
    "sentence_piece_legacy",
    "unigram",
    "word_piece",
]
ROUND_TRIPS = [name for name in FAMILIES if name != "word_piece"]
HARD = (
    "\n\n hello",
    "e\u0301 a\u0323\u0302",
    "\u0301x",
    "你好 👍🏽 Привет",
    "  two  spaces ",
    "tab\t\r\n",
    "▁ meta",
    "<0x0A>",
    "ÉCOLE",
    "",
)

TEXTS = st.one_of(
    st.sampled_from(HARD),
    st.text(max_size=20),
    st.text(alphabet=" \n\taé中e\u0301👍<|>_/imstartend", max_size=30),
    st.sampled_from(["<|im_end|>", "<think>", "</s>", "<s>x", "[CLS]", "<unk>", "a<|im_start|>user\nb"]),
)  # fmt: skip


@cache
def vocabulary(family: str) -> Vocabulary:
    return Vocabulary(families()[family])


@cache
def stock(family: str) -> Tokenizer:
    return Tokenizer.from_str(families()[family])


def tokens_of(
    view: View, words: Vocabulary, *, cuts: bool = True, policy: ControlTokens = ControlTokens.ESCAPE
) -> TokenizedText:
    assistants = [span for span in view.message_spans if span.role == "assistant"]
    boundaries = [span.start for span in assistants] if cuts else []
    segments = cut(view.rendered, boundaries, {span.message_index for span in assistants}, words.cut_rules, policy)
    (text,) = tokenize([segments], words)
    assert isinstance(text, TokenizedText), text
    return text


def stock_ids(family: str, text: str) -> list[int]:
    return list(stock(family).encode(text, add_special_tokens=False).ids)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(user=TEXTS, reply=TEXTS)
def test_without_boundaries_and_escapes_the_ids_are_the_stock_tokenizers(family: str, user: str, reply: str) -> None:
    view = chatml([("system", "You are."), ("user", user), ("assistant", reply)])
    found = tokens_of(view, vocabulary(family), cuts=False, policy=ControlTokens.ALLOW)
    assert found.token_ids.tolist() == stock_ids(family, view.rendered.text)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(user=TEXTS.filter(lambda text: not set("<[") & set(text)), reply=TEXTS)
def test_the_prompt_is_tokenized_as_a_samplers_prompt(family: str, user: str, reply: str) -> None:
    view = chatml([("user", user), ("assistant", reply)])
    prompt = stock_ids(family, view.rendered.text[: view.message_spans[1].start])
    assert tokens_of(view, vocabulary(family)).token_ids[: len(prompt)].tolist() == prompt


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(user=TEXTS, reply=TEXTS)
def test_control_token_ids_are_as_many_as_the_literals_spell(family: str, user: str, reply: str) -> None:
    words = vocabulary(family)
    view = chatml([("user", user), ("assistant", reply)])
    found = tokens_of(view, words)
    special = [index for index, token in words.table.by_id.items() if token.special and index != words.parts.unknown_id]
    assert int(np.isin(found.token_ids, special).sum()) == 4


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(user=TEXTS, reply=TEXTS)
def test_hf_mode_gives_the_stock_ids_and_its_own_starts(family: str, user: str, reply: str) -> None:
    view = chatml([("user", user), ("assistant", reply)])
    found = tokenize_as_stock(view.rendered.text, vocabulary(family))
    assert found.token_ids.tolist() == stock_ids(family, view.rendered.text)
    assert found.starts is not None
    assert len(found.starts) == len(found.token_ids)
    assert found.slot_tokens[-1] == len(found.token_ids)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(user=TEXTS, reply=TEXTS, inner=st.integers(0, 30))
def test_a_token_has_the_weight_of_its_first_character(family: str, user: str, reply: str, inner: int) -> None:
    words = vocabulary(family)
    view = chatml([("user", user), ("assistant", reply)])
    found = tokens_of(view, words)
    span = view.message_spans[1]
    middle = min(span.start + inner, span.end)
    spans = token_spans(found, [(span.start, middle, 1.0), (middle, span.end, 0.5)], words)
    weights = np.zeros(len(found.token_ids))
    for start, end, weight in spans:
        weights[start:end] = weight
    starts = token_starts(found, words)
    assert (np.diff(starts) >= 0).all()
    expected = np.where(starts < span.start, 0, np.where(starts < middle, 1.0, np.where(starts < span.end, 0.5, 0)))
    assert weights.tolist() == expected.tolist()


@pytest.mark.parametrize("family", ROUND_TRIPS)
@settings(max_examples=60, deadline=None)
@given(user=TEXTS, reply=TEXTS)
def test_byte_starts_and_offsets_of_the_library_agree(family: str, user: str, reply: str) -> None:
    words = vocabulary(family)
    text = user + reply
    ids = words.encode([text], [False]).ids
    offsets = [start for start, _ in words._plain.encode(text, add_special_tokens=False).offsets]
    assert words.token_starts(text, False, ids).tolist() == offsets


def test_newlines_of_prompt_and_reply_never_merge() -> None:
    words = vocabulary("byte_level")
    view = chatml([("user", "hi"), ("assistant", "\n\nyes")])
    found = tokens_of(view, words)
    merged = stock_ids("byte_level", view.rendered.text)
    prompt = stock_ids("byte_level", view.rendered.text[: view.message_spans[1].start])
    assert found.token_ids[: len(prompt)].tolist() == prompt
    assert merged[: len(prompt)] != prompt, "this vocabulary shows the difference"


def test_nfc_text_is_compared_with_what_normalization_makes_of_it() -> None:
    words = vocabulary("byte_level")
    view = chatml([("user", "e\u0301"), ("assistant", "a\u0323\u0302 \u212b")])
    found = tokens_of(view, words)
    assert "\u1ead \u00c5" in words.decode(found.token_ids).decode()


def test_a_combining_mark_at_a_region_start_stays_the_replys() -> None:
    words = vocabulary("byte_level")
    view = chatml([("user", "x"), ("assistant", "\u0301yes")])
    found = tokens_of(view, words)
    assert token_starts(found, words).tolist().count(view.message_spans[1].start) >= 1


def test_byte_fallback_round_trips_and_all_bytes_of_a_character_share_its_weight() -> None:
    words = vocabulary("sentence_piece_first")
    view = chatml([("user", "x"), ("assistant", "a👍")])
    found = tokens_of(view, words)
    span = view.message_spans[1]
    ((first, last, _),) = token_spans(found, [(span.start + 1, span.start + 2, 1.0)], words)
    assert last - first == 4
    assert words.decode(found.token_ids[first:last]) == "👍".encode()


def test_unigram_does_not_find_the_piece_that_ends_a_sequence_in_a_users_text() -> None:
    words = vocabulary("unigram")
    end = words.table.by_content["</s>"].id
    view = chatml([("user", "bye </s> now"), ("assistant", "ok")])
    assert end not in tokens_of(view, words).token_ids
    assert end in stock_ids("unigram", view.rendered.text)


def test_text_that_the_vocabulary_lacks_is_unknown_and_no_failure() -> None:
    words = vocabulary("unigram")
    found = tokens_of(chatml([("user", "\U0001f9ff"), ("assistant", "ok")]), words)
    assert words.parts.unknown_id in found.token_ids


def test_lower_casing_word_piece_says_by_name_why_nothing_is_compared() -> None:
    words = Vocabulary(word_piece())
    assert not words.round_trips
    assert words.notes[-1] == "decoding is not compared with the text: WordPiece does not keep white space"


def test_rstrip_tokens_take_the_newline_as_the_stock_tokenizer_does() -> None:
    tokenizer_json = with_flags(byte_level(), "<|im_end|>", rstrip=True)
    words = Vocabulary(tokenizer_json)
    view = chatml([("user", "hi"), ("assistant", "yes")])
    found = tokens_of(view, words)
    assert found.token_ids.tolist() == Tokenizer.from_str(tokenizer_json).encode(view.rendered.text).ids


def test_ids_that_decode_to_other_text_are_refused() -> None:
    words = Vocabulary(byte_level())
    good = words.encode
    segments = cut(rendered(("hello", 0, "content")), [], set(), words.cut_rules, ControlTokens.ESCAPE)
    other = good(["jello"], [False])
    words.encode = lambda texts, prefixed: other  # type: ignore[method-assign]
    (found,) = tokenize([segments], words)
    assert found == RoundTripMismatch(0, "decodes to other text; the tokenizer has no ids for it, remove it")


def test_one_text_that_fails_leaves_the_others_of_its_batch() -> None:
    words = Vocabulary(byte_level())
    texts = [rendered(("hello", 0, "content")), rendered("<|im_start|>", ("world", 0, "content"))]
    segments = [cut(text, [], set(), words.cut_rules, ControlTokens.ESCAPE) for text in texts]
    good = words.encode
    words.encode = lambda texts, prefixed: good(["jello", *texts[1:]], prefixed)  # type: ignore[method-assign]
    bad, fine = tokenize(segments, words)
    assert isinstance(bad, RoundTripMismatch)
    assert isinstance(fine, TokenizedText)


def test_a_control_token_from_ordinary_text_is_refused_though_it_decodes_alike() -> None:
    words = Vocabulary(byte_level())
    end = words.table.by_content["<|im_end|>"].id
    segments = cut(rendered(("<|im_end|>", 0, "content")), [], set(), words.cut_rules, ControlTokens.ESCAPE)
    stolen = words.encode(["x"], [False])
    stolen.ids[:] = end
    words.encode = lambda texts, prefixed: stolen  # type: ignore[method-assign]
    (found,) = tokenize([segments], words)
    assert found == RoundTripMismatch(0, "gives a control token; report this tokenizer")


def texts_that_begin_alike(words: Vocabulary, user: str, replies: tuple[str, str]) -> list[Segments]:
    """Two examples of one conversation, cut as `trajectory.cuts` cuts them: what they share is the same objects."""
    cuts = []
    for reply in replies:
        view = chatml([("user", user), ("assistant", "yes"), ("user", reply)])
        cuts.append(cut(view.rendered, [view.message_spans[1].start], {1}, words.cut_rules, ControlTokens.ESCAPE))
    first, second = cuts
    for at, (one, other) in enumerate(zip(first.texts, second.texts, strict=False)):
        if one != other:
            break
        second.texts[at] = one
    second.shares = True
    return cuts


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(user=TEXTS, one=TEXTS, other=TEXTS)
def test_rows_that_share_pieces_are_those_of_each_alone(family: str, user: str, one: str, other: str) -> None:
    words = vocabulary(family)
    together = tokenize(texts_that_begin_alike(words, user, (one, other)), words)
    for found, segments in zip(together, texts_that_begin_alike(words, user, (one, other)), strict=True):
        segments.shares = False
        (alone,) = tokenize([segments], words)
        if isinstance(alone, RoundTripMismatch):
            assert found == alone
            continue
        assert isinstance(found, TokenizedText)
        assert found.token_ids.tolist() == alone.token_ids.tolist()
        assert found.slot_tokens == alone.slot_tokens
        row = WeightedTokens(alone.token_ids, [(1, len(alone.token_ids), 1.0)])
        assert trained_bytes(found, row, words) == trained_bytes(alone, row, words)


def test_rows_that_share_pieces_are_compared_with_their_texts() -> None:
    words = Vocabulary(byte_level())
    good, begun = words.encode, texts_that_begin_alike(words, "hello", ("a", "b"))
    words.encode = lambda texts, prefixed: good(["jello", *texts[1:]], prefixed)  # type: ignore[method-assign]
    assert [type(found) for found in tokenize(begun, words)] == [RoundTripMismatch] * 2
    words.encode = good  # type: ignore[method-assign]
    begun[1].utf8 += b"x"  # as if a piece of it were missing
    assert [type(found) for found in tokenize(begun, words)] == [TokenizedText] * 2  # each looked at closely
    assert [found.byte_ends for found in tokenize(begun, words) if isinstance(found, TokenizedText)] == [None, None]


def test_an_empty_batch_gives_nothing() -> None:
    assert tokenize([], vocabulary("byte_level")) == []


def test_targets_are_tokens_shifted_by_one() -> None:
    assert target_runs([(2, 4, 1.0), (4, 5, 0.5)], 6) == ((1, 0.0), (2, 1.0), (1, 0.5), (1, 0.0))
    assert target_runs([(0, 2, 1.0)], 2) == ((1, 1.0),)
    assert target_runs([(0, 1, 1.0)], 3) == ((2, 0.0),)
    assert target_runs([(1, 2, 1.0), (2, 3, 1.0)], 3) == ((2, 1.0),)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.sampled_from([0.5, 1.0])), max_size=6),
    st.integers(0, 3),
)
def test_target_runs_are_the_weights_without_the_first(gaps: list[tuple[int, int, float]], tail: int) -> None:
    spans, position = [], 0
    for gap, length, weight in gaps:
        spans.append((position + gap, position + gap + length, weight))
        position += gap + length
    size = max(position + tail, 2)
    weights = np.zeros(size)
    for start, end, weight in spans:
        weights[start:end] = weight
    runs = target_runs(spans, size)
    assert np.repeat([value for _, value in runs], [length for length, _ in runs]).tolist() == weights[1:].tolist()
    assert all(left[1] != right[1] for left, right in pairwise(runs))


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_bytes_are_those_of_the_trained_text(family: str) -> None:
    words = vocabulary(family)
    view = chatml([("user", "hello"), ("assistant", "the quick brown fox")])
    found = tokens_of(view, words)
    span = view.message_spans[1]
    spans = token_spans(found, [(span.start, span.end, 1.0)], words)
    assert trained_bytes(found, WeightedTokens(found.token_ids, spans), words) == len("the quick brown fox<|im_end|>")


def test_every_special_token_of_the_small_tokenizers_is_known() -> None:
    assert set(SPECIAL) <= set(vocabulary("byte_level").table.by_content)
    assert Vocabulary(sentence_piece()).table.by_content["</s>"].special
