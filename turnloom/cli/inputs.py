"""Files and options of a command line as the client wants them; what a server says of a conversation gets its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias, cast

import typer

from turnloom import errors
from turnloom.cli.session import Session, pairs
from turnloom.local_files import read_local
from turnloom.options import HyperparameterFields, PreprocessFields, from_text
from turnloom.splitting import split
from turnloom.v1 import datasets_pb2, training_pb2, types_pb2

INDEX = re.compile(r"conversations?\[(\d+)\]")

Model: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", help="Model (`turnloom models`); may be left out where there is just one.")
]
TrainOn: TypeAlias = Annotated[str, typer.Option(help="Which messages are trained: all_assistant_messages, ...")]
MaxLength: TypeAlias = Annotated[int | None, typer.Option(help="Tokens per example. Default: 2048.")]
Truncation: TypeAlias = Annotated[str, typer.Option(help="right (default), left, drop_turns or error.")]
Option: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="NAME=VALUE", help="Any other field of PreprocessOptions; may be repeated."),
]
Labels: TypeAlias = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Free label; may be repeated.")
]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Conversations of a file, and where each of them stands."""

    conversations: Sequence[types_pb2.Conversation]
    places: Sequence[str]

    @classmethod
    def from_file(cls, path: Path) -> Loaded:
        """Reads all of them.

        Raises:
            InvalidInput: names the line.
        """
        sourced = list(read_local(path))
        return cls([s.conversation for s in sourced], [s.place for s in sourced])

    def split(self, fraction: float, seed: int) -> tuple[Loaded, Loaded]:
        """Train and test."""
        pairs_of = list(zip(self.conversations, self.places, strict=True))
        train, test = split(pairs_of, fraction, seed)
        return Loaded(*map(list, zip(*train, strict=True))), Loaded(*map(list, zip(*test, strict=True)))

    def place(self, index: int) -> str:
        """Where a conversation stands."""
        return self.places[index] if index < len(self.places) else f"conversation {index}"

    @contextmanager
    def located(self) -> Iterator[None]:
        """Puts file and line before what the server says of a conversation."""
        try:
            yield
        except errors.Refused as error:
            index = INDEX.search(error.field) or INDEX.search(error.message)
            if index is not None:
                error.message = f"{self.place(int(index[1]))}: {error.message}"
            raise


def choose_model(session: Session, name: str) -> str:
    """The model that was named, or the only one that there is.

    Raises:
        InvalidInput: none was named and the server has none, or several.
    """
    if name:
        return name
    served = [model.name for model in session.client.models()]
    if len(served) == 1:
        return served[0]
    have = ", ".join(served) or "no model"
    raise errors.InvalidInput(f"--model is missing; the server has {have}.", hint="Name one.", field="--model")


def preprocess_fields(
    train_on: str, max_length: int | None, truncation: str, others: Sequence[str] | None
) -> PreprocessFields:
    """The options that were given, and only these."""
    fields: dict[str, object] = {
        name: from_text(types_pb2.PreprocessOptions, name, text)
        for name, text in pairs(others or (), "--option").items()
    }
    given = {"train_on": train_on or None, "max_length": max_length, "truncation": truncation or None}
    fields.update({name: value for name, value in given.items() if value is not None})
    return cast(PreprocessFields, fields)


def hyperparameter_fields(given: dict[str, object], others: Sequence[str] | None) -> HyperparameterFields:
    """The hyperparameters that were given, and only these."""
    fields: dict[str, object] = {
        name: from_text(training_pb2.Hyperparameters, name, text) for name, text in pairs(others or (), "--set").items()
    }
    fields.update({name: value for name, value in given.items() if value is not None})
    return cast(HyperparameterFields, fields)


def upload(
    session: Session, loaded: Loaded, *, model: str, name: str, skip_bad: bool, fields: PreprocessFields
) -> datasets_pb2.Dataset:
    """Makes a dataset of the conversations; it is READY.

    Raises:
        Refused: with file and line of the conversation to blame.
    """
    with loaded.located():
        dataset = session.client.create_dataset(
            loaded.conversations, model=model, display_name=name, skip_bad=skip_bad, **fields
        )
    for issue in dataset.issues:
        session.say(f"[yellow]Left out:[/] {loaded.place(issue.conversation_index)}: {issue.message}")
    if dataset.state == datasets_pb2.DATASET_STATE_FAILED:
        place = f"{loaded.place(dataset.issues[0].conversation_index)}: " if dataset.issues else ""
        raise errors.InvalidInput(f"{place}{dataset.error.message}", hint=dataset.error.hint, code=dataset.error.code)
    return dataset
