"""Write and read the files of datasets: Arrow IPC, uncompressed, memory-mapped, named by their address."""

from __future__ import annotations

import bisect
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.store.cache import FileCache
from services.store.dataset_rows import SCHEMA, Row, begin_digest, canonical_json, check_row, record_batch, row_bytes
from services.store.errors import Corrupt
from services.store.files import NewFile, below, is_local, locate, remove, store_errors

__all__ = ["DatasetReader", "DatasetWriter", "Row", "Written", "canonical_json", "merge", "remove", "verify"]


@dataclass(frozen=True, slots=True)
class Written:
    """A complete file and its totals."""

    sha256: str
    uri: str
    rows: int
    conversations: int  #: that gave at least one row
    tokens: int
    loss_tokens: int  #: targets with weight > 0
    weight_sum: float
    target_bytes: int


Number = TypeVar("Number", bound=np.generic)


class DatasetWriter:
    """Streams rows to a temporary file beside their place; `commit` gives it its name. Memory: one batch of rows.

    A context manager: leaving it without `commit` removes the temporary file.
    """

    def __init__(self, store_url: str, options_json: str, rows_per_batch: int = 1024) -> None:
        self._root = below(store_url, "datasets")
        self._new = NewFile(self._root)
        self._rows_per_batch = rows_per_batch
        self._rows: list[Row] = []
        self._digest = begin_digest(options_json)
        self._last_conversation = -1
        self._count = self._conversations = self._tokens = self._loss_tokens = self._target_bytes = 0
        self._weight = 0.0
        self._sink = pa.ipc.new_file(self._new.file, SCHEMA)

    def __enter__(self) -> DatasetWriter:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed."""
        self._new.close()

    def append(self, row: Row) -> None:
        """Add a row. Rows come in source order. Raises ValueError for one that breaks the contract."""
        check_row(row, self._count, self._last_conversation)
        self._digest.update(row_bytes(row))
        self._count += 1
        self._conversations += row.conversation != self._last_conversation
        self._last_conversation = row.conversation
        trained = row.run_values > 0
        self._tokens += len(row.token_ids)
        self._loss_tokens += int(row.run_lengths[trained].sum())
        self._weight += float(np.dot(row.run_lengths.astype(np.float64), row.run_values.astype(np.float64)))
        self._target_bytes += row.target_bytes
        self._rows.append(row)
        if len(self._rows) == self._rows_per_batch:
            self._flush()

    def commit(self) -> Written:
        """Finish the file under its address. Raises StoreFull, StoreUnavailable; then nothing of it is left."""
        self._flush()
        sha256 = self._digest.hexdigest()
        with store_errors(self._root):
            self._sink.close()
        uri = self._new.publish(f"{sha256}.arrow")
        totals = (self._count, self._conversations, self._tokens, self._loss_tokens, self._weight, self._target_bytes)
        return Written(sha256, uri, *totals)

    def _flush(self) -> None:
        if self._rows:
            with store_errors(self._root):
                self._sink.write_batch(record_batch(self._rows))
            self._rows = []


class DatasetReader:
    """Rows of a file, as views of its memory map. A file of an object store is copied to this machine first.

    The copy lies in `cache`, or without one in a temporary folder until `close`. Views stay valid as long as they are
    held, also after `close`. Raises StoreUnavailable, Corrupt.
    """

    def __init__(self, uri: str, cache: FileCache | None = None) -> None:
        self._stack = ExitStack()
        path = _local(uri, self._stack, cache)
        try:
            with store_errors(uri):
                self._map = self._stack.enter_context(pa.memory_map(path))
                file = pa.ipc.open_file(self._map)
        except pa.ArrowInvalid as error:
            raise Corrupt(f"{uri} is not a dataset file: {error}") from None
        if not file.schema.equals(SCHEMA):
            raise Corrupt(f"{uri} has other columns than a dataset: {', '.join(file.schema.names)}")
        self._batches = [_Batch(file.get_batch(index)) for index in range(file.num_record_batches)]
        sizes = [len(batch.conversation) for batch in self._batches]
        self._starts = [int(start) for start in np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])]

    def __enter__(self) -> DatasetReader:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def __len__(self) -> int:
        """Rows."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> Row:
        """One row; its arrays are views."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect.bisect_right(self._starts, index) - 1
        return self._batches[number].row(index - self._starts[number])

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Rows from `start` up to, without, `stop`."""
        for index in range(start, len(self) if stop is None else min(stop, len(self))):
            yield self[index]

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """Tokens of every row, shape (rows,)."""
        return _gather([np.diff(batch.token_offsets).astype(np.int64) for batch in self._batches], np.int64)

    @property
    def conversation(self) -> NDArray[np.uint32]:
        """Conversation of every row, shape (rows,)."""
        return _gather([batch.conversation for batch in self._batches], np.uint32)

    @property
    def part(self) -> NDArray[np.uint16]:
        """Part of every row, shape (rows,)."""
        return _gather([batch.part for batch in self._batches], np.uint16)

    @property
    def target_bytes(self) -> NDArray[np.uint32]:
        """UTF-8 bytes of every row's trained text, shape (rows,)."""
        return _gather([batch.target_bytes for batch in self._batches], np.uint32)

    def close(self) -> None:
        """Give up the file; rows handed out stay valid."""
        self._stack.close()


