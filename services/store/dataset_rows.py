r"""One row of a dataset: its columns, its contract and its part in the address. Knows no file and no Redis.

The address of a dataset is taken over the options and every row's little-endian values, never over file bytes, so that
writers, batch sizes and the number of shards don't change it:

    sha256(b"turnloom-dataset-1\n" + canonical JSON of the options + b"\n" + rows)
    row = conversation u4, part u4, number of tokens u4, number of runs u4, target_bytes u4,
          token_ids i4[...], run_lengths u4[...], run_values f4[...]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SCHEMA = pa.schema(
    [
        pa.field("conversation", pa.uint32(), nullable=False),
        pa.field("part", pa.uint16(), nullable=False),
        pa.field("token_ids", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("run_lengths", pa.list_(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
        pa.field("run_values", pa.list_(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        pa.field("target_bytes", pa.uint32(), nullable=False),
    ]
)


def canonical_json(value: Mapping[str, object]) -> str:
    """Sorted keys, no spaces, text as it is: the same options always give the same text."""
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


def begin_digest(options_json: str) -> hashlib._Hash:
    """Hash of everything before the rows."""
    return hashlib.sha256(b"turnloom-dataset-1\n" + options_json.encode() + b"\n")


def row_bytes(row: Row) -> bytes:
    """What a row adds to the address."""
    head = (row.conversation, row.part, len(row.token_ids), len(row.run_lengths), row.target_bytes)
    parts = (np.array(head, "<u4"), row.token_ids.astype("<i4", copy=False), row.run_lengths.astype("<u4", copy=False))
    return b"".join(part.tobytes() for part in parts) + row.run_values.astype("<f4", copy=False).tobytes()


def check_row(row: Row, index: int, last_conversation: int) -> None:
    """Raise ValueError, with the row's position, for one that breaks the contract."""
    if len(row.token_ids) < 2:
        raise ValueError(f"row {index}: {len(row.token_ids)} tokens, a row needs at least 2")
    if int(row.token_ids.min()) < 0:
        raise ValueError(f"row {index}: token id {int(row.token_ids.min())} is negative")
    if len(row.run_lengths) != len(row.run_values) or int(row.run_lengths.sum()) != len(row.token_ids) - 1:
        raise ValueError(
            f"row {index}: weight runs cover {int(row.run_lengths.sum())} of {len(row.token_ids) - 1} targets"
        )
    if not bool(np.isfinite(row.run_values).all()) or bool((row.run_values < 0).any()):
        raise ValueError(f"row {index}: a weight is negative or not finite")
    if row.conversation < last_conversation:
        raise ValueError(f"row {index}: conversation {row.conversation} comes after {last_conversation}")


def record_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows as columns."""

    def lists(arrays: Sequence[NDArray[np.generic]], field: str, kind: str) -> pa.Array:
        offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
        values = pa.array(np.concatenate(arrays).astype(kind, copy=False))
        return pa.ListArray.from_arrays(offsets, values, type=SCHEMA.field(field).type)

    columns = [
        pa.array([row.conversation for row in rows], pa.uint32()),
        pa.array([row.part for row in rows], pa.uint16()),
        lists([row.token_ids for row in rows], "token_ids", "<i4"),
        lists([row.run_lengths for row in rows], "run_lengths", "<u4"),
        lists([row.run_values for row in rows], "run_values", "<f4"),
        pa.array([row.target_bytes for row in rows], pa.uint32()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
