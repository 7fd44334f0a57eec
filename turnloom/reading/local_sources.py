"""Read local files as conversations: detect the format, select rows, split into parts to send.

Holds at most 17 bytes a row, so a file may be larger than memory. It is read again where all rows must be known before
the first is sent. It is also read again to locate a row that the server refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turnloom.characters import whole
from turnloom.errors import InvalidInput
from turnloom.foreign.columns import UnusedColumns
from turnloom.foreign.json_text import JSON
from turnloom.reading.chat_formats import Format
from turnloom.reading.duplicates import DIGEST, digest
from turnloom.reading.file_names import each_once, mixed_splits
from turnloom.reading.filters import RowFilter
from turnloom.reading.local_files import find, rows
from turnloom.reading.rows import LOOKED_AT, RawRow, shape_of
from turnloom.reading.selecting import Choice, Looking, Mask, Selected, document_of, nothing_passes, overlap, passes
from turnloom.v1 import datasets_pb2, types_pb2
from turnloom.wire.conversations import SHAPE, Sourced, from_json

REMARKS: Final = 50  #: rows that are left out and told of
Document = dict[str, JSON] | InvalidInput


def read(
    path: Path | str,
    *,
    format_name: str = "",
    columns: Mapping[str, str] | None = None,
    where: Sequence[str] = (),
    skip_bad: bool = False,
) -> list[types_pb2.Conversation]:
    """Return all conversations of a file, a folder or a glob: every kind and format that the command line reads.

    Args:
        path: JSONL, JSON, CSV, Parquet or Arrow, compressed or not; a folder or a glob of them.
        format_name: messages, sharegpt, prompt_completion or alpaca; empty: what the first rows show.
        columns: part of the format -> column that plays it.
        where: conditions of rows to take, such as "lang = en"; all have to hold.
        skip_bad: leave rows out that can't be read.

    Raises:
        InvalidInput: names file, line and field of the first mistake.
    """
    choice = Choice(RowFilter(tuple(where)))
    part = LocalSource.open([path], format_name=format_name, columns=columns, choice=choice).whole()
    part.skip_bad = skip_bad
    return [sourced.conversation for sourced in part.sourced()]


@dataclass(frozen=True, slots=True)
class LocalSource:
    """Files in order, and which of their rows to read."""

    files: tuple[Path, ...]
    shape: Format
    choice: Choice = field(default_factory=Choice)
    limit: int = 0  #: rows to read; 0: all
    repeated: tuple[str, ...] = ()  #: links to these files, and files that were named again; they are not read again

    @classmethod
    def open(
        cls,
        words: Sequence[str | Path],
        *,
        format_name: str = "",
        columns: Mapping[str, str] | None = None,
        choice: Choice | None = None,
        limit: int = 0,
    ) -> LocalSource:
        """Find the files and detect their format.

        Args:
            words: files, folders and globs.
            format_name: empty: what the first rows show.
            columns: part of the format to column.
            choice: which rows are wanted.
            limit: rows to read, wanted or not; 0: all.

        Raises:
            InvalidInput: there is no file, no row or no known format, or the filter can't be read.
        """
        chosen = choice or Choice()
        chosen.row_filter.check()
        once, repeated = each_once([str(path) for path in find(words)])
        files = tuple(map(Path, once))
        # Read before detecting the format: errors about a file already name it.
        first = list(islice(chain.from_iterable(rows(path) for path in files), 1 if format_name else LOOKED_AT))
        if not first:
            raise InvalidInput(f"{_names(files)} holds no conversation.", hint=SHAPE)
        try:
            shape = shape_of(first, format_name, columns)
        except InvalidInput as error:
            raise InvalidInput(f"{files[0]}: {error.message}", hint=error.hint, field=error.field) from error
        return cls(files, shape, chosen, limit, repeated)

    @property
    def name(self) -> str:
        """Display name: the first file's, and how many more there are."""
        return _names(self.files)

    @property
    def mixed_splits(self) -> tuple[str, ...]:
        """A file of a training and one of a held-out split that are among these; empty: there are none."""
        return mixed_splits(map(str, self.files))

    def rows(self) -> Iterator[RawRow]:
        """Yield all rows, selected or not, from the first on."""
        return islice(chain.from_iterable(rows(path) for path in self.files), self.limit or None)

    def whole(self) -> LocalPart:
        """Return everything selected as one part; only for a choice that compares no rows."""
        assert not self.choice.compares
        return LocalPart(self)

    def parts(self) -> list[LocalPart]:
        """Return everything selected, or the two parts of a split; reads the files where it has to.

        Raises:
            InvalidInput: a file can't be read, the filter wants nothing, or there is too little for two parts.
        """
        if not self.choice.compares:
            return [self.whole()]
        looking = Looking(self.choice, self.shape)
        for row in self.rows():
            looking.add(row)
        found = looking.selected()
        masks = [found.train, found.test] if self.choice.test_fraction else [found.train]
        return [LocalPart(self, mask, _left_out(found), is_test=mask is found.test) for mask in masks]


