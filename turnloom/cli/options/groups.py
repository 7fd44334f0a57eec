"""Options that several commands take, as frozen groups: a command names the group, session.command splices it in.

A field is an option: its name, type, help and default. A field of a hyperparameter has the contract's name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Final, TypeAlias, cast

import typer

from turnloom.cli.running.session import Session, pairs
from turnloom.errors import InvalidInput
from turnloom.reading.filters import RowFilter
from turnloom.v1 import training_pb2, types_pb2
from turnloom.wire.options import HyperparameterFields, PreprocessFields, from_text

LARGEST: Final = 2**32 - 1  #: whole number of an option that the contract has as uint32
AUTO: Final = "auto"  #: a learning rate by the size of the model
Labels: TypeAlias = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Free label; may be repeated.")
]
Model: TypeAlias = Annotated[
    str, typer.Option("--model", "-m", help="Model (`turnloom models`); may be left out where there is just one.")
]
RequestId: TypeAlias = Annotated[
    str, typer.Option(help="Makes the command repeatable: the same id gives the same job or sweep.")
]
Detach: TypeAlias = Annotated[bool, typer.Option("--detach", "-d", help="Submit and return.")]
SetOption: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any other hyperparameter; may be repeated.")
]


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Which model conversations are for, and how they become examples."""

    model: Model = ""
    train_on: Annotated[str, typer.Option(help="Which messages are trained: all_assistant_messages, ...")] = ""
    max_length: Annotated[int | None, typer.Option(help="Tokens per example. Default: 2048.")] = None
    truncation: Annotated[str, typer.Option(help="right (default), left, drop_turns or error.")] = ""
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="NAME=VALUE", help="Any other field of PreprocessOptions; may be repeated."
        ),
    ] = None

    def fields(self) -> PreprocessFields:
        """Return the options that were given, and only these."""
        named: dict[str, object] = {
            name: from_text(types_pb2.PreprocessOptions, name, text)
            for name, text in pairs(self.option or (), "--option").items()
        }
        given = {
            "train_on": self.train_on or None,
            "max_length": self.max_length,
            "truncation": self.truncation or None,
        }
        return cast(PreprocessFields, named | {name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True)
class BadConversations:
    """What happens to conversations that no example can be made of."""

    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave all bad conversations out and list them.")] = False
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at one that is too long, too, instead of leaving it out.")
    ] = False

    def check(self) -> None:
        """Refuse both options together.

        Raises:
            InvalidInput
        """
        if self.skip_bad and self.strict:
            raise InvalidInput(
                "--skip-bad and --strict exclude each other.", hint="Give one of them.", field="--strict"
            )


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows of files are read, and which are wanted."""

    data_format: Annotated[
        str, typer.Option("--format", help="messages, sharegpt, prompt_completion or alpaca. Default: detected.")
    ] = ""
    column: Annotated[
        list[str] | None, typer.Option(metavar="PART=COLUMN", help="Column that plays a part; may be repeated.")
    ] = None
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION", help="Rows to take, such as 'lang = en' or 'score >= 4'; repeated: all have to hold."
        ),
    ] = None

    def columns(self) -> dict[str, str]:
        """Return the PART=COLUMN options.

        Raises:
            InvalidInput: one has no "=".
        """
        return pairs(self.column or (), "--column")

    def row_filter(self) -> RowFilter:
        """Return the conditions as a filter that can be read.

        Raises:
            InvalidInput: naming the option.
        """
        return _checked(RowFilter(tuple(self.where or ())))


@dataclass(frozen=True, slots=True)
class RowChoice(Reading):
    """How the rows of a source are read, and which of them become a dataset."""

    min_messages: Annotated[int, typer.Option(help="Fewest messages of a conversation.", min=0)] = 0
    max_messages: Annotated[int, typer.Option(help="Most messages; 0: any number.", min=0)] = 0
    min_characters: Annotated[int, typer.Option(help="Fewest characters of all messages together.", min=0)] = 0
    max_characters: Annotated[int, typer.Option(help="Most characters; 0: any number.", min=0)] = 0
    deduplicate: Annotated[str, typer.Option(help="exact or normalized: leave out what came before.")] = ""
    limit: Annotated[int, typer.Option(help="Rows to read, wanted or not; 0: all.", min=0)] = 0

    def row_filter(self) -> RowFilter:
        """Return the conditions and bounds as a filter that can be read.

        Raises:
            InvalidInput: naming the option.
        """
        return _checked(
            RowFilter(
                tuple(self.where or ()),
                self.min_messages,
                self.max_messages,
                self.min_characters,
                self.max_characters,
            )
        )


def _checked(asked: RowFilter) -> RowFilter:
    try:
        asked.check()
    except InvalidInput as error:
        name = error.field.removeprefix("filter.").partition("[")[0].replace("_", "-")
        raise InvalidInput(f"--{name}: {error.message}", hint=error.hint, field=f"--{name}") from error
    return asked


@dataclass(frozen=True, slots=True)
class TestPart:
    """A part of one source that becomes a test dataset of its own."""

    test_fraction: Annotated[float | None, typer.Option(help="Part to hold out as a test dataset.")] = None
    seed: Annotated[int, typer.Option(help="Seed of --test-fraction.", min=0)] = 0


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several datasets to train on, instead of one."""

    mix: Annotated[
        list[str] | None,
        typer.Option(
            "--mix", metavar="DATASET=WEIGHT", help="Instead of DATA: one of several datasets, and its weight."
        ),
    ] = None

    def weights(self) -> dict[str, float]:
        """Return the weight of each dataset id, in the order given.

        Raises:
            InvalidInput: naming the option that can't be read.
        """
        found: dict[str, float] = {}
        for text in self.mix or ():
            name, _, weight = text.partition("=")
            try:
                value = float(weight)
            except ValueError:
                raise InvalidInput(
                    f"--mix {text}: there is no number after '='.", hint="Write --mix ds-...=0.7.", field="--mix"
                ) from None
            if name in found:
                raise InvalidInput(f"--mix names {name} twice.", hint="Add up its weights.", field="--mix")
            found[name] = value
        return checked_mix(found, "--mix")


