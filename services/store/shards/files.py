"""Write and read one shard of a dataset: an Arrow IPC file, uncompressed, memory-mapped, named by its address."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Final, TypeAlias, cast

import numpy as np
import pyarrow as pa
from fsspec import AbstractFileSystem
from numpy.typing import NDArray

from services.store.blobs.cache import FileCache
from services.store.blobs.files import FileSystem, NewFile, is_local, local_copy, locate, store_errors
from services.store.errors import Corrupt
from services.store.shards.arrow_arrays import plain_array, view
from services.store.shards.dataset_rows import (
    DIGEST_BYTES,
    Columns,
    Row,
    RowBuffer,
    Runs,
    begin_digest,
    check_columns,
    row_digests,
)
from services.store.shards.row_index import RowIndex

#: Columns of a dataset's file before shards were kept; such files are still read.
SCHEMA_1: Final = pa.schema(
    [
        pa.field("conversation", pa.uint32(), nullable=False),
        pa.field("part", pa.uint16(), nullable=False),
        pa.field("token_ids", pa.list_(pa.field("item", pa.int32(), nullable=False)), nullable=False),
        pa.field("run_lengths", pa.list_(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
        pa.field("run_values", pa.list_(pa.field("item", pa.float32(), nullable=False)), nullable=False),
        pa.field("target_bytes", pa.uint32(), nullable=False),
    ]
)
#: Columns of a shard; the last three are there to be read without the rows.
SCHEMA: Final = pa.schema(
    [
        *SCHEMA_1,
        pa.field("tokens", pa.uint32(), nullable=False),
        pa.field("loss_tokens", pa.uint32(), nullable=False),
        pa.field("digest", pa.binary(DIGEST_BYTES), nullable=False),
    ]
)


#: Takes the digests and the index of some rows.
Gather: TypeAlias = Callable[[bytes, RowIndex], None]


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals of the rows of a shard or dataset."""

    rows: int = 0
    conversations: int = 0  #: that gave at least one row
    tokens: int = 0
    loss_tokens: int = 0  #: targets with weight > 0
    weight_sum: float = 0.0
    target_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A complete shard."""

    sha256: str  #: of the options and its rows, as a dataset's
    uri: str
    totals: Totals
    first: int = -1  #: conversation of its first row; -1: it has none
    last: int = -1  #: conversation of its last row


class ShardWriter:
    """Streams rows to a temporary file beside their place; `commit` gives it its name. Memory: one batch of rows.

    A context manager: leaving it without `commit` removes the temporary file.
    """

    def __init__(
        self, folder_url: str, options_json: str, rows_per_batch: int = 1024, also: Gather | None = None
    ) -> None:
        """Begin a shard.

        Args:
            folder_url: where it shall lie.
            options_json: of the dataset.
            rows_per_batch: rows that are held, checked and written together.
            also: gets what a dataset has to know of its rows, batch by batch.
        """
        self._folder = folder_url
        self._also = also
        self._new = NewFile(folder_url)
        self._rows_per_batch = rows_per_batch
        self._buffer = RowBuffer()
        self._digest = begin_digest(options_json)
        self._first = self.last = -1  #: conversations
        self._totals = Totals()
        self._sink = pa.ipc.new_file(self._new.file, SCHEMA)

    def __enter__(self) -> ShardWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed."""
        self._new.close()

    def add(self, conversation: int, part: int, token_ids: NDArray[np.int32], runs: Runs, target_bytes: int) -> None:
        """Add a row; rows come in source order.

        Raises:
            ValueError: a row of this batch breaks the contract; they are looked at together.
            StoreFull, StoreRefused, StoreUnavailable.
        """
        self._buffer.add(conversation, part, token_ids, runs, target_bytes)
        if len(self._buffer) == self._rows_per_batch:
            self.flush()

    def commit(self) -> ShardFile:
        """Finish the file under its address.

        Raises:
            ValueError, StoreFull, StoreRefused, StoreUnavailable: then nothing of it is left.
        """
        self.flush()
        with store_errors(self._folder):
            self._sink.close()
        sha256 = self._digest.hexdigest()
        return ShardFile(sha256, self._new.publish(f"{sha256}.arrow"), self._totals, self._first, self.last)

    def flush(self) -> None:
        """Write the buffered rows as one batch."""
        if not len(self._buffer):
            return
        columns = self._buffer.columns()
        check_columns(columns, self._totals.rows, self.last)
        digests = row_digests(columns)
        index = RowIndex(columns.conversation, columns.token_counts.astype(np.uint32), columns.loss_tokens)
        self._digest.update(digests)
        if self._also is not None:
            self._also(digests, index)
        before = np.concatenate([[self.last], columns.conversation.astype(np.int64)])
        done = self._totals
        self._totals = Totals(
            done.rows + len(columns),
            done.conversations + int(np.count_nonzero(np.diff(before))),
            done.tokens + len(columns.tokens),
            done.loss_tokens + int(index.loss_tokens.sum(dtype=np.int64)),
            done.weight_sum + math.fsum(columns.weight_sums),
            done.target_bytes + int(columns.target_bytes.sum(dtype=np.int64)),
        )
        self._first = self._first if done.rows else int(columns.conversation[0])
        self.last = int(columns.conversation[-1])
        with store_errors(self._folder):
            self._sink.write_batch(record_batch(columns, index, digests))


