"""Encode cut texts into token ids with aligned target weights.

The one shift from tokens to targets is here: `target_runs`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from turnloom.masks.domain.example import TokenSpan, WeightedTokens, WeightRuns
from turnloom.masks.domain.rendered_text import WeightSpan
from turnloom.masks.tokenizer.control_tokens import WHITE_SPACE
from turnloom.masks.tokenizer.encoders import EncodedPieces
from turnloom.masks.tokenizer.segments import TEXT, Segments
from turnloom.masks.tokenizer.vocabulary import Vocabulary


class TokenizedText(NamedTuple):
    """The ids of one text, and where its slots begin; arrays are views of those of the whole batch."""

    segments: Segments
    token_ids: NDArray[np.int32]  #: shape (N,)
    slot_tokens: Sequence[int]  #: index of the first token of each slot, ascending, and N at the end
    #: where each token's bytes end, counted from anywhere before the text; None where not known. Shape (N,)
    byte_ends: NDArray[np.int64] | None = None
    starts: NDArray[np.int64] | None = None  #: character in which each token begins, where an encoder told them all
    unknown: bool = True  #: whether the token of unknown text may be among them


class RoundTripMismatch(NamedTuple):
    """Why the ids of one text can't be trusted."""

    character: int  #: of the text, where it begins
    reason: str  #: what its ids do there, and what to do; quotes no text


def tokenize(texts: Sequence[Segments], vocabulary: Vocabulary) -> list[TokenizedText | RoundTripMismatch]:
    """Encode many cut texts with one call of the encoder, and check every one of them.

    Returns:
        One entry per text, in order: its tokens, or why they can't be trusted.
    """
    said = list(chain.from_iterable([segments.texts for segments in texts]))
    prefixed = list(chain.from_iterable([segments.prefixed for segments in texts]))
    once = _once(said) if any(segments.shares for segments in texts) and not any(prefixed) else None
    encoded = vocabulary.encode(said, prefixed) if once is None else vocabulary.encode(once.texts, ())
    slots = np.fromiter(chain.from_iterable([segments.slots for segments in texts]), dtype=np.int32)
    is_text = slots == TEXT
    lengths = np.ones(len(slots), dtype=np.int64)
    lengths[is_text] = encoded.lengths if once is None else encoded.lengths[once.places]
    bounds = np.concatenate(([0], np.cumsum(lengths)))
    if once is None:
        ids = np.empty(int(bounds[-1]), dtype=np.int32)
        from_text = np.repeat(is_text, lengths)
        ids[from_text] = encoded.ids
        ids[~from_text] = slots[~is_text]
    else:
        ids = _spread(encoded, once, slots, lengths, bounds[:-1])
    counts = [len(segments.slots) for segments in texts]
    first_slots = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    firsts = bounds[first_slots]  # of the texts, and the end
    slot_tokens: list[int] = (bounds[:-1] - np.repeat(firsts[:-1], counts)).tolist()
    if once is None:
        byte_ends = _byte_ends(ids, encoded.ids, texts, vocabulary)
    else:
        byte_ends = _byte_ends_of_shared(ids, encoded.ids, once, texts, firsts, vocabulary)
    unknown = vocabulary.parts.unknown_id is not None and bool((ids == vocabulary.parts.unknown_id).any())
    rows: list[TokenizedText] = []
    places = zip(pairwise(first_slots.tolist()), pairwise(firsts.tolist()), strict=True)
    for segments, ((slot, next_slot), (first, end)) in zip(texts, places, strict=True):
        ends = None if byte_ends is None else byte_ends[first:end]
        slots_of_text = [*slot_tokens[slot:next_slot], end - first]
        rows.append(TokenizedText(segments, ids[first:end], slots_of_text, ends, None, unknown))
    return list(rows) if byte_ends is not None else [_checked(row, vocabulary) for row in rows]


def _byte_ends(
    ids: NDArray[np.int32], from_text: NDArray[np.int32], texts: Sequence[Segments], vocabulary: Vocabulary
) -> NDArray[np.int64] | None:
    """Return where each token's bytes end, if all texts decode to themselves and no ordinary text gave a control token.

    None means that every text needs a closer look: most are right all the same, by a normalizer's account.
    """
    if not vocabulary.round_trips or vocabulary.reserved(from_text).any():
        return None
    return vocabulary.byte_ends(ids, b"".join([segments.utf8 for segments in texts]))


class _Once(NamedTuple):
    """The pieces of ordinary text of many rows, those that several rows share once."""

    texts: Sequence[str]
    places: NDArray[np.int64]  #: of every piece of every row among them, in order


