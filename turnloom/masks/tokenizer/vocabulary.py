"""One tokenizer: segments to ids, ids to bytes, and where tokens begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Final

import numpy as np
import tokenizers
from numpy.typing import NDArray

from turnloom.masks.domain.errors import ModelNotUsable
from turnloom.masks.domain.memory import return_freed_memory
from turnloom.masks.tokenizer.control_tokens import ControlTokenTable
from turnloom.masks.tokenizer.encoders import EncodedPieces, Encoder, proved_encoder
from turnloom.masks.tokenizer.probe_texts import probe_corpus
from turnloom.masks.tokenizer.segments import CutRules
from turnloom.masks.tokenizer.tokenizer_json import META_SPACE, Parts, Prefix, take_apart

#: Texts that a tokenizer must give back unless known to lose text: DeepSeek's, loaded the wrong way, loses spaces.
WORD: Final = 8  #: bytes compared at a time; 98 % of the tokens of a text have no more
ROUND_TRIPS: Final = ("a b", "Hello  world", "a\nb", "x = 1", "it's 3.5")


class Vocabulary:
    """A tokenizer.json, loaded. Safe to share between threads that only encode and decode.

    Raises:
        ModelNotUsable: it can't be read, ordinary text gives a control token, or decoding loses what it should not.
    """

    def __init__(self, tokenizer_json: str) -> None:
        try:
            # One tokenizer in memory at a time: Qwen3's takes 100 MB.
            stock_rows, stock_ids = _stock_rows(tokenizer_json)
            return_freed_memory()
            self.parts: Parts = take_apart(tokenizer_json)
            names = [token.content for token in self.parts.control_tokens]
            probes = [text for name in names for text in (name, f" {name}\n", f"{name}{name}", f"a{name}b")]
            self.encoder, note = proved_encoder(self.parts.plain, probes)
            self._prefixed: Encoder | None = None
            if self.parts.prefixed is not None:
                self._prefixed, _ = proved_encoder(self.parts.prefixed, probes)
        # `tokenizers` raises plain Exception for a file that it can't read.
        except Exception as error:
            raise ModelNotUsable(f"tokenizer.json can't be used: {error}; prepare the model again") from error
        self.table = ControlTokenTable(self.parts.control_tokens)
        self._keep_bytes()
        self.cut_rules = CutRules(self.table, self.parts.prefix, self.parts.prefix_after_normalized)
        self.notes: tuple[str, ...] = (note,) if note else ()
        if self.parts.lossy:
            self.notes += (f"decoding is not compared with the text: {self.parts.lossy}",)
        self.stock_json = tokenizer_json  #: as it was given
        self._check_added_ids(stock_ids)
        self._check_control_tokens(probes)
        self._check_against_stock(stock_rows)
        self._check_round_trips()

    def _keep_bytes(self) -> None:
        """Keep what ids decode to as three arrays: 150,000 small objects would slow down every garbage collection."""
        decoded = [*(self.parts.token_bytes or ())]
        decoded += [b""] * (self.size - len(decoded))
        for token in self.parts.control_tokens:
            decoded[token.id] = token.content.encode()
        #: UTF-8 bytes that each id decodes to, shape (size,)
        self.byte_lengths: NDArray[np.int32] = np.array([len(one) for one in decoded], dtype=np.int32)
        self._byte_starts = np.cumsum(self.byte_lengths, dtype=np.int32) - self.byte_lengths
        self._all_bytes = np.frombuffer(b"".join(decoded), dtype=np.uint8)
        #: the first WORD bytes of each id as one integer, the missing ones 0, shape (size,)
        self._words = np.frombuffer(b"".join([one[:WORD].ljust(WORD, b"\0") for one in decoded]), dtype="<u8")
        longest = max(WORD, int(self.byte_lengths.max(initial=0)))
        #: by length: which bits of a word a token of that many bytes fills
        self._masks = np.array([(1 << 8 * min(size, WORD)) - 1 for size in range(longest + 1)], dtype=np.uint64)
        self.parts = replace(self.parts, token_bytes=None)

    def encode(self, segments: Sequence[str], prefixed: Sequence[bool]) -> EncodedPieces:
        """Encode every piece, with the stock tokenizer's prefix space where `prefixed` says so."""
        if self._prefixed is None or not any(prefixed):
            return self.encoder.encode(segments)
        flags = np.array(prefixed, dtype=bool)
        halves = (
            self.encoder.encode([piece for piece, flag in zip(segments, prefixed, strict=True) if not flag]),
            self._prefixed.encode([piece for piece, flag in zip(segments, prefixed, strict=True) if flag]),
        )
        lengths = np.empty(len(segments), dtype=np.int64)
        lengths[~flags], lengths[flags] = halves[0].lengths, halves[1].lengths
        of_prefixed = np.repeat(flags, lengths)
        ids = np.empty(int(lengths.sum()), dtype=np.int32)
        ids[~of_prefixed], ids[of_prefixed] = halves[0].ids, halves[1].ids
        return EncodedPieces(ids, lengths)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return self.parts.size

    @property
    def round_trips(self) -> bool:
        """Whether decoding gives back the normalized text."""
        return not self.parts.lossy

    @cached_property
    def _reserved(self) -> NDArray[np.bool_]:
        size = (
            max([*self.table.by_id, len(self.byte_lengths)], default=0) + 2
        )  # the last entry answers for all larger ids
        reserved = np.zeros(size, dtype=np.bool_)
        reserved[[index for index in self.table.by_id if index != self.parts.unknown_id]] = True
        return reserved

    def reserved(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Return which of these ids are control tokens, that of unknown text aside; shape of ids."""
        return self._reserved.take(ids)

    def decode(self, ids: NDArray[np.int32]) -> bytes:
        """Decode ids to UTF-8 bytes; a control token gives its name. An id of no token raises IndexError."""
        return bytes(_gathered(self._all_bytes, self._byte_starts.take(ids), self.byte_lengths.take(ids)))

    def byte_ends(self, ids: NDArray[np.int32], utf8: bytes) -> NDArray[np.int64] | None:
        """Compare what ids decode to with a text, without decoding.

        Returns:
            Where each id's bytes end in `utf8`, shape of ids; None where the ids decode to another text.
        """
        lengths = self.byte_lengths.take(ids)
        ends = np.cumsum(lengths, dtype=np.int64)
        if (int(ends[-1]) if len(ends) else 0) != len(utf8):
            return None
        text = np.frombuffer(utf8 + bytes(WORD), dtype=np.uint8)
        # A word begins at every byte, so that the start of each token is one load and one comparison.
        words: NDArray[np.uint64] = np.ndarray((len(utf8) + 1,), dtype="<u8", buffer=text, strides=(1,))
        starts = ends - lengths
        found = words[starts]  # take() would copy all of an unaligned array
        found &= self._masks.take(lengths)
        if not np.array_equal(found, self._words.take(ids)):
            return None
        long = np.flatnonzero(lengths > WORD)
        if len(long) and bytes(_gathered(text, starts[long], lengths[long])) != self.decode(ids[long]):
            return None
        return ends

    def token_text(self, index: int) -> bytes:
        """Return what one id decodes to; for a lossy tokenizer its entry in the vocabulary."""
        if self.round_trips or index in self.table.by_id:
            return self.decode(np.array([index], dtype=np.int32))
        return str(self._plain.id_to_token(index)).encode()

    def expected(self, piece: str, prefixed: bool) -> bytes:
        """Return what the ids of a piece must decode to: its text, normalized, with the prefix space."""
        normalizer = self._prefixed_normalizer if prefixed else self._normalizer
        text: str = piece if normalizer is None else normalizer.normalize_str(piece)
        if not self.parts.byte_level:
            text = text.replace(META_SPACE, " ")
        if prefixed and self.parts.prefix_after_normalized and not text.startswith(" "):
            text = " " + text
        return text.encode()

    def token_starts(self, piece: str, prefixed: bool, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the character of `piece` in which each of its tokens begins, shape (tokens,), ascending."""
        if (
            self.parts.byte_level
            and not prefixed
            and (piece.isascii() or self.expected(piece, False) == piece.encode())
        ):
            lengths = self.byte_lengths[ids]
            first_bytes = np.cumsum(lengths) - lengths
            if piece.isascii():
                return first_bytes
            leads = (np.frombuffer(piece.encode(), dtype=np.uint8) & 0xC0) != 0x80
            return np.asarray(np.cumsum(leads)[first_bytes] - 1, dtype=np.int64)
        encoding = (self._with_prefix if prefixed else self._plain).encode(piece, add_special_tokens=False)
        return np.array([start for start, _ in encoding.offsets], dtype=np.int64)

    @cached_property
    def stock(self) -> tokenizers.Tokenizer:
        """The tokenizer as it came, loaded when first asked for."""
        return _stock(self.stock_json)

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.parts.plain)

    @cached_property
    def _with_prefix(self) -> tokenizers.Tokenizer:
        assert self.parts.prefixed is not None, "asked for only where segments have a prefix"
        return tokenizers.Tokenizer.from_str(self.parts.prefixed)

    @cached_property
    def _normalizer(self) -> tokenizers.normalizers.Normalizer | None:
        return _normalizer(self.parts.normalizer)

    @cached_property
    def _prefixed_normalizer(self) -> tokenizers.normalizers.Normalizer | None:
        return _normalizer(self.parts.prefixed_normalizer)

    def _check_added_ids(self, stock_ids: Mapping[str, int]) -> None:
        """Check ids of added tokens: `tokenizers` takes the vocabulary's where it has one, whatever the file says."""
        for token in self.parts.control_tokens:
            there = stock_ids.get(token.content, token.id)
            if there != token.id:
                raise ModelNotUsable(
                    f"tokenizer.json: the added token {token.content!r} has the id {token.id} there, but tokenizers"
                    f" gives it {there}, by which the vocabulary knows it; set its id to the one that the model was"
                    " trained with"
                )

    def _check_control_tokens(self, probes: Sequence[str]) -> None:
        for flag in (False, True) if self._prefixed is not None else (False,):
            found = set(self.encode(probes, [flag] * len(probes)).ids.tolist()) & set(self.table.by_id)
            found.discard(-1 if self.parts.unknown_id is None else self.parts.unknown_id)
            if found:
                name = self.table.by_id[found.pop()].content
                raise ModelNotUsable(
                    f"tokenizer.json: ordinary text gives the control token {name!r}, so users could end a turn; use "
                    "a tokenizer whose vocabulary keeps control tokens out of reach of text"
                )

    def _check_against_stock(self, stock_rows: Mapping[str, Sequence[int]]) -> None:
        """Check that text without control tokens gets the stock tokenizer's ids, as prompts at inference do."""
        texts = [text for text in stock_rows if not self.table.find(text, 0, len(text))]
        found = self.encode(texts, [self.parts.prefix is not Prefix.NEVER] * len(texts))
        rows = np.split(found.ids, np.cumsum(found.lengths)[:-1])
        for text, ids in zip(texts, rows, strict=True):
            if stock_rows[text] != ids.tolist():
                raise ModelNotUsable(
                    f"tokenizer.json: {text[:40]!r} gets other ids as a piece than the stock tokenizer gives it; "
                    "this kind of tokenizer can't be used exactly"
                )

    def _check_round_trips(self) -> None:
        if not self.round_trips:
            return
        for text in ROUND_TRIPS:
            encoded = self.encode([text], [False])
            decoded = self.decode(encoded.ids)
            if decoded != self.expected(text, False) and self.parts.unknown_id not in encoded.ids:
                raise ModelNotUsable(
                    f"tokenizer.json: {text!r} decodes to {decoded.decode(errors='replace')!r}, so text would be lost; "
                    "prepare the model again from its original tokenizer"
                )


def _gathered(source: NDArray[np.uint8], starts: NDArray[np.integer], lengths: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return source[start : start + length] of every pair, end to end."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return source.take(np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0))


def _stock(tokenizer_json: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None  # it shifts offsets and adds special tokens, which templates print themselves
    return tokenizer


def _stock_rows(tokenizer_json: str) -> tuple[dict[str, Sequence[int]], dict[str, int]]:
    """Return the stock tokenizer's ids for each probe text, and the ids of added tokens in the vocabulary."""
    texts = probe_corpus()
    stock = _stock(tokenizer_json)
    rows = stock.encode_batch_fast(list(texts), add_special_tokens=False)
    names = [token.content for token in stock.get_added_tokens_decoder().values()]
    known = {name: index for name in names if (index := stock.model.token_to_id(name)) is not None}
    return {text: row.ids for text, row in zip(texts, rows, strict=True)}, known


def _normalizer(tokenizer_json: str) -> tokenizers.normalizers.Normalizer | None:
    normalizer: tokenizers.normalizers.Normalizer | None = tokenizers.Tokenizer.from_str(tokenizer_json).normalizer
    return normalizer
