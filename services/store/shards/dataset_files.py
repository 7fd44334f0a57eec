"""Write and read datasets: a manifest and its shards, or the single file that older versions wrote."""

from __future__ import annotations

import bisect
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.store.blobs.cache import FileCache
from services.store.blobs.files import exists, is_local, locate, remove
from services.store.errors import StoreError
from services.store.shards.dataset_rows import Columns, Row, Runs, begin_digest, canonical_json, row_bytes, row_digests
from services.store.shards.files import ShardFile, ShardReader, ShardWriter, Totals, read_gathered
from services.store.shards.manifest import SUFFIX, Manifest, manifest_uri, read_manifest, shards_folder, write_manifest
from services.store.shards.row_index import IndexWriter, RowIndex, read_index

__all__ = ["DatasetReader", "DatasetWriter", "Row", "Written", "canonical_json", "join", "remove", "verify"]

#: Rows after which a writer begins another shard, at the next conversation.
SHARD_ROWS: Final = 16_384
#: Shards that a reader keeps open.
OPEN_SHARDS: Final = 32


@dataclass(frozen=True, slots=True)
class Written:
    """A complete dataset and its totals."""

    sha256: str
    uri: str
    rows: int
    conversations: int  #: that gave at least one row
    tokens: int
    loss_tokens: int  #: targets with weight > 0
    weight_sum: float
    target_bytes: int


#: sha256 of a dataset -> whether a record names it.
Known: TypeAlias = Callable[[str], bool]
Number = TypeVar("Number", bound=np.generic)