def _once(texts: Sequence[str]) -> _Once:
    """Return the pieces, each object once."""
    ids = [id(text) for text in texts]
    known = dict(zip(ids, texts, strict=True))
    places = dict(zip(known, range(len(known)), strict=True))
    return _Once(list(known.values()), np.array([places[one] for one in ids], dtype=np.int64))


def _spread(
    encoded: EncodedPieces,
    once: _Once,
    slots: NDArray[np.int32],
    lengths: NDArray[np.int64],
    bounds: NDArray[np.int64],
) -> NDArray[np.int32]:
    """Return the ids of all slots, in order: `lengths` and `bounds` say how many each has, and where they begin."""
    is_text = slots == TEXT
    # Where each slot's ids begin: those of the pieces come first, then the control tokens.
    begins = np.empty(len(slots), dtype=np.int64)
    begins[is_text] = (np.cumsum(encoded.lengths) - encoded.lengths)[once.places]
    begins[~is_text] = len(encoded.ids) + np.arange(len(slots) - len(once.places))
    index = np.repeat(begins - bounds, lengths)
    index += np.arange(len(index))
    return np.concatenate((encoded.ids, slots[~is_text])).take(index)


def _byte_ends_of_shared(
    ids: NDArray[np.int32],
    from_text: NDArray[np.int32],
    once: _Once,
    texts: Sequence[Segments],
    firsts: NDArray[np.int64],
    vocabulary: Vocabulary,
) -> NDArray[np.int64] | None:
    """Return what `_byte_ends` does. Each piece is compared with its ids once; of rows, that they are complete."""
    if not vocabulary.round_trips or vocabulary.reserved(from_text).any():
        return None
    if vocabulary.byte_ends(from_text, "".join(once.texts).encode()) is None:
        return None
    ends = np.cumsum(vocabulary.byte_lengths.take(ids), dtype=np.int64)
    totals = np.where(firsts > 0, ends[firsts - 1], 0)
    wanted = np.array([len(segments.utf8) for segments in texts], dtype=np.int64)
    return ends if np.array_equal(np.diff(totals), wanted) else None


def _checked(row: TokenizedText, vocabulary: Vocabulary) -> TokenizedText | RoundTripMismatch:
    """Look at one text closely: normalized as the tokenizer normalizes it, its ids must decode to it."""
    segments = row.segments
    expected: list[bytes] = []
    texts = iter(zip(segments.texts, segments.prefixed, strict=True))
    for slot, start, (first, end) in zip(segments.slots, segments.starts, pairwise(row.slot_tokens), strict=True):
        if slot != TEXT:
            expected.append(vocabulary.table.by_id[slot].content.encode())
            continue
        text, prefixed = next(texts)
        if vocabulary.reserved(row.token_ids[first:end]).any():
            return RoundTripMismatch(start, "gives a control token; report this tokenizer")
        expected.append(vocabulary.expected(text, prefixed) if vocabulary.round_trips else b"")
    if not vocabulary.round_trips or vocabulary.parts.unknown_id in row.token_ids:
        return row
    wanted, found = b"".join(expected), vocabulary.decode(row.token_ids)
    if wanted == found:
        return row
    differences = (at for at, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1])
    same = next(differences, min(len(wanted), len(found)))
    slot_ends = list(accumulate(len(one) for one in expected))
    slot = min(bisect_right(slot_ends, same), len(slot_ends) - 1)
    inside = expected[slot][: max(0, same - slot_ends[slot] + len(expected[slot]))].decode(errors="ignore")
    start, end = segments.starts[slot], [*segments.starts[1:], len(segments.whole)][slot]
    unchanged = segments.whole[start:end].startswith(inside)  # else the normalizer moved characters
    return RoundTripMismatch(
        min(start + len(inside), end - 1) if unchanged else start,
        "decodes to other text; the tokenizer has no ids for it, remove it",
    )


def tokenize_as_stock(text: str, vocabulary: Vocabulary) -> TokenizedText:
    """Encode a text as the stock tokenizer does: control tokens match wherever they are spelled."""
    encoding = vocabulary.stock.encode(text, add_special_tokens=False)
    segments, slot_tokens = Segments(text), list[int]()
    for index, (token, (start, end)) in enumerate(zip(encoding.ids, encoding.offsets, strict=True)):
        control = vocabulary.table.by_id.get(token)
        if control is not None and control.content == text[start:end].strip(WHITE_SPACE):
            segments.starts.append(start)
            segments.slots.append(token)
        elif not segments.slots or segments.slots[-1] != TEXT:
            segments.starts.append(start)
            segments.slots.append(TEXT)
        else:
            continue
        slot_tokens.append(index)
    return TokenizedText(
        segments,
        np.array(encoding.ids, dtype=np.int32),
        [*slot_tokens, len(encoding.ids)],
        starts=np.array([start for start, _ in encoding.offsets], dtype=np.int64),
    )


