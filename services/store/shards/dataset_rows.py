r"""Rows of a dataset: their contract and their part in the address.

The address of a dataset is taken over the options and every row's little-endian values, never over file bytes. So
writers, batch sizes and where shards are cut don't change it:

    sha256(b"turnloom-dataset-2\n" + canonical JSON of the options + b"\n" + digest of each row, 32 bytes)
    digest = sha256(conversation u4, part u4, number of tokens u4, number of runs u4, target_bytes u4,
                    token_ids i4[...], run_lengths u4[...], run_values f4[...])

Shards keep the digests of their rows, so a dataset's address is known without reading its rows again. Datasets made
before have the same over the rows themselves, behind b"turnloom-dataset-1\n".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

DIGEST_BYTES: Final = 32
Runs: TypeAlias = Sequence[tuple[int, float]]  #: (targets, their weight), end to end


def canonical_json(value: Mapping[str, object]) -> str:
    """Encode as JSON with sorted keys, no spaces, text as it is: the same options always give the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@dataclass(frozen=True, slots=True)
class Row:
    """One training row; `run_lengths` sum to len(token_ids) - 1 targets."""

    conversation: int  #: position among the rows that were wanted of the dataset's source, from 0
    part: int  #: 0.. where one conversation gives several rows
    token_ids: NDArray[np.int32]  #: shape (N,), N >= 2
    run_lengths: NDArray[np.uint32]  #: shape (R,)
    run_values: NDArray[np.float32]  #: shape (R,), weight of each run, finite, >= 0
    target_bytes: int  #: UTF-8 bytes of the trained text

    def target_weights(self) -> NDArray[np.float32]:
        """Expand the runs: shape (N - 1,)."""
        return np.repeat(self.run_values, self.run_lengths)


@dataclass(frozen=True, slots=True)
class Columns:
    """Many rows, column by column."""

    conversation: NDArray[np.uint32]  #: shape (rows,)
    part: NDArray[np.uint16]  #: shape (rows,)
    target_bytes: NDArray[np.uint32]  #: shape (rows,)
    tokens: NDArray[np.int32]  #: of all rows, end to end
    token_ends: NDArray[np.int32]  #: shape (rows + 1,), from 0: where each row's begin and end
    lengths: NDArray[np.uint32]  #: of the runs of all rows, end to end
    values: NDArray[np.float32]  #: likewise
    run_ends: NDArray[np.int32]  #: shape (rows + 1,), from 0

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.conversation)

    def row(self, index: int) -> Row:
        """Return one row; its arrays are views."""
        tokens = slice(self.token_ends[index], self.token_ends[index + 1])
        runs = slice(self.run_ends[index], self.run_ends[index + 1])
        return Row(
            conversation=int(self.conversation[index]),
            part=int(self.part[index]),
            token_ids=self.tokens[tokens],
            run_lengths=self.lengths[runs],
            run_values=self.values[runs],
            target_bytes=int(self.target_bytes[index]),
        )

    @property
    def token_counts(self) -> NDArray[np.int64]:
        """Return the tokens of every row."""
        return np.diff(self.token_ends).astype(np.int64)

    @property
    def loss_tokens(self) -> NDArray[np.uint32]:
        """Return each row's number of targets with weight > 0."""
        return _summed(np.where(self.values > 0, self.lengths, 0), self.run_ends).astype(np.uint32)

    @property
    def weight_sums(self) -> NDArray[np.float64]:
        """Return the sum of the target weights of every row."""
        weighted = self.lengths.astype(np.float64) * self.values
        return np.add.reduceat(weighted, self.run_ends[:-1]) if len(self) else weighted