class DatasetWriter:
    """Streams rows into shards of one dataset. Memory: one batch of rows.

    A context manager: leaving it without `commit` removes what was written.
    """

    def __init__(
        self, store_url: str, options_json: str, rows_per_batch: int = 1024, known: Known = lambda _: False
    ) -> None:
        """Begin a dataset.

        Args:
            store_url: of the store.
            options_json: that its conversations are preprocessed with, canonical.
            rows_per_batch: rows that are held, checked and written together.
            known: whether a dataset of this address is registered, whose shards then serve this one too.
        """
        self._known = known
        self._store_url = store_url
        self._options_json = options_json
        self._rows_per_batch = rows_per_batch
        self._folder = shards_folder(store_url, f"w-{secrets.token_hex(8)}")
        self._shards: list[ShardFile] = []
        self._rows = 0  #: of the shard at hand
        self._last = -1  #: conversation of the last row
        self._committed = False
        self._digest = begin_digest(options_json)
        with ExitStack() as begun:  # a store may be full after the first of two files
            self._index = begun.enter_context(IndexWriter(self._folder))
            self._writer = self._begin()
            begun.pop_all()

    def __enter__(self) -> DatasetWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not committed."""
        with ExitStack() as ending:
            if not self._committed and (self._shards or is_local(locate(self._folder)[0])):
                ending.enter_context(suppress(StoreError))  # what ended the block says more
                ending.callback(remove, self._folder)
            ending.push(self._index)
            ending.push(self._writer)

    def append(self, row: Row) -> None:
        """Add a row. Raises as `add`."""
        runs = list(zip(row.run_lengths.tolist(), row.run_values.tolist(), strict=True))
        self.add(row.conversation, row.part, row.token_ids, runs, row.target_bytes)

    def add(self, conversation: int, part: int, token_ids: NDArray[np.int32], runs: Runs, target_bytes: int) -> None:
        """Add a row; rows come in source order. Raises as ShardWriter.add."""
        if self._rows >= SHARD_ROWS and conversation > self._last:
            self._shards.append(self._writer.commit())
            self._writer, self._rows = self._begin(), 0
        self._writer.add(conversation, part, token_ids, runs, target_bytes)
        self._rows, self._last = self._rows + 1, conversation

    def commit(self) -> Written:
        """Finish the dataset under its address.

        Raises:
            ValueError, StoreFull, StoreRefused, StoreUnavailable: then nothing of it is left.
        """
        if self._rows:
            self._shards.append(self._writer.commit())
        sha256 = self._digest.hexdigest()
        manifest = Manifest(sha256, self._options_json, self._shards, self._index.commit(sha256))
        written = _written(self._store_url, manifest, self._known)
        self._committed = True
        return written

    def _begin(self) -> ShardWriter:
        return ShardWriter(self._folder, self._options_json, self._rows_per_batch, self._gather)

    def _gather(self, digests: bytes, rows: RowIndex) -> None:
        self._digest.update(digests)
        self._index.add(rows)


def join(
    store_url: str,
    options_json: str,
    shards: Sequence[ShardFile],
    folder: str,
    check: Callable[[], None] = lambda: None,
    known: Known = lambda _: False,
) -> Written:
    """Make one dataset of shards in order, reading only their digests and index.

    Args:
        store_url: of the store, below whose `datasets` folder the shards lie.
        options_json: of the dataset.
        shards: in order of their conversations, which none shares with another.
        folder: URL of the folder of their maker, for the index.
        check: called before each shard; what it raises ends the work.
        known: whether a dataset of this address is registered; it is the one then, and these shards are removed.

    Raises:
        ValueError: conversations are out of order.
        StoreFull, StoreRefused, StoreUnavailable, Corrupt.
    """
    digest, last = begin_digest(options_json), -1
    with IndexWriter(folder) as index:
        for shard in shards:
            check()
            if shard.first <= last:
                raise ValueError(f"{shard.uri} begins with conversation {shard.first}, which comes after {last}")
            last = shard.last
            for digests, rows in read_gathered(shard.uri):
                digest.update(digests)
                index.add(rows)
        sha256 = digest.hexdigest()
        return _written(store_url, Manifest(sha256, options_json, shards, index.commit(sha256)), known)


def _written(store_url: str, manifest: Manifest, known: Known) -> Written:
    """Write the manifest, which makes the dataset, unless one exists that is safe from removal."""
    uri = manifest_uri(store_url, manifest.sha256)
    if known(manifest.sha256) and exists(uri):
        for folder in set(manifest.folders()) - set(read_manifest(uri).folders()):
            remove(folder)
    else:
        write_manifest(store_url, manifest)
    total = _total([shard.totals for shard in manifest.shards])
    sums = (total.conversations, total.tokens, total.loss_tokens, total.weight_sum, total.target_bytes)
    return Written(manifest.sha256, uri, total.rows, *sums)


def _total(parts: Sequence[Totals]) -> Totals:
    return Totals(
        rows=sum(part.rows for part in parts),
        conversations=sum(part.conversations for part in parts),
        tokens=sum(part.tokens for part in parts),
        loss_tokens=sum(part.loss_tokens for part in parts),
        weight_sum=math.fsum(part.weight_sum for part in parts),
        target_bytes=sum(part.target_bytes for part in parts),
    )


class DatasetReader:
    """Rows of a dataset, as views of memory maps. A shard is fetched and opened at the first access to its rows.

    Keeps OPEN_SHARDS open. Copies of an object store's shards lie in `cache`, or without one in temporary folders.
    Views stay valid as long as they are held, also after `close`. Raises StoreUnavailable, Corrupt.
    """

    def __init__(self, uri: str, cache: FileCache | None = None) -> None:
        self._cache = cache
        self._open: OrderedDict[int, ShardReader] = OrderedDict()
        if uri.endswith(SUFFIX):
            self.version = 2  #: of the dataset's format
            manifest = read_manifest(uri)
            shards, self._index_uri = manifest.shards, manifest.index
            self._uris, sizes = [shard.uri for shard in shards], [shard.totals.rows for shard in shards]
        else:
            self._uris, self._index_uri = [uri], ""
            self._open[0] = whole = ShardReader(uri, cache)
            self.version, sizes = whole.version, [len(whole)]
        self._starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._firsts: list[int] = self._starts.tolist()  # for single rows

    def __enter__(self) -> DatasetReader:
        """Return the reader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the reader."""
        self.close()

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Row:
        """Return one row; its arrays are views."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect.bisect_right(self._firsts, index) - 1
        return self._shard(number)[index - self._firsts[number]]

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[Row]:
        """Yield rows from `start` up to, without, `stop`."""
        for index in range(start, len(self) if stop is None else min(stop, len(self))):
            yield self[index]

    def columns(self) -> Iterator[Columns]:
        """Yield all rows in order, batch by batch."""
        for number in range(len(self._uris)):
            yield from self._shard(number).columns

    @cached_property
    def index(self) -> RowIndex:
        """Return the index of all rows, without opening a shard."""
        if self._index_uri:
            return read_index(self._index_uri, self._cache)
        return RowIndex(
            _gather([columns.conversation for columns in self.columns()], np.uint32),
            _gather([columns.token_counts.astype(np.uint32) for columns in self.columns()], np.uint32),
            _gather([columns.loss_tokens for columns in self.columns()], np.uint32),
        )

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """Return the tokens of every row, shape (rows,)."""
        return self.index.tokens.astype(np.int64)

    @property
    def conversation(self) -> NDArray[np.uint32]:
        """Return the conversation of every row, shape (rows,)."""
        return self.index.conversation

    @property
    def part(self) -> NDArray[np.uint16]:
        """Return the part of every row, shape (rows,)."""
        return _gather([columns.part for columns in self.columns()], np.uint16)

    @property
    def target_bytes(self) -> NDArray[np.uint32]:
        """Return the UTF-8 bytes of every row's trained text, shape (rows,)."""
        return _gather([columns.target_bytes for columns in self.columns()], np.uint32)

    def close(self) -> None:
        """Close the files; rows handed out stay valid."""
        for shard in self._open.values():
            shard.close()
        self._open.clear()

    def _shard(self, number: int) -> ShardReader:
        if number not in self._open:
            self._open[number] = ShardReader(self._uris[number], self._cache)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(number)
        return self._open[number]


def verify(uri: str, options_json: str) -> str:
    """Compute the sha256 of the stored rows, to be compared with the address."""
    with DatasetReader(uri) as reader:
        digest = begin_digest(options_json, reader.version)
        for columns in reader.columns():
            digest.update(row_digests(columns) if reader.version > 1 else b"".join(row_bytes(columns)))
    return digest.hexdigest()


def _gather(parts: Sequence[NDArray[Number]], kind: type[Number]) -> NDArray[Number]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=kind)
