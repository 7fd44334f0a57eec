"""The rows of a dataset file as a job trains them, read when needed. The order of training is in batching.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from services.store.errors import StoreError
from services.store.records import CutReport
from services.store.shards.dataset_files import Row as StoredRow
from services.store.shards.row_index import RowIndex
from services.trainer.batches.rows import Row, shortened, without_tail

Result = TypeVar("Result")


class RowFile(Protocol):
    """An open dataset file (services.store.shards.dataset_files.DatasetReader)."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, index: int) -> StoredRow:
        """Return one row."""
        ...

    @property
    def index(self) -> RowIndex:
        """Return the index: the facts known about every row without reading it."""
        ...


class Patiently(Protocol):
    """Calls, and calls again while the object store is away."""

    def __call__(self, call: Callable[[], Result]) -> Result:
        """Return what the call returned at last; raise its error where patience ends."""
        ...


@dataclass(frozen=True, slots=True)
class PatientFile:
    """A dataset file whose shards are read through outages of the object store."""

    file: RowFile
    patiently: Patiently

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.file)

    def __getitem__(self, index: int) -> StoredRow:
        """Return one row; the first of a shard fetches it."""
        try:
            return self.file[index]
        except StoreError:
            return self.patiently(lambda: self.file[index])

    @property
    def index(self) -> RowIndex:
        """Return the index, fetching it at first."""
        return self.patiently(lambda: self.file.index)


def from_file(stored: StoredRow) -> Row:
    """Expand a stored row's weights, one for each target."""
    weights = np.repeat(stored.run_values, stored.run_lengths)
    return Row(int(stored.conversation), stored.token_ids, weights, int(stored.target_bytes))


@dataclass(frozen=True, slots=True)
class TrainedRows(Sequence[Row]):
    """The rows that have something to train, in source order, cut to max_length and freed of untrained tails."""

    file: RowFile
    kept: NDArray[np.int64]  #: row numbers in the file
    conversation_of: NDArray[np.int64]  #: conversation of each kept row
    max_length: int | None  #: tokens; None: as they are

    def __len__(self) -> int:
        """Return the number of trained rows."""
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        """Return one row as it is trained, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = from_file(self.file[int(self.kept[index])])
        return without_tail(row if self.max_length is None else shortened(row, self.max_length))


def trained_rows(file: RowFile, max_length: int | None) -> tuple[TrainedRows, CutReport]:
    """Select the trained rows by the index, reading only rows that `max_length` cuts.

    Returns:
        What there is to train, and what max_length took: rows that lost tokens, the tokens, rows left with nothing.
    """
    index = file.index
    trained = index.loss_tokens > 0
    cut = np.flatnonzero(index.tokens > max_length) if max_length is not None else np.empty(0, np.int64)
    for number in cut.tolist():
        trained[number] = shortened(from_file(file[number]), max_length or 0).loss_tokens > 0
    kept = np.flatnonzero(trained)
    report = CutReport(
        cut_rows=len(cut),
        cut_tokens=int((index.tokens[cut].astype(np.int64) - (max_length or 0)).sum()),
        emptied_rows=len(trained) - len(kept),
    )
    return TrainedRows(file, kept, index.conversation[kept].astype(np.int64), max_length), report
