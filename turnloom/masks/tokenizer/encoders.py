"""Encode pieces of text into token ids.

`proved_encoder` returns the fast encoder only where it is proved identical to Hugging Face's `tokenizers`. The proof
runs at load, on a corpus of hard text, for this very vocabulary. Otherwise it returns the latter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Protocol

import fastokens
import numpy as np
import tokenizers
from numpy.typing import NDArray

from turnloom.masks.domain.memory import return_freed_memory
from turnloom.masks.tokenizer.probe_texts import probe_corpus


@dataclass(frozen=True, slots=True)
class EncodedPieces:
    """The ids of many segments, end to end."""

    ids: NDArray[np.int32]  #: shape (sum of lengths,)
    lengths: NDArray[np.int64]  #: shape (segments,), tokens of each piece


class Encoder(Protocol):
    """Encodes each piece on its own, as if it were a whole text."""

    @property
    def name(self) -> str:
        """Library and version, for people."""

    def encode(self, segments: Sequence[str]) -> EncodedPieces:
        """Encode every piece; an empty piece gives no ids."""


class HuggingFaceEncoder:
    """The reference: the `tokenizers` library."""

    def __init__(self, tokenizer_json: str) -> None:
        self.name = f"tokenizers {version('tokenizers')}"
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json)

    def encode(self, segments: Sequence[str]) -> EncodedPieces:
        """Encode every piece; an empty piece gives no ids."""
        rows = [row.ids for row in self._tokenizer.encode_batch_fast(list(segments), add_special_tokens=False)]
        flat = [index for row in rows for index in row]
        return EncodedPieces(np.array(flat, dtype=np.int32), np.array([len(row) for row in rows], dtype=np.int64))


class FastEncoder:
    """fastokens: about 50 times as fast, without offsets; supports part of what `tokenizers` does."""

    def __init__(self, tokenizer_json: str) -> None:
        self.name = f"fastokens {version('fastokens')}"
        self._tokenizer = fastokens.Tokenizer.from_json_str(tokenizer_json)

    def encode(self, segments: Sequence[str]) -> EncodedPieces:
        """Encode every piece; an empty piece gives no ids."""
        flat, offsets = self._tokenizer.encode_batch_flat(list(segments))
        bounds = np.frombuffer(offsets, dtype="<u8").astype(np.int64)
        return EncodedPieces(np.frombuffer(flat, dtype="<u4").astype(np.int32), np.diff(bounds))


def proved_encoder(tokenizer_json: str, extra_probes: Sequence[str] = ()) -> tuple[Encoder, str]:
    """Return the fast encoder where every probe gives the reference's ids, else the reference, and why.

    Args:
        tokenizer_json: the tokenizer, as `tokenizer.json` holds it.
        extra_probes: texts of this vocabulary to be probed too, such as its control tokens' names.

    Returns:
        The encoder, and a sentence for the log: "" where the fast one is used.
    """
    probes = [*probe_corpus(), *extra_probes]
    name, expected = _expected(tokenizer_json, probes)
    return_freed_memory()
    try:
        fast = FastEncoder(tokenizer_json)
        return_freed_memory()
        proved = _gives(fast, probes, expected)
    # A vocabulary that the library does not support may panic in Rust, which raises a BaseException.
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        why = f"fastokens does not support this tokenizer ({_first_line(error)}); {name} encodes"
        return HuggingFaceEncoder(tokenizer_json), why
    if proved:
        return fast, ""
    reference = HuggingFaceEncoder(tokenizer_json)
    different = _first_difference(fast, reference, probes)
    return reference, f"{fast.name} gives other ids than {name} for {different!r}; {name} encodes"


def _expected(tokenizer_json: str, probes: Sequence[str]) -> tuple[str, EncodedPieces]:
    """Return the reference's name and ids, freeing it before the fast encoder is loaded: Qwen3's takes 100 MB."""
    reference = HuggingFaceEncoder(tokenizer_json)
    return reference.name, reference.encode(probes)


def _gives(fast: Encoder, probes: Sequence[str], expected: EncodedPieces) -> bool:
    rounds = (fast.encode(probes) for _ in range(2))  # the second is answered from the fast encoder's cache
    return all(
        np.array_equal(found.ids, expected.ids) and np.array_equal(found.lengths, expected.lengths) for found in rounds
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _first_difference(fast: Encoder, reference: Encoder, probes: Sequence[str]) -> str:
    for probe in probes:
        if not np.array_equal(fast.encode([probe]).ids, reference.encode([probe]).ids):
            return probe if len(probe) <= 80 else probe[:80] + "..."
    return "the probes as one batch"
