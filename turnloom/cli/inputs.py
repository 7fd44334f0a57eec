"""Files and options of a command line as the client wants them; what a server says of a conversation gets its line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from turnloom import errors
from turnloom.cli.session import Session
from turnloom.options import PreprocessFields
from turnloom.v1 import datasets_pb2, types_pb2

if TYPE_CHECKING:
    from turnloom.conversations import Sourced
    from turnloom.local_sources import LocalPart

INDEX = re.compile(r"conversations?\[(\d+)\]")
LEADING = re.compile(r"conversations?\[\d+\][.:] ?")


@dataclass(frozen=True, slots=True)
class Loaded:
    """Conversations of a file in memory, and where each of them stands."""

    conversations: Sequence[types_pb2.Conversation]
    places: Sequence[str]

    @classmethod
    def from_file(cls, path: Path) -> Loaded:
        """Reads all of them.

        Raises:
            InvalidInput: names the line.
        """
        sourced = list(_rows(path))
        return cls([s.conversation for s in sourced], [s.place for s in sourced])

    @classmethod
    def one(cls, path: Path, index: int) -> Loaded:
        """Reads no further than the conversation of this number, from 0.

        Raises:
            InvalidInput: a row before it can't be read, or there are fewer conversations.
        """
        found = 0
        for sourced in _rows(path):
            if found == index:
                return cls([sourced.conversation], [sourced.place])
            found += 1
        raise errors.InvalidInput(
            f"--index is {index}, but {path} holds {found} conversations.",
            hint=f"The last one is {found - 1}.",
            field="--index",
        )

    def place(self, index: int) -> str:
        """Where a conversation stands."""
        return self.places[index] if index < len(self.places) else f"conversation {index}"

    @contextmanager
    def located(self) -> Iterator[None]:
        """Puts file and line before what the server says of a conversation."""
        with _located(self.place):
            yield


def _rows(path: Path) -> Iterator[Sourced]:
    from turnloom.local_sources import read_local  # noqa: PLC0415  # needs numpy, which small commands do without

    return read_local(path)


@contextmanager
def _located(place: Callable[[int], str]) -> Iterator[None]:
    try:
        yield
    except errors.Refused as error:
        index = INDEX.search(error.field) or INDEX.search(error.message)
        if index is not None:
            start = LEADING.match(error.message)  # the line says which one
            said = error.message[start.end() :] if start else error.message
            error.message = f"{place(int(index[1]))}: {said}"
        raise


def upload(
    session: Session, part: LocalPart, *, model: str, name: str, fields: PreprocessFields
) -> datasets_pb2.Dataset:
    """Makes a dataset of a part of local files; it is READY, and what was left out is said.

    Raises:
        InvalidInput: names file, line and field.
        Refused: with file and line of the conversation to blame.
    """
    with _counting(session, name) as sent, _located(part.place):
        dataset = session.client.datasets.create_from_files(
            part, model=model, display_name=name, on_sent=sent, **fields
        )
    for sentence in part.bad:
        session.say(f"[yellow]Left out:[/] {escape(sentence)}")
    for issue in dataset.issues:
        session.say(f"[yellow]Left out:[/] {escape(f'{part.place(issue.conversation_index)}: {issue.message}')}")
    if dataset.state == datasets_pb2.DATASET_STATE_FAILED:
        place = f"{part.place(dataset.issues[0].conversation_index)}: " if dataset.issues else ""
        raise errors.InvalidInput(f"{place}{dataset.error.message}", hint=dataset.error.hint, code=dataset.error.code)
    say_left_out(session, dataset)
    return dataset


@contextmanager
def _counting(session: Session, name: str) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many conversations were sent."""
    if session.as_json or not session.err.is_terminal:
        yield lambda _sent: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415  # 20 ms

    columns = (TextColumn(escape(name)), SpinnerColumn(), TextColumn("{task.completed} conversations sent"))
    with Progress(*columns, TimeElapsedColumn(), console=session.err, transient=True) as shown:
        task = shown.add_task("")
        yield lambda sent: shown.update(task, completed=sent)


def say_left_out(session: Session, dataset: datasets_pb2.Dataset) -> None:
    """What a choice among rows left out, as counts."""
    counts = dataset.left_out
    for number, sentence in (
        (counts.filtered, "rows left out by the filter (filtered: {})"),
        (counts.duplicates, "conversations came before and are left out (duplicates: {})"),
        (dataset.skipped_conversations, "bad rows left out (skipped: {})"),
        (counts.overlapping, "test conversations are in the training part too (overlapping: {}); deduplicate"),
    ):
        if number:
            session.say(f"{escape(dataset.display_name)}: {number} {sentence.format(number)}")