def verify(uri: str, options_json: str) -> str:
    """The sha256 of the rows that are there, to be compared with the address."""
    digest = begin_digest(options_json)
    with DatasetReader(uri) as reader:
        for row in reader.rows():
            digest.update(row_bytes(row))
    return digest.hexdigest()


def merge(store_url: str, options_json: str, shard_uris: Sequence[str]) -> Written:
    """One file of the rows of several, in order; its address is that of one writer's file."""
    with DatasetWriter(store_url, options_json) as writer:
        for uri in shard_uris:
            with DatasetReader(uri) as reader:
                for row in reader.rows():
                    writer.append(row)
        return writer.commit()


class _Batch:
    """Columns of one record batch as numpy views of the map."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        def plain(name: str) -> NDArray[np.generic]:
            return cast(NDArray[np.generic], batch.column(name).to_numpy(zero_copy_only=True))

        def lists(name: str) -> tuple[NDArray[np.int32], NDArray[np.generic]]:
            column = batch.column(name)
            return column.offsets.to_numpy(zero_copy_only=True), column.values.to_numpy(zero_copy_only=True)

        self.conversation = cast(NDArray[np.uint32], plain("conversation"))
        self.part = cast(NDArray[np.uint16], plain("part"))
        self.target_bytes = cast(NDArray[np.uint32], plain("target_bytes"))
        self.token_offsets, tokens = lists("token_ids")
        self.run_offsets, lengths = lists("run_lengths")
        _, values = lists("run_values")
        self.tokens = cast(NDArray[np.int32], tokens)
        self.lengths = cast(NDArray[np.uint32], lengths)
        self.values = cast(NDArray[np.float32], values)

    def row(self, index: int) -> Row:
        tokens = slice(self.token_offsets[index], self.token_offsets[index + 1])
        runs = slice(self.run_offsets[index], self.run_offsets[index + 1])
        return Row(
            conversation=int(self.conversation[index]),
            part=int(self.part[index]),
            token_ids=self.tokens[tokens],
            run_lengths=self.lengths[runs],
            run_values=self.values[runs],
            target_bytes=int(self.target_bytes[index]),
        )


def _gather(parts: Sequence[NDArray[Number]], kind: type[Number]) -> NDArray[Number]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)


def _local(uri: str, stack: ExitStack, cache: FileCache | None) -> str:
    system, path = locate(uri)
    if is_local(system):
        return path
    cached = cache.fetch(uri) if cache is not None else None
    if cached is not None:
        return str(cached)
    folder = Path(tempfile.mkdtemp(prefix="turnloom-dataset-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    with store_errors(uri):
        system.get_file(path, str(folder / "data.arrow"))
    return str(folder / "data.arrow")
