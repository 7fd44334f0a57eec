"""The rows of a dataset file as a job trains them, read when they are needed. Knows no order and no server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from services.store.dataset_files import Row as StoredRow
from services.store.records import CutReport
from services.trainer.rows import Row, shortened, without_tail


class RowFile(Protocol):
    """A dataset file that is open (services.store.dataset_files.DatasetReader)."""

    def __len__(self) -> int:
        """Rows."""
        ...

    def __getitem__(self, index: int) -> StoredRow:
        """One row."""
        ...


def from_file(stored: StoredRow) -> Row:
    """A stored row with its weights spelled out."""
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
        """Rows that are trained."""
        return len(self.kept)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        """One row as it is trained, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = from_file(self.file[int(self.kept[index])])
        return without_tail(row if self.max_length is None else shortened(row, self.max_length))


def trained_rows(file: RowFile, max_length: int | None) -> tuple[TrainedRows, CutReport]:
    """Looks at every row once.

    Returns:
        What there is to train, and what max_length took: rows that lost tokens, the tokens, rows left with nothing.
    """
    kept: list[int] = []
    conversations: list[int] = []
    cut_rows = cut_tokens = emptied = 0
    for number in range(len(file)):
        row = from_file(file[number])
        short = row if max_length is None else shortened(row, max_length)
        if short.length < row.length:
            cut_rows, cut_tokens = cut_rows + 1, cut_tokens + row.length - short.length
        if short.loss_tokens:
            kept.append(number)
            conversations.append(row.conversation)
        else:
            emptied += 1
    report = CutReport(cut_rows=cut_rows, cut_tokens=cut_tokens, emptied_rows=emptied)
    return TrainedRows(file, np.array(kept, np.int64), np.array(conversations, np.int64), max_length), report