class RowBuffer:
    """Rows gathered one by one, to be checked together."""

    def __init__(self) -> None:
        """Create an empty buffer."""
        self._heads: list[tuple[int, int, int]] = []
        self._tokens: list[NDArray[np.int32]] = []
        self._runs: list[Runs] = []

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._heads)

    def add(self, conversation: int, part: int, token_ids: NDArray[np.int32], runs: Runs, target_bytes: int) -> None:
        """Add a row; `columns` copies it."""
        self._heads.append((conversation, part, target_bytes))
        self._tokens.append(token_ids)
        self._runs.append(runs)

    def columns(self) -> Columns:
        """Copy all rows into columns, and empty the buffer."""
        heads = np.array(self._heads, dtype=np.int64).reshape(-1, 3)
        runs = [run for some in self._runs for run in some]
        made = Columns(
            conversation=heads[:, 0].astype(np.uint32),
            part=heads[:, 1].astype(np.uint16),
            target_bytes=heads[:, 2].astype(np.uint32),
            tokens=np.concatenate([np.empty(0, np.int32), *self._tokens]).astype(np.int32, copy=False),
            token_ends=_ends(map(len, self._tokens)),
            lengths=np.array([length for length, _ in runs], dtype=np.uint32),
            values=np.array([value for _, value in runs], dtype=np.float32),
            run_ends=_ends(map(len, self._runs)),
        )
        self._heads, self._tokens, self._runs = [], [], []
        return made


def begin_digest(options_json: str, version: int = 2) -> hashlib._Hash:
    """Start the hash with everything before the rows or their digests."""
    return hashlib.sha256(f"turnloom-dataset-{version}\n".encode() + options_json.encode() + b"\n")


def row_bytes(columns: Columns) -> Iterable[bytes]:
    """Yield the bytes of each row from which its digest is computed."""
    heads = np.empty((len(columns), 5), dtype="<u4")
    heads[:, 0], heads[:, 1], heads[:, 4] = columns.conversation, columns.part, columns.target_bytes
    heads[:, 2], heads[:, 3] = np.diff(columns.token_ends), np.diff(columns.run_ends)
    head, tokens = memoryview(heads.tobytes()), _bytes(columns.tokens, "<i4")
    lengths, values = _bytes(columns.lengths, "<u4"), _bytes(columns.values, "<f4")
    token_ends, run_ends = (4 * columns.token_ends.astype(np.int64)).tolist(), (4 * columns.run_ends).tolist()
    for index in range(len(columns)):
        of_tokens = slice(token_ends[index], token_ends[index + 1])
        of_runs = slice(run_ends[index], run_ends[index + 1])
        yield b"".join((head[20 * index : 20 * index + 20], tokens[of_tokens], lengths[of_runs], values[of_runs]))


def row_digests(columns: Columns) -> bytes:
    """Compute the digests of all rows, end to end."""
    return b"".join([hashlib.sha256(content).digest() for content in row_bytes(columns)])


def check_columns(columns: Columns, first: int, last_conversation: int) -> None:
    """Refuse rows that break the contract.

    Args:
        columns: the rows.
        first: position of the first of them in the file, for the sentence.
        last_conversation: conversation of the row before them; -1: there is none.

    Raises:
        ValueError: with the row's position.
    """

    def refuse(bad: NDArray[np.bool_], sentence: str) -> None:
        if bad.any():
            index = int(np.argmax(bad))
            raise ValueError(f"row {first + index}: " + sentence.format(**of(index)))

    def of(index: int) -> dict[str, object]:
        return {
            "tokens": tokens[index],
            "lowest": columns.row(index).token_ids.min(initial=0),
            "covered": covered[index],
            "targets": tokens[index] - 1,
            "conversation": columns.conversation[index],
            "before": before[index],
        }

    tokens = columns.token_counts
    before = np.concatenate([[last_conversation], columns.conversation.astype(np.int64)])[:-1]
    covered = _summed(columns.lengths, columns.run_ends)
    wrong = ~np.isfinite(columns.values) | (columns.values < 0)
    refuse(tokens < 2, "{tokens} tokens, a row needs at least 2")
    refuse(_summed(columns.tokens < 0, columns.token_ends) > 0, "token id {lowest} is negative")
    refuse(covered != tokens - 1, "weight runs cover {covered} of {targets} targets")
    refuse(_summed(wrong, columns.run_ends) > 0, "a weight is negative or not finite")
    refuse(columns.conversation < before, "conversation {conversation} comes after {before}")


def _summed(values: NDArray[np.integer | np.bool_], ends: NDArray[np.int32]) -> NDArray[np.int64]:
    """Sum the values of each row; a row may have none."""
    sums = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=sums[1:])
    return np.diff(sums[ends])


def _ends(counts: Iterable[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(list(counts), dtype=np.int64)]).astype(np.int32)


def _bytes(array: NDArray[np.generic], kind: str) -> memoryview:
    return memoryview(array.astype(kind, copy=False).tobytes())
