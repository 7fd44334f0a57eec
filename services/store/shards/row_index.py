"""Index of all rows for a trainer, before it reads any: 12 bytes a row, in one file beside the shards."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.store.blobs.cache import FileCache
from services.store.blobs.files import NewFile, local_copy, store_errors
from services.store.errors import Corrupt
from services.store.shards.arrow_arrays import plain_array, view

NAMES: Final = ("conversation", "tokens", "loss_tokens")
SCHEMA: Final = pa.schema([pa.field(name, pa.uint32(), nullable=False) for name in NAMES])


@dataclass(frozen=True, slots=True)
class RowIndex:
    """One entry a row."""

    conversation: NDArray[np.uint32]
    tokens: NDArray[np.uint32]
    loss_tokens: NDArray[np.uint32]  #: targets with weight > 0


class IndexWriter:
    """Streams an index to a temporary file; `commit` gives it its name. A context manager, as ShardWriter."""

    def __init__(self, folder_url: str) -> None:
        """Begin a file in a folder of the store."""
        self._folder = folder_url
        self._new = NewFile(folder_url)
        self._sink = pa.ipc.new_file(self._new.file, SCHEMA)

    def __enter__(self) -> IndexWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed."""
        self._new.close()

    def add(self, rows: RowIndex) -> None:
        """Add rows. Raises StoreFull, StoreUnavailable."""
        arrays = [plain_array(pa.uint32(), getattr(rows, name)) for name in NAMES]
        with store_errors(self._folder):
            self._sink.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))

    def commit(self, sha256: str) -> str:
        """Finish the file; return its URL. Raises StoreFull, StoreRefused, StoreUnavailable."""
        with store_errors(self._folder):
            self._sink.close()
        return self._new.publish(f"{sha256}.index.arrow")


def read_index(uri: str, cache: FileCache | None) -> RowIndex:
    """Read an index; its arrays are copies.

    Raises:
        StoreUnavailable, StoreRefused, Corrupt.
    """
    with ExitStack() as stack:
        path = local_copy(uri, stack, cache)
        try:
            with store_errors(uri), pa.memory_map(path) as mapped:
                file = pa.ipc.open_file(mapped)
                if not file.schema.equals(SCHEMA):
                    raise Corrupt(f"{uri} has other columns than an index of rows: {', '.join(file.schema.names)}")
                batches = [file.get_batch(number) for number in range(file.num_record_batches)]
                return RowIndex(*(_joined(batches, name) for name in NAMES))
        except pa.ArrowInvalid as error:
            raise Corrupt(f"{uri} is not an index of rows: {error}") from None


def _joined(batches: list[pa.RecordBatch], name: str) -> NDArray[np.uint32]:
    parts = [cast(NDArray[np.uint32], view(batch.column(name), "<u4")) for batch in batches]
    return np.concatenate([np.empty(0, np.uint32), *parts])
