"""Convert files and options of a command line for the client; add line numbers to the server's errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.markup import escape

from turnloom import errors
from turnloom.cli.options.groups import Reading
from turnloom.cli.running.session import Session
from turnloom.display.words import not_compared
from turnloom.foreign.columns import unused_sentence
from turnloom.plural import counted
from turnloom.v1 import datasets_pb2, types_pb2
from turnloom.wire.options import PreprocessFields

if TYPE_CHECKING:
    from turnloom.reading.local_sources import LocalPart

INDEX = re.compile(r"conversations?\[(\d+)\]")
LEADING = re.compile(r"conversations?\[\d+\][.:] ?")
ONLY = re.compile(r"conversation[.:] ?")  # of a request for one


TOO_LONG: Final = "too_long"  #: code of an issue that a larger max_length would help
TOLD_LONG: Final = 3  #: of these, conversations that are named; all are counted
REPEATED: Final = 10  #: links to a file that is read already, of which a sentence names so many
TOLD_WARNINGS: Final = 10  #: different sentences that are said; the dataset's record has more


@dataclass(frozen=True, slots=True)
class Loaded:
    """Conversations of a file in memory, with their places."""

    conversations: Sequence[types_pb2.Conversation]
    places: Sequence[str]
    bad: Sequence[str] = ()  #: the first rows that can't be read, each with its place
    bad_rows: int = 0  #: how many there are
    unused_columns: Sequence[str] = ()  #: that hold something and that nobody reads

    @classmethod
    def from_file(cls, path: Path, reading: Reading) -> Loaded:
        """Read every readable row.

        Raises:
            InvalidInput: there is no such file, or no row of it can be read.
        """
        part = _opened(path, reading, skip_bad=True)
        sourced = list(part.sourced())
        counts = part.counts
        places = [one.place for one in sourced]
        return cls([s.conversation for s in sourced], places, part.bad, counts.unreadable, counts.unused_columns)

    @classmethod
    def one(cls, path: Path, index: int, reading: Reading, *, skip_bad: bool) -> Loaded:
        """Read up to the conversation of this number, from 0, and no further.

        Raises:
            InvalidInput: a row before it can't be read and bad rows are not skipped, or there are fewer conversations.
        """
        found = 0
        for sourced in _opened(path, reading, skip_bad=skip_bad).sourced():
            if found == index:
                return cls([sourced.conversation], [sourced.place])
            found += 1
        raise errors.InvalidInput(
            f"--index is {index}, but {path} holds {counted(found, 'conversation')}.",
            hint=f"The last one is {found - 1}.",
            field="--index",
        )

    def place(self, index: int) -> str:
        """Return the place of a conversation."""
        return self.places[index] if index < len(self.places) else f"conversation {index}"

    @contextmanager
    def located(self) -> Iterator[None]:
        """Put file and line before the server's error about a conversation."""
        with _located(self.place):
            yield


def _opened(path: Path, reading: Reading, *, skip_bad: bool) -> LocalPart:
    from turnloom.reading.local_sources import LocalSource  # noqa: PLC0415  # needs numpy, which small commands do without
    from turnloom.reading.selecting import Choice  # noqa: PLC0415

    source = LocalSource.open(
        [path],
        format_name=reading.data_format,
        columns=reading.columns(),
        choice=Choice(reading.row_filter()),
    )
    part = source.whole()
    part.skip_bad = skip_bad
    return part


@contextmanager
def _located(place: Callable[[int], str]) -> Iterator[None]:
    try:
        yield
    except errors.Refused as error:
        index = INDEX.search(error.field) or INDEX.search(error.message)
        only = ONLY.match(error.message)
        if index is not None or only is not None:
            start = only or LEADING.match(error.message)  # the line says which one
            said = error.message[start.end() :] if start else error.message
            error.message = f"{place(int(index[1]) if index else 0)}: {said}"
        raise


def upload(
    session: Session, part: LocalPart, *, model: str, name: str, fields: PreprocessFields, strict: bool
) -> datasets_pb2.Dataset:
    """Make a READY dataset of a part of local files and report what was left out.

    Leaves out conversations that are too long, unless `strict`.

    Raises:
        InvalidInput: names file, line and field.
        Refused: with file and line of the conversation to blame.
    """
    if mixed := part.source.mixed_splits:
        session.say_once(f"[yellow]{escape(_mixed(mixed))}[/]")
    if repeated := part.source.repeated:
        session.say_once(f"[yellow]{escape(_repeated(repeated))}[/]")
    with _counting(session, name) as sent, _hinting(strict), _located(part.place):
        dataset = session.client.datasets.create_from_files(
            part, model=model, display_name=name, on_sent=sent, skip_too_long=not strict, **fields
        )
    for sentence in part.bad:
        session.say(f"[yellow]Left out:[/] {escape(sentence)}")
    say_issues(session, dataset, part.place)
    say_warnings(session, dataset, part.place)
    if dataset.state == datasets_pb2.DATASET_STATE_FAILED:
        place = f"{part.place(dataset.issues[0].conversation_index)}: " if dataset.issues else ""
        raise errors.InvalidInput(f"{place}{dataset.error.message}", hint=dataset.error.hint, code=dataset.error.code)
    say_left_out(session, dataset)
    return dataset