def checked_mix(weights: dict[str, float], field: str) -> dict[str, float]:
    """Return the weights of datasets by id, unless one names no dataset.

    Raises:
        InvalidInput: naming it.
    """
    for name in weights:
        if not name.startswith("ds-"):
            raise InvalidInput(
                f"{field}: {name!r} is no dataset id.",
                hint="Make datasets of files first: `turnloom dataset create FILE`.",
                field=field,
            )
    return weights


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a job is evaluated on."""

    test: Annotated[str, typer.Option(help="Dataset id or file to evaluate on.")] = ""
    test_fraction: Annotated[float | None, typer.Option(help="Part of the file to hold out instead.")] = None

    def __bool__(self) -> bool:
        """Return whether any option was given."""
        return bool(self.test) or self.test_fraction is not None


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a job trains, and in which order."""

    epochs: Annotated[int | None, typer.Option(help="Passes over the data. Default: 1.")] = None
    max_steps: Annotated[int | None, typer.Option("--steps", "--max-steps", help="Instead of --epochs.")] = None
    batch_size: Annotated[int | None, typer.Option(help="Conversations per step. Default: 16.")] = None
    seed: Annotated[int | None, typer.Option(help="Order of the data; split of --test-fraction. Default: 0.")] = None
    eval_every: Annotated[
        int | None, typer.Option(help="Steps between evaluations. Default: 50; of a sweep a tenth of --steps.")
    ] = None
    others: SetOption = None

    def fields(self, without: Collection[str] = ()) -> HyperparameterFields:
        """Return the hyperparameters that were given, and only these; options named in `without` are left out."""
        named: dict[str, object] = {
            name: from_text(training_pb2.Hyperparameters, name, text)
            for name, text in pairs(self.others or (), "--set").items()
        }
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in without}
        given.pop("others", None)
        return cast(HyperparameterFields, named | {name: value for name, value in given.items() if value is not None})