def record_batch(columns: Columns, index: RowIndex, digests: bytes) -> pa.RecordBatch:
    """Convert rows to an Arrow record batch, without a copy."""
    count = len(columns)

    def plain(name: str, array: NDArray[np.generic]) -> pa.Array:
        return plain_array(SCHEMA.field(name).type, array)

    def lists(name: str, ends: NDArray[np.int32], array: NDArray[np.generic]) -> pa.Array:
        kind = SCHEMA.field(name).type
        values = plain_array(kind.value_type, array)
        return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(ends)], children=[values])

    return pa.RecordBatch.from_arrays(
        [
            plain("conversation", columns.conversation),
            plain("part", columns.part),
            lists("token_ids", columns.token_ends, columns.tokens),
            lists("run_lengths", columns.run_ends, columns.lengths),
            lists("run_values", columns.run_ends, columns.values),
            plain("target_bytes", columns.target_bytes),
            plain("tokens", index.tokens),
            plain("loss_tokens", index.loss_tokens),
            pa.Array.from_buffers(SCHEMA.field("digest").type, count, [None, pa.py_buffer(digests)]),
        ],
        schema=SCHEMA,
    )


class ShardReader:
    """Rows of one file, as views of its memory map. An object store's file is copied to this machine first.

    The copy lies in `cache`, or without one in a temporary folder until `close`. Views stay valid as long as they are
    held, also after `close`. Raises StoreUnavailable, Corrupt.
    """

    def __init__(self, uri: str, cache: FileCache | None = None) -> None:
        self._stack = ExitStack()
        path = local_copy(uri, self._stack, cache)
        try:
            with store_errors(uri):
                file = pa.ipc.open_file(self._stack.enter_context(pa.memory_map(path)))
        except pa.ArrowInvalid as error:
            raise Corrupt(f"{uri} is not a dataset file: {error}") from None
        if not (file.schema.equals(SCHEMA) or file.schema.equals(SCHEMA_1)):
            raise Corrupt(f"{uri} has other columns than a dataset: {', '.join(file.schema.names)}")
        self.version = 2 if file.schema.equals(SCHEMA) else 1  #: of the dataset's format
        self.columns: Sequence[Columns] = [_columns(file.get_batch(index)) for index in range(file.num_record_batches)]
        sizes = [len(columns) for columns in self.columns]
        self._starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Row:
        """Return one row; its arrays are views."""
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.columns[number].row(index - int(self._starts[number]))

    def close(self) -> None:
        """Close the file; rows handed out stay valid."""
        self._stack.close()


def _columns(batch: pa.RecordBatch) -> Columns:
    """Return the columns of one record batch as numpy views of the map."""

    def ends(array: pa.Array) -> NDArray[np.int32]:
        return cast(NDArray[np.int32], view(array.offsets, "<i4")) if len(array) else np.zeros(1, np.int32)

    tokens, lengths, values = (batch.column(name) for name in ("token_ids", "run_lengths", "run_values"))
    return Columns(
        conversation=cast(NDArray[np.uint32], view(batch.column("conversation"), "<u4")),
        part=cast(NDArray[np.uint16], view(batch.column("part"), "<u2")),
        target_bytes=cast(NDArray[np.uint32], view(batch.column("target_bytes"), "<u4")),
        tokens=cast(NDArray[np.int32], view(tokens.values, "<i4")),
        token_ends=ends(tokens),
        lengths=cast(NDArray[np.uint32], view(lengths.values, "<u4")),
        values=cast(NDArray[np.float32], view(values.values, "<f4")),
        run_ends=ends(lengths),
    )


def read_gathered(uri: str) -> Iterator[tuple[bytes, RowIndex]]:
    """Yield digests and index of a shard's rows, batch by batch; of an object store's file little else is fetched.

    Raises:
        StoreUnavailable, StoreRefused, Corrupt.
    """
    system, path = locate(uri)
    names = ("conversation", "tokens", "loss_tokens", "digest")
    wanted = pa.ipc.IpcReadOptions(included_fields=[SCHEMA.get_field_index(name) for name in names])
    try:
        with store_errors(uri), _unbuffered(system, path) as opened:
            file = pa.ipc.open_file(opened, options=wanted)
            if tuple(file.schema.names) != names:
                raise Corrupt(f"{uri} has other columns than a shard of a dataset: {', '.join(file.schema.names)}")
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                index = RowIndex(*(cast(NDArray[np.uint32], view(batch.column(name), "<u4")) for name in names[:3]))
                yield bytes(batch.column("digest").buffers()[1])[: DIGEST_BYTES * batch.num_rows], index
    except pa.ArrowInvalid as error:  # its words may be of a field's number, which is ours
        raise Corrupt(f"{uri} is damaged, or not a shard of a dataset; make the dataset again") from error


def _unbuffered(system: FileSystem, path: str) -> IO[bytes]:
    """Open a file for reading small parts."""
    if is_local(system):
        return open(path, "rb")
    return cast(IO[bytes], cast(AbstractFileSystem, system).open(path, "rb", cache_type="none"))