@contextmanager
def _hinting(strict: bool) -> Iterator[None]:
    """Name the options that help if a conversation is too long."""
    try:
        yield
    except errors.Refused as error:
        if "max_length" in error.message:
            other = ", or leave --strict out to go on without them" if strict else ""
            error.hint = f"Raise --max-length{other}. {error.hint}".strip()
        raise


@contextmanager
def _counting(session: Session, name: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many conversations were sent."""
    if session.as_json or not session.err.is_terminal:
        yield lambda _sent: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415  # 20 ms

    columns = (TextColumn(escape(name)), SpinnerColumn(), TextColumn("{task.completed} conversations sent"))
    with Progress(*columns, TimeElapsedColumn(), console=session.err, transient=True) as shown:
        task = shown.add_task("")
        yield lambda sent: shown.update(task, completed=sent)


def say_issues(session: Session, dataset: datasets_pb2.Dataset, place: Callable[[int], str] | None = None) -> None:
    """Name the conversations that were left out; of those that are too long the first few.

    `place` gives the place of a conversation; None: the messages begin with it, as those of a server's source do.
    """
    told_long = 0
    for issue in dataset.issues:
        told_long += issue.code == TOO_LONG
        if issue.code != TOO_LONG or told_long <= TOLD_LONG:
            where = f"{place(issue.conversation_index)}: " if place else ""
            session.say(f"[yellow]Left out:[/] {escape(f'{where}{issue.message}')}")


def say_warnings(session: Session, dataset: datasets_pb2.Dataset, place: Callable[[int], str] | None = None) -> None:
    """Say each warning once, at the first place where it was met, and how often it was met again.

    `place` gives the place of a conversation; None: it is left out, as a server's source has no lines here.
    """
    met: dict[str, list[int]] = {}
    for warning in dataset.warnings:
        met.setdefault(warning.message, []).append(warning.conversation_index)
    for message, indices in islice(met.items(), TOLD_WARNINGS):
        where = f"{place(indices[0])}: " if place else ""
        again = f" (and {len(indices) - 1} more)" if len(indices) > 1 else ""
        session.say(escape(f"{where}{message}{again}"))
    if len(met) > TOLD_WARNINGS:
        left = counted(len(met) - TOLD_WARNINGS, "other warning")
        session.say(f"{left}; they are listed by: turnloom dataset show {dataset.id}")


def say_left_out(session: Session, dataset: datasets_pb2.Dataset) -> None:
    """Report the counts of what was left out, those of a split source once for its two parts."""
    name, source = dataset.display_name, dataset.source
    if not source.take_test:  # else the training part has said these, its selection was the same
        for sentence in of_source(dataset):
            session.say(escape(f"{source.uri if source.test_fraction else name}: {sentence}"))
    for sentence in of_dataset(dataset):
        session.say(escape(f"{name}: {sentence}"))
    for sentence in of_files(dataset):
        session.say_once(escape(sentence))
    if dataset.unchecked_examples:
        session.say(f"[yellow]{not_compared(dataset.unchecked_examples)}[/]")


def of_source(dataset: datasets_pb2.Dataset) -> list[str]:
    """Count what a choice among the rows left out, and what it found."""
    source, filtered = dataset.source, dataset.left_out.filtered
    twice, shared = dataset.left_out.duplicates, dataset.left_out.overlapping
    return _counts(
        (filtered, "row", f"left out by the filter (filtered: {filtered})"),
        (twice, "conversation", f"left out, seen before (duplicates: {twice})"),
        (shared, "test conversation", f"also in {_other_part(source)} (overlapping: {shared}); {_apart(source)}"),
    )


def of_dataset(dataset: datasets_pb2.Dataset) -> list[str]:
    """Count the chosen conversations that gave no example."""
    long = dataset.too_long_conversations
    bad = dataset.skipped_conversations - long
    return _counts(
        (long, "conversation", f"left out as too long (too long: {long}); raise --max-length, or stop with --strict"),
        (bad, "bad row", f"left out (skipped: {bad})"),
    )


def of_files(dataset: datasets_pb2.Dataset) -> list[str]:
    """Name what of the files nobody reads, columns and links, and splits that are mixed."""
    columns, links = dataset.left_out.unused_columns, dataset.left_out.outside_links
    told = [unused_sentence(columns)] if columns else []
    if links:
        told.append(f"Left out, for they are links out of the source roots: {', '.join(links)}.")
    if dataset.left_out.mixed_splits:
        told.append(_mixed(dataset.left_out.mixed_splits))
    if dataset.left_out.repeated_files:
        told.append(_repeated(dataset.left_out.repeated_files))
    return told


def _repeated(files: Sequence[str]) -> str:
    more = f" and {len(files) - REPEATED} more" if len(files) > REPEATED else ""
    return f"Not read again, for they lead to files that are read already: {', '.join(files[:REPEATED])}{more}."


def _mixed(files: Sequence[str]) -> str:
    return f"Files of several splits become one dataset, such as {' and '.join(files)}."


def _counts(*found: tuple[int, str, str]) -> list[str]:
    """Return a sentence for each number that is not 0."""
    return [f"{counted(number, noun)} {what}" for number, noun, what in found if number]


def _other_part(source: datasets_pb2.DatasetSource) -> str:
    """Return what a test part's conversations were looked for in."""
    return f"the split {source.overlap_split}" if source.overlap_split else "the training part"


def _apart(source: datasets_pb2.DatasetSource) -> str:
    """Return how to get a test part without them; duplicates are looked for within one source only."""
    return "split it with --deduplicate exact" if source.test_fraction else "take them out of one of the two"
