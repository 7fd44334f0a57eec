"""Import rows that another engine made (turnloom.masks.columns) as a dataset: find, order and check them.

The input is a folder of Parquet files and a description. Files may hold any part of the conversations, but no two the
same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from itertools import groupby, pairwise
from pathlib import PurePosixPath
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from services.preprocess.datasets.build import DatasetBuild
from services.preprocess.datasets.sources.lease import Lease
from services.preprocess.datasets.sources.listing import files
from services.preprocess.datasets.sources.models import options_of
from services.preprocess.datasets.sources.opening import opened
from services.preprocess.datasets.sources.pieces import Piece, Shard
from services.preprocess.datasets.sources.shards import ShardResult
from services.preprocess.datasets.sources.sizes import SizeLimit, refuse_larger
from services.preprocess.domain.source_errors import (
    ModelDiffers,
    SourceNotAllowed,
    SourceNotKnown,
    SourceNotReadable,
)
from services.preprocess.domain.source_location import locate
from services.store.records import DatasetRecord
from services.store.shards.files import ShardWriter
from turnloom.masks.domain.example import PreprocessedConversation, TokenizedExample

ROWS: Final = "rows"  #: name of the format, and kind of a piece
DESCRIPTION: Final = "turnloom.json"  #: as turnloom.masks.columns names it
FORMAT: Final = "turnloom-rows-1"
BATCH: Final = 1_024  #: rows read at once
COLUMNS: Final = ("conversation", "part", "token_ids", "run_lengths", "run_values", "target_bytes")


def plan_rows(record: DatasetRecord, roots: Sequence[str], lease: Lease) -> list[Shard]:
    """Return one shard for each file, in order of their conversations.

    Raises:
        SourceError: nothing is there, it was made otherwise than the dataset is asked for, or files overlap.
        NotWanted.
    """
    assert record.source is not None
    listed = files(locate(record.source.uri, roots, hub=False), roots)
    if listed.outside:  # a part of the rows would be missing
        raise SourceNotAllowed(f"{listed.outside[0]} leads out of the source roots.", hint="Put the file itself there.")
    found = listed.data
    described = [name for name in found if PurePosixPath(name).name == DESCRIPTION]
    if len(described) != 1:
        raise SourceNotKnown(
            f"{record.source.uri} has {len(described)} files {DESCRIPTION}, not one.",
            hint="Write it with RowColumns.describe, beside the Parquet files.",
        )
    _check_description(described[0], record)
    ranges = []
    for name in found:
        lease.check()
        if name.endswith(".parquet") and (rows := _range(name)) is not None:
            ranges.append(rows)
    ranges.sort()
    for (_, last, name, _), (first, _, other, _) in pairwise(ranges):
        if first <= last:
            raise SourceNotKnown(
                f"{name} and {other} both hold conversations from {first} to {last}.",
                hint="Write the rows of each conversation into one file, in order.",
            )
    return [Shard(0, (Piece(name, ROWS, name, 0, first, count),)) for first, _, name, count in ranges]


def _check_description(name: str, record: DatasetRecord) -> None:
    with opened(name) as file:
        try:
            told = json.loads(file.read())
        except ValueError as error:
            raise SourceNotKnown(f"{name} is not a description of rows: {error}.") from error
    if not isinstance(told, dict) or not {"format", "options"} <= told.keys() or not isinstance(told["options"], dict):
        raise SourceNotKnown(f"{name} is not a description of rows: it has no format and options.")
    if told["format"] != FORMAT:
        raise SourceNotKnown(f"{name} has format {told['format']!r}, not {FORMAT!r}; write it with this Turnloom.")
    for what, ours in (("tokenizer_sha256", record.tokenizer_sha256), ("template_sha256", record.template_sha256)):
        if told.get(what) != ours:
            raise ModelDiffers(
                f"{what} of the rows is {str(told.get(what))[:12]}, that of {record.model!r} here {ours[:12]}.",
                hint="Make the rows with the folder that this server's model was prepared into.",
            )
    asked = {name: one.value if isinstance(one, Enum) else one for name, one in asdict(options_of(record)).items()}
    if differs := [name for name, value in asked.items() if told["options"].get(name) != value]:
        raise SourceNotKnown(
            f"The rows were made with other options than the dataset is asked for: {', '.join(differs)}.",
            hint="turnloom dataset register takes the options from the description.",
        )


def _range(name: str) -> tuple[int, int, str, int] | None:
    """Return a file's first and last conversation, its name and row count, or None if it has no row."""
    with opened(name) as file, pq.ParquetFile(file) as table:
        missing = set(COLUMNS) - set(table.schema_arrow.names)
        if missing:
            raise SourceNotKnown(f"{name} lacks the columns {', '.join(sorted(missing))}.")
        if not table.metadata.num_rows:
            return None
        column = np.asarray(table.read(["conversation"]).column(0).combine_chunks(), dtype=np.int64)
        return int(column.min()), int(column.max()), name, table.metadata.num_rows


def take_rows(
    shard: Shard, folder: str, options_json: str, vocabulary: int, limit: SizeLimit, lease: Lease
) -> ShardResult:
    """Write one file's rows as a shard.

    Raises:
        SourceNotReadable: a row breaks the contract of a dataset's rows.
        NotWanted, SourceTooLarge, StoreError.
    """
    (piece,) = shard.pieces
    with ShardWriter(folder, options_json) as writer:
        build = DatasetBuild(writer)
        try:
            for position, made in _conversations(piece):
                if build.seen % BATCH == 0:
                    lease.check()
                refuse_larger(lease.read, 0, limit)
                highest = max(int(one.token_ids.max(initial=0)) for one in made.examples)
                if highest >= vocabulary:
                    raise ValueError(f"conversation {position}: token {highest} is not in the vocabulary")
                build.seen = position
                build.add([made])
                lease.read += 1
            file = writer.commit()
        except (ValueError, OverflowError) as error:
            raise SourceNotReadable(f"{piece.place}: {error}", hint="Make the rows again, in order.") from error
        return ShardResult(file, lease.read, 0, build.totals())


def _conversations(piece: Piece) -> Iterator[tuple[int, PreprocessedConversation]]:
    with opened(piece.url) as file, pq.ParquetFile(file) as table:
        batches = table.iter_batches(batch_size=BATCH, columns=list(COLUMNS), use_threads=False)
        rows = (row for batch in batches for row in batch.to_pylist())
        for position, some in groupby(rows, key=lambda row: int(row["conversation"])):
            yield position, PreprocessedConversation([_example(row) for row in some])


def _example(row: Mapping[str, Any]) -> TokenizedExample:
    runs = tuple(zip(row["run_lengths"], row["run_values"], strict=True))
    return TokenizedExample(np.array(row["token_ids"], dtype=np.int32), runs, row["part"], row["target_bytes"])