@dataclass(slots=True)
class LocalPart:
    """Rows of a source that become one dataset."""

    source: LocalSource
    take: Mask | None = None  #: which rows; None: what the filter wants
    counts: datasets_pb2.LeftOut = field(default_factory=datasets_pb2.LeftOut)  #: complete once all rows were read
    skip_bad: bool = False  #: leave rows out that can't be read, and tell of them
    is_test: bool = False  #: what a split holds out
    bad: list[str] = field(default_factory=list)  #: the first REMARKS rows that can't be read, each with its place

    def wanted(self) -> Iterator[tuple[RawRow, Document]]:
        """Yield the selected rows, each as {"messages": [...], ...} or with what is wrong with it."""
        chosen = self.source.choice.row_filter.check() if self.take is None else None
        if chosen is not None:
            self.counts.filtered = 0
        for index, row in enumerate(self.source.rows()):
            if self.take is not None and not self.take[index]:
                continue
            document = document_of(row, self.source.shape)
            if chosen is not None and not passes(row, document, chosen):
                self.counts.filtered += 1
                continue
            yield row, document

    def numbered(self) -> Iterator[tuple[int, types_pb2.Conversation]]:
        """Yield conversations with their numbers among the selected rows; gaps are rows that can't be read.

        Raises:
            InvalidInput: names file, line and field of a mistake, unless bad rows are left out; or nothing is wanted.
        """
        return ((number, conversation) for number, _, conversation, _ in self._good())

    def sourced(self) -> Iterator[Sourced]:
        """Yield the conversations, each with its place.

        Raises:
            InvalidInput: as numbered().
        """
        return (Sourced(conversation, row.place) for _, row, conversation, _ in self._good())

    def check(self) -> NDArray[np.bytes_]:
        """Read everything, so that a mistake surfaces before any dataset is made.

        Returns:
            A digest of each conversation, shape (conversations,), for note_overlap().

        Raises:
            InvalidInput: as numbered().
        """
        form = self.source.choice.deduplicate or "exact"
        found = b"".join(digest(document, form) for _, _, _, document in self._good())
        return np.frombuffer(found, dtype=f"S{DIGEST}")

    def _good(self) -> Iterator[tuple[int, RawRow, types_pb2.Conversation, Mapping[str, JSON]]]:
        self.counts.unreadable = 0
        self.bad.clear()
        unused = UnusedColumns((*self.source.shape.used, *self.source.choice.row_filter.columns))
        read = 0
        for number, (row, document) in enumerate(self.wanted()):
            read += 1
            unused.add(row.value, row.unread)
            try:
                conversation = _conversation(row, document)
            except InvalidInput as error:
                if not self.skip_bad:
                    raise
                self.counts.unreadable += 1
                if len(self.bad) < REMARKS:
                    self.bad.append(error.message)
                continue
            assert not isinstance(document, InvalidInput)  # it was read
            yield number, row, conversation, document
        self.counts.unused_columns[:] = unused.names
        if read == self.counts.unreadable:
            raise self._nothing()

    def note_overlap(self, training: NDArray[np.bytes_], own: NDArray[np.bytes_]) -> None:
        """Count the conversations that this test part shares with a training part; both as check() returns them."""
        self.is_test = True
        self.counts.overlapping = overlap(training, own)

    def place(self, number: int) -> str:
        """Return where a selected row stands, for people."""
        found = next(islice(self.wanted(), number, None), None)
        return f"conversation {number}" if found is None else found[0].place

    def description(self) -> datasets_pb2.DatasetSource:
        """Describe what was read and how it was chosen, for the dataset's record."""
        choice, shape = self.source.choice, self.source.shape
        asked = choice.row_filter
        message = datasets_pb2.DatasetSource(
            uri=whole(self.source.name),
            format=shape.name,
            column_mapping=shape.columns,
            limit=self.source.limit,
            test_fraction=choice.test_fraction,
            split_seed=choice.split_seed,
            take_test=self.is_test and bool(choice.test_fraction),
        )
        if choice.deduplicate:
            message.deduplicate = datasets_pb2.Deduplicate.Value(f"DEDUPLICATE_{choice.deduplicate.upper()}")
        if asked:
            message.filter.where.extend(asked.where)
            for name in ("min_messages", "max_messages", "min_characters", "max_characters"):
                setattr(message.filter, name, getattr(asked, name))
        return message

    def _nothing(self) -> InvalidInput:
        if self.counts.unreadable:
            return InvalidInput(
                f"No row of {self.counts.unreadable} can be read, the first: {self.bad[0]}",
                hint="Look at the format and the columns.",
            )
        return nothing_passes(self.counts.filtered)


def _conversation(row: RawRow, document: Document) -> types_pb2.Conversation:
    """Convert a row; raises InvalidInput with place, field and sentence."""
    if not isinstance(document, InvalidInput):
        return from_json(document, row.place)
    where = ": ".join(part for part in (row.place, document.field, document.message) if part)
    raise InvalidInput(where, hint=document.hint, field=document.field)


def _left_out(found: Selected) -> datasets_pb2.LeftOut:
    """Return a copy of the counts for one part, which adds the rows it can't read."""
    return datasets_pb2.LeftOut(filtered=found.filtered, duplicates=found.duplicates, overlapping=found.overlapping)


def _names(files: Sequence[Path]) -> str:
    more = len(files) - 1
    return files[0].name[:1024] + (f" and {more} more" if more else "")