def _rate(text: str | None) -> str | None:
    """Refuse anything but a number or AUTO, as the command line refuses other numbers."""
    if text is not None and text != AUTO:
        try:
            float(text)
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is neither a number nor {AUTO}.") from error
    return text


@dataclass(frozen=True, slots=True)
class JobHyperparameters(Budget):
    """The hyperparameters of one job; a learning rate that is AUTO is not among the fields."""

    def fields(self, without: Collection[str] = ()) -> HyperparameterFields:
        """Return the hyperparameters that were given, and only these."""
        if self.learning_rate == AUTO:
            return super(JobHyperparameters, self).fields({*without, "learning_rate"})
        given = super(JobHyperparameters, self).fields(without)
        if self.learning_rate is not None:
            given["learning_rate"] = float(self.learning_rate)
        return given

    lora_rank: Annotated[int | None, typer.Option("--rank", "--lora-rank", help="LoRA rank. Default: 32.")] = None
    learning_rate: Annotated[
        str | None,
        typer.Option(
            "--lr",
            "--learning-rate",
            metavar="RATE",
            callback=_rate,
            help="Default: 1e-4, for batch size 16; auto: by the size of the model (docs/guide.md).",
        ),
    ] = None
    schedule: Annotated[str | None, typer.Option(help="constant (default), linear or cosine.")] = None
    warmup_steps: Annotated[int | None, typer.Option(help="Default: 0.")] = None
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints. Default: 50.")] = None
    train_mlp: Annotated[bool | None, typer.Option(help="Adapters in MLP layers. Default: yes.")] = None
    train_attn: Annotated[bool | None, typer.Option(help="Adapters in attention. Default: yes.")] = None
    train_unembed: Annotated[
        bool | None, typer.Option(help="An adapter in the output layer, where the model takes one. Default: yes.")
    ] = None


@dataclass(frozen=True, slots=True)
class Start:
    """The checkpoint that a job begins from."""

    start_from: Annotated[str, typer.Option(metavar="JOB[:CHECKPOINT]", help="Begin from a checkpoint.")] = ""
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Leave its optimizer state behind.")] = False

    def message(self) -> training_pb2.StartFrom | None:
        """Return it as the contract's message; None: start from the model itself.

        Raises:
            InvalidInput: --weights-only alone.
        """
        if not self.start_from:
            if self.weights_only:
                raise InvalidInput("--weights-only says nothing without --start-from.", hint="Add --start-from JOB.")
            return None
        job, _, checkpoint = self.start_from.partition(":")
        return training_pb2.StartFrom(job=job, checkpoint=checkpoint, weights_only=self.weights_only)


@dataclass(frozen=True, slots=True)
class Submission:
    """Where jobs run, and what they are called."""

    host: Annotated[str, typer.Option(help="GPU host. Default: one that serves the model.")] = ""
    priority: Annotated[
        int, typer.Option(help="Higher ones get a host first; above 0 needs the scope admin.", min=-100, max=100)
    ] = 0
    label: Labels = None
    request_id: RequestId = ""
    detach: Detach = False

    def labels(self) -> dict[str, str]:
        """Return the NAME=VALUE labels."""
        return pairs(self.label or (), "--label")


File: TypeAlias = Annotated[
    Path,
    typer.Argument(help="JSONL, JSON, CSV, Parquet or Arrow file, folder or glob.", metavar="FILE", show_default=False),
]


def choose_model(session: Session, name: str) -> str:
    """Return the named model, or the server's only one.

    Raises:
        InvalidInput: no model was named, and the server has none or several.
    """
    if name:
        return name
    served = [model.name for model in session.client.models.list()]
    if len(served) == 1:
        return served[0]
    have = ", ".join(served) or "no model"
    raise InvalidInput(f"--model is missing; the server has {have}.", hint="Name one.", field="--model")
