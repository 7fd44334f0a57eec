"""Select rows of a source: filter, remove duplicates, then split into parts.

The client uses this for local files, the preprocess worker for other sources, so both choose the same rows.
One pass, 17 bytes a row. An unreadable row is selected and equals no other, so that it is reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import JSON
from turnloom.reading.chat_formats import Format
from turnloom.reading.duplicates import DIGEST, FORMS, digest, first_of_each
from turnloom.reading.filters import RowFilter, Wanted
from turnloom.reading.rows import RawRow
from turnloom.reading.splitting import held_out

Mask = NDArray[np.bool_]  # shape (rows of the source,)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to select."""

    row_filter: RowFilter = field(default_factory=RowFilter)
    deduplicate: str = ""  #: "exact", "normalized"; empty: keep all
    test_fraction: float = 0.0  #: part that is held out, >= 0 and < 1; 0: no split
    split_seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an unknown name and an impossible fraction.

        Raises:
            InvalidInput
        """
        if self.deduplicate and self.deduplicate not in FORMS:
            raise InvalidInput(
                f"There is no way {self.deduplicate!r} to compare conversations.",
                hint=f"Choose from {', '.join(FORMS)}.",
                field="deduplicate",
            )
        if not 0 <= self.test_fraction < 1:
            raise InvalidInput(
                f"test fraction: is {self.test_fraction:g}; give a number between 0 and 1.",
                hint="Try 0.1.",
                field="test_fraction",
            )

    @property
    def compares(self) -> bool:
        """Whether rows are compared with each other, which takes a full pass first."""
        return bool(self.deduplicate or self.test_fraction)

    def __bool__(self) -> bool:
        """Return whether anything could be left out."""
        return self.compares or bool(self.row_filter)


@dataclass(frozen=True, slots=True)
class Selected:
    """The selected rows."""

    train: Mask  #: everything that is wanted, where there is no split
    test: Mask  #: what is held out; nothing where there is no split
    filtered: int  #: rows that the filter does not want
    duplicates: int  #: conversations that came before
    overlapping: int  #: conversations of `test` that are in `train` too


class Looking:
    """A pass over the rows of one source, from the first on."""

    def __init__(self, choice: Choice, shape: Format, *, compare: bool = False) -> None:
        """Start a pass.

        Args:
            choice: what is asked for.
            shape: format of the rows.
            compare: digests are wanted, whatever is asked for.

        Raises:
            InvalidInput: the filter can't be read.
        """
        self._choice = choice
        self._shape = shape
        self._wanted = choice.row_filter.check()
        self._compare = compare or choice.compares
        self._digests = bytearray()
        self._passed = bytearray()
        self._known = bytearray()

    def add(self, row: RawRow) -> None:
        """Add one row."""
        document = document_of(row, self._shape)
        wanted = passes(row, document, self._wanted)
        self._passed.append(wanted)
        if self._compare:
            known = wanted and isinstance(document, dict)
            self._known.append(known)
            position = len(self._passed) - 1
            same = digest(document, self._choice.deduplicate or "exact") if known else position.to_bytes(DIGEST, "big")  # type: ignore[arg-type]  # known
            self._digests += same

    @property
    def digests(self) -> NDArray[np.bytes_]:
        """Digests of the rows so far, shape (rows,); unique for a row that is unreadable or not selected."""
        return np.frombuffer(bytes(self._digests), dtype=f"S{DIGEST}")

    @property
    def passed(self) -> Mask:
        """Rows so far that the filter wants; unreadable ones pass."""
        return np.frombuffer(bytes(self._passed), dtype=np.bool_)

    @property
    def known(self) -> Mask:
        """Rows so far whose digest can equal another's: wanted and readable."""
        return np.frombuffer(bytes(self._known), dtype=np.bool_)

    def selected(self) -> Selected:
        """Return the selection among the rows so far.

        Raises:
            InvalidInput: nothing passes the filter, or too little for two parts.
        """
        digests = self.digests
        return selected(
            self._choice,
            self.passed,
            lambda: first_of_each(digests),
            lambda train, test: overlap(digests[train], digests[test]),
        )


def selected(
    choice: Choice, passed: Mask, first: Callable[[], Mask], overlapping: Callable[[Mask, Mask], int]
) -> Selected:
    """Return the selection among all rows.

    Args:
        choice: what is asked for.
        passed: rows that the filter wants, shape (rows,).
        first: marks the first row of each digest, shape (rows,).
        overlapping: counts the rows of the second mask whose digest the first mask holds too.

    Raises:
        InvalidInput: nothing passes the filter, or too little for two parts.
    """
    filtered = int(len(passed) - passed.sum())
    if filtered and filtered == len(passed):
        raise nothing_passes(filtered)
    nothing = np.zeros(len(passed), dtype=np.bool_)
    keep = passed & first() if choice.deduplicate else passed
    duplicates = int(passed.sum() - keep.sum())
    if not choice.test_fraction:
        return Selected(keep, nothing, filtered, duplicates, 0)
    test = nothing.copy()
    positions = np.flatnonzero(keep)
    test[positions[held_out(len(positions), choice.test_fraction, choice.split_seed)]] = True
    train = keep & ~test
    return Selected(train, test, filtered, duplicates, overlapping(train, test))


def overlap(train: NDArray[np.bytes_], test: NDArray[np.bytes_]) -> int:
    """Count the test part's conversations that the training part also has."""
    return int(np.isin(test, train).sum())


def nothing_passes(rows: int) -> InvalidInput:
    """Return the error for a filter that rejects all of so many rows."""
    sentence = f"The filter wants no row of {rows}."
    return InvalidInput(sentence, hint="Look at its columns and values.", field="filter")


def document_of(row: RawRow, shape: Format) -> dict[str, JSON] | InvalidInput:
    """Return the row as {"messages": [...], ...}, or why it can't be read, without its place."""
    if row.mistake:
        return InvalidInput(row.mistake)
    try:
        return shape.document(row.value, row.unread)
    except InvalidInput as error:
        return error


def passes(row: RawRow, document: dict[str, JSON] | InvalidInput, wanted: Wanted) -> bool:
    """Return whether a filter accepts a row; unreadable rows pass."""
    if row.mistake:
        return True
    return wanted.row(row.value) and (isinstance(document, InvalidInput) or wanted.document(document))
