"""Sources on a command line: hub names, row selection, the parts of a split, watching a new dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from google.protobuf.message import Message

from turnloom.cli.inputs import say_issues, say_left_out, say_warnings
from turnloom.cli.running.session import Session
from turnloom.display.words import dataset_state
from turnloom.errors import InvalidInput
from turnloom.plural import counted
from turnloom.progress import checked
from turnloom.reading.file_kinds import COMPRESSED, KINDS
from turnloom.reading.filters import RowFilter
from turnloom.v1 import datasets_pb2

#: owner/name; a single word is taken for a file, for that is what people mistype.
HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES: Final = (*KINDS, *COMPRESSED, ".txt")


def filter_message(asked: RowFilter) -> datasets_pb2.RowFilter | None:
    """Return the filter as the server takes it; None: there is none."""
    if not asked:
        return None
    return datasets_pb2.RowFilter(
        where=asked.where,
        min_messages=asked.min_messages,
        max_messages=asked.max_messages,
        min_characters=asked.min_characters,
        max_characters=asked.max_characters,
    )


def is_hub_name(argument: Path) -> bool:
    """Return whether it names a hub dataset: it looks like owner/name, and no such path exists here."""
    text = argument.as_posix()
    return (
        HUB_NAME.fullmatch(text) is not None
        and not text.lower().endswith(FILES)
        and not argument.exists()
        and not argument.parent.exists()
    )


def choose_deduplication(source: datasets_pb2.DatasetSource, name: str) -> None:
    """Set the source's `deduplicate`; an empty name leaves it absent.

    Raises:
        InvalidInput: an unknown name.
    """
    check_deduplication(name)
    if name:
        source.deduplicate = datasets_pb2.Deduplicate.Value(f"DEDUPLICATE_{name.upper()}")


def check_deduplication(name: str) -> None:
    """Refuse an unknown way to compare.

    Raises:
        InvalidInput
    """
    from turnloom.reading.duplicates import FORMS  # noqa: PLC0415  # needs numpy

    if name and name not in FORMS:
        raise InvalidInput(
            f"--deduplicate: there is no {name!r}.", hint=f"Choose from {', '.join(FORMS)}.", field="--deduplicate"
        )


def parts(source: datasets_pb2.DatasetSource, test_split: str = "") -> Iterator[tuple[datasets_pb2.DatasetSource, str]]:
    """Yield the source, or its training and test part, each with the suffix of the dataset's name."""
    if not (source.test_fraction or test_split):
        yield source, ""
        return
    training, held_out = datasets_pb2.DatasetSource(), datasets_pb2.DatasetSource()
    training.CopyFrom(source)
    held_out.CopyFrom(source)
    if test_split:
        held_out.split, held_out.overlap_split = test_split, source.split or "train"
    else:
        held_out.take_test = True
    yield training, " (train)"
    yield held_out, " (test)"


def named_fields(message: Message, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the set fields of a message, one line each."""
    for descriptor, value in message.ListFields():
        name = f"{prefix} {descriptor.name}"
        if isinstance(value, Message):
            yield from named_fields(value, name)
        elif isinstance(value, Mapping):
            yield name, ", ".join(f"{key}={item}" for key, item in value.items())
        elif descriptor.enum_type is not None:
            yield name, descriptor.enum_type.values_by_number[value].name.rpartition("_")[2].lower()
        elif isinstance(value, bool):
            yield name, "true" if value else "false"
        elif isinstance(value, str | int | float):
            yield name, f"{value}"
        else:
            yield name, " and ".join(map(str, value))


def watched(session: Session, dataset: datasets_pb2.Dataset) -> datasets_pb2.Dataset:
    """Wait for the dataset and return it READY; report what is left out or odd.

    Raises:
        Unavailable: its hub can't be reached.
        InvalidInput: it failed otherwise, or was cancelled.
    """
    session.say(f"Dataset {dataset.id} is being made; Ctrl-C leaves it going.")
    with _told(session) as tell:
        for state in session.client.datasets.watch(dataset.id):
            shards = f", {state.shards_done} of {counted(state.shards, 'shard')} done" if state.shards else ""
            tell(f"{dataset_state(state)}: {counted(state.conversations_read, 'conversation')} read{shards}")
            dataset = state
    checked(dataset)
    session.say(f"Read as {dataset.source.format}.")
    say_issues(session, dataset)
    say_warnings(session, dataset)
    say_left_out(session, dataset)
    return dataset


@contextmanager
def _told(session: Session) -> Iterator[Callable[[str], None]]:
    """Give a function that updates one line in a terminal, or prints lines elsewhere."""
    if session.as_json or not session.err.is_terminal:
        yield session.say
        return
    with session.err.status("") as status:
        yield status.update