def token_starts(row: TokenizedText, vocabulary: Vocabulary) -> NDArray[np.int64]:
    """Return the character in which each token begins, shape (N,), ascending."""
    if row.starts is not None:
        return row.starts
    starts = np.empty(len(row.token_ids), dtype=np.int64)
    texts = iter(zip(row.segments.texts, row.segments.prefixed, strict=True))
    for slot, at, (first, end) in zip(row.segments.slots, row.segments.starts, pairwise(row.slot_tokens), strict=True):
        starts[first:end] = at
        if slot == TEXT:
            starts[first:end] += vocabulary.token_starts(*next(texts), row.token_ids[first:end])
    return starts


def token_spans(row: TokenizedText, spans: Sequence[WeightSpan], vocabulary: Vocabulary) -> list[TokenSpan]:
    """Turn weighted characters into weighted tokens: a token has the weight of its first character."""
    found = [
        (_token_at(row, start, vocabulary), _token_at(row, end, vocabulary), weight) for start, end, weight in spans
    ]
    return [span for span in found if span[0] < span[1]]


def _token_at(row: TokenizedText, character: int, vocabulary: Vocabulary) -> int:
    """Return the first token that begins at or after a character; N behind the last one."""
    if row.starts is not None:
        return int(np.searchsorted(row.starts, character))
    starts = row.segments.starts
    slot = bisect_left(starts, character)
    if slot < len(starts) and starts[slot] == character:
        return row.slot_tokens[slot]
    slot -= 1  # the character lies inside this slot, or behind its first character
    if slot < 0 or row.segments.slots[slot] != TEXT or character >= len(row.segments.whole):
        return row.slot_tokens[slot + 1]
    first, end = row.slot_tokens[slot], row.slot_tokens[slot + 1]
    text = row.segments.slots[:slot].count(TEXT)
    inside = vocabulary.token_starts(row.segments.texts[text], row.segments.prefixed[text], row.token_ids[first:end])
    return first + int(np.searchsorted(inside, character - starts[slot]))


def target_runs(spans: Sequence[TokenSpan], tokens: int) -> WeightRuns:
    """Shift the weights of a row's tokens to its targets. Target t is token t + 1, and token 0 is never a target.

    Args:
        spans: weighted tokens, in order and disjoint.
        tokens: tokens of the row, N >= 2.

    Returns:
        Runs of equal weight whose lengths sum to N - 1.
    """
    runs: list[tuple[int, float]] = []
    position = 1
    for start, end, weight in (*spans, (tokens, tokens, 0.0)):
        if start > position:
            runs.append((start - position, 0.0))
            position = start
        if end > position:
            length = end - position
            if runs and runs[-1][1] == weight:
                length += runs.pop()[0]
            runs.append((length, weight))
            position = end
    return tuple(runs)


def trained_bytes(text: TokenizedText, row: WeightedTokens, vocabulary: Vocabulary) -> int:
    """Count the UTF-8 bytes of the text that targets with weight stand for."""
    spans = [(max(start, 1), end) for start, end, _ in row.spans]
    if text.byte_ends is not None:
        at, behind = text.byte_ends.item, row.first - 1  # nothing is trained before token 1: no index is negative
        return sum([at(behind + end) - at(behind + start) for start, end in spans if start < end])
    if vocabulary.round_trips:
        lengths = vocabulary.byte_lengths
        return sum(int(np.add.reduce(lengths.take(row.token_ids[start:end]))) for start, end in spans)
    starts, ends = token_starts(text, vocabulary), _token_ends(text, vocabulary)
    shown = [(starts[row.first + start], ends[row.first + end - 1]) for start, end in spans if start < end]
    return sum(len(text.segments.whole[start:end].encode()) for start, end in shown)


def _token_ends(row: TokenizedText, vocabulary: Vocabulary) -> NDArray[np.int64]:
    ends = np.append(token_starts(row, vocabulary)[1:], len(row.segments.whole))
    slot_ends = [*row.segments.starts[1:], len(row.segments.whole)]
    for (first, end), at in zip(pairwise(row.slot_tokens), slot_ends, strict=True):
        if first < end:  # what follows may be text that no token shows
            ends[end - 1] = at
    return ends
