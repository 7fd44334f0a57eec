"""Sources on a command line: hub names, the parts of a split, and a dataset watched while it is made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from rich.markup import escape

from turnloom.cli.session import Session, pairs
from turnloom.cli.words import dataset_state
from turnloom.errors import InvalidInput
from turnloom.v1 import datasets_pb2

#: owner/name; a single word is taken for a file, for that is what people mistype.
HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".txt")


def is_hub_name(argument: Path) -> bool:
    """Whether it names a hub dataset: it looks like owner/name, and there is nothing of that name here."""
    text = argument.as_posix()
    return (
        HUB_NAME.fullmatch(text) is not None
        and not text.lower().endswith(FILES)
        and not argument.exists()
        and not argument.parent.exists()
    )


def columns(texts: list[str] | None) -> dict[str, str]:
    """PART=COLUMN options.

    Raises:
        InvalidInput: one has no "=".
    """
    return pairs(texts or (), "--column")


def choose_deduplication(source: datasets_pb2.DatasetSource, name: str) -> None:
    """Set the source's `deduplicate`; an empty name leaves it absent.

    Raises:
        InvalidInput: an unknown name.
    """
    known = {"exact": datasets_pb2.DEDUPLICATE_EXACT, "normalized": datasets_pb2.DEDUPLICATE_NORMALIZED}
    if name:
        if name not in known:
            raise InvalidInput(
                f"--deduplicate: there is no {name!r}.", hint=f"Choose from {', '.join(known)}.", field="--deduplicate"
            )
        source.deduplicate = known[name]


def parts(source: datasets_pb2.DatasetSource) -> Iterator[tuple[datasets_pb2.DatasetSource, str]]:
    """The source, or with a test fraction its two parts; each with what is added to the dataset's name."""
    if not source.test_fraction:
        yield source, ""
        return
    for take_test, suffix in ((False, " (train)"), (True, " (test)")):
        part = datasets_pb2.DatasetSource()
        part.CopyFrom(source)
        part.take_test = take_test
        yield part, suffix


def watched(session: Session, dataset: datasets_pb2.Dataset) -> datasets_pb2.Dataset:
    """The dataset when it is READY; what is left out or odd is said.

    Raises:
        InvalidInput: it failed or was cancelled.
    """
    session.say(f"Dataset {dataset.id} is being made; Ctrl-C leaves it going.")
    for state in session.client.watch_dataset(dataset.id):
        shards = f", {state.shards_done} of {state.shards} shards done" if state.shards else ""
        session.say(f"{dataset_state(state)}: {state.conversations_read} conversations read{shards}")
        dataset = state
    if dataset.state != datasets_pb2.DATASET_STATE_READY:
        raise InvalidInput(
            f"{dataset.id} ended {dataset_state(dataset)}: {dataset.error.message}",
            hint=dataset.error.hint,
            code=dataset.error.code,
        )
    session.say(f"Read as {dataset.source.format}.")
    for issue in dataset.issues:
        session.say(f"[yellow]Left out:[/] {escape(issue.message)}")
    for warning in dataset.warnings:
        session.say(f"Conversation {warning.conversation_index}: {escape(warning.message)}")
    return dataset
