"""Convert examples to columns and back with numpy, without a Python object per token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from services.store.shards.dataset_files import DatasetReader, Row
from turnloom.masks.domain.example import PreprocessedConversation, TokenizedExample
from turnloom.v1 import types_pb2 as pb

MAX_DOWNLOAD_ROWS = 65_536  #: rows looked at for one message


def token_batch(rows: Sequence[tuple[int, TokenizedExample]]) -> pb.TokenBatch:
    """Return the columns of rows, in the order given.

    Args:
        rows: (conversation index, example) pairs.
    """
    if not rows:
        return pb.TokenBatch()
    examples = [example for _, example in rows]
    runs = list(chain.from_iterable(example.weight_runs for example in examples))
    return pb.TokenBatch(
        token_ids=np.concatenate([example.token_ids for example in examples]).astype("<i4", copy=False).tobytes(),
        row_lengths=[len(example.token_ids) for example in examples],
        weight_run_lengths=[length for length, _ in runs],
        weight_run_values=[weight for _, weight in runs],
        weight_runs_per_row=[len(example.weight_runs) for example in examples],
        conversation_index=[index for index, _ in rows],
        part=[example.part for example in examples],
        target_bytes=[example.target_bytes for example in examples],
    )


def unchecked(results: Sequence[PreprocessedConversation | Exception]) -> int:
    """Count the examples whose ids were not compared with their text."""
    return sum(result.unchecked for result in results if isinstance(result, PreprocessedConversation))


def rows_of(
    first_index: int, results: Sequence[PreprocessedConversation | Exception]
) -> list[tuple[int, TokenizedExample]]:
    """Return the examples of the good conversations with their positions, counted from `first_index`."""
    return [
        (index, example)
        for index, result in enumerate(results, start=first_index)
        if isinstance(result, PreprocessedConversation)
        for example in result.examples
    ]


def examples(batch: pb.TokenBatch) -> list[tuple[int, TokenizedExample]]:
    """Return a batch's rows as (conversation index, example) pairs; token ids are views into the message's bytes.

    Raises:
        ValueError: the columns contradict each other.
    """
    tokens = np.frombuffer(batch.token_ids, dtype="<i4")
    ends = np.cumsum(np.asarray(batch.row_lengths, dtype=np.int64))
    run_ends = np.cumsum(np.asarray(batch.weight_runs_per_row, dtype=np.int64))
    if len(ends) and (ends[-1] != len(tokens) or run_ends[-1] != len(batch.weight_run_lengths)):
        raise ValueError("row_lengths or weight_runs_per_row do not sum to the columns that they cut")
    runs = list(zip(batch.weight_run_lengths, batch.weight_run_values, strict=True))
    rows = []
    for row, (length, count) in enumerate(zip(batch.row_lengths, batch.weight_runs_per_row, strict=True)):
        example = TokenizedExample(
            token_ids=tokens[ends[row] - length : ends[row]],
            weight_runs=tuple(runs[run_ends[row] - count : run_ends[row]]),
            part=batch.part[row],
            target_bytes=batch.target_bytes[row],
        )
        rows.append((batch.conversation_index[row], example))
    return rows


def batches(reader: DatasetReader, start: int, chunk_bytes: int) -> Iterator[pb.TokenBatch]:
    """Yield a file's rows from `start` on, as batches of about `chunk_bytes` of token ids, at least one row each."""
    lengths = reader.row_lengths
    while start < len(reader):
        ends = np.cumsum(lengths[start : start + MAX_DOWNLOAD_ROWS]) * 4
        stop = start + max(1, int(np.searchsorted(ends, chunk_bytes, side="right")))
        yield _columns(list(reader.rows(start, stop)))
        start = stop


def _columns(rows: Sequence[Row]) -> pb.TokenBatch:
    return pb.TokenBatch(
        token_ids=np.concatenate([row.token_ids for row in rows]).astype("<i4", copy=False).tobytes(),
        row_lengths=[len(row.token_ids) for row in rows],
        weight_run_lengths=np.concatenate([row.run_lengths for row in rows]).tolist(),
        weight_run_values=np.concatenate([row.run_values for row in rows]).tolist(),
        weight_runs_per_row=[len(row.run_lengths) for row in rows],
        conversation_index=[row.conversation for row in rows],
        part=[row.part for row in rows],
        target_bytes=[row.target_bytes for row in rows],
    )
