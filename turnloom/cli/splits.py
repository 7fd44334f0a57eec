"""Choose what a command trains and evaluates on: dataset ids unchanged, files turned into datasets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from turnloom.cli.inputs import upload
from turnloom.cli.options.groups import BadConversations, HeldOut
from turnloom.cli.running.session import Session
from turnloom.display.names import display_name
from turnloom.display.words import count, many
from turnloom.errors import InvalidInput, Refused, TurnloomError
from turnloom.plural import counted
from turnloom.wire.options import PreprocessFields

if TYPE_CHECKING:
    from turnloom.reading.local_sources import LocalPart
    from turnloom.reading.selecting import Choice


def is_dataset(name: str) -> bool:
    """Return whether the word names a dataset rather than a file."""
    return name.startswith("ds-") and not Path(name).exists()


@contextmanager
def leaving_nothing(session: Session, datasets: Sequence[str]) -> Iterator[None]:
    """Delete datasets made from files if the request they were made for is refused."""
    try:
        yield
    except (Refused, InvalidInput):
        for dataset in datasets:
            with suppress(TurnloomError):  # the user must see the refusal, not this error
                session.client.datasets.delete(dataset)
        raise


def split_of(fraction: float, seed: int) -> Choice:
    """Return a choice that holds out a part.

    Raises:
        InvalidInput: the fraction is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise InvalidInput(
            f"test fraction: is {fraction:g}; give a number between 0 and 1.",
            hint="Try 0.1.",
            field="--test-fraction",
        )
    from turnloom.reading.selecting import Choice  # noqa: PLC0415  # needs numpy

    return Choice(test_fraction=fraction, split_seed=seed)


def check_parts(parts: Sequence[LocalPart], *, skip_bad: bool) -> None:
    """Read several parts through, training first, before any becomes a dataset; count what a test shares with it.

    Raises:
        InvalidInput: names file, line and field of a mistake.
    """
    for part in parts:
        part.skip_bad = skip_bad
    if len(parts) > 1:
        training, *tests = parts
        seen = training.check()
        for test in tests:
            test.note_overlap(seen, test.check())


def sole_data(data: str, mix: Mapping[str, float]) -> str:
    """Return what to train on: a file or dataset; empty: the mixture.

    Raises:
        InvalidInput: there is neither, or both.
    """
    if data and mix:
        raise InvalidInput("DATA and --mix exclude each other.", hint="Give one of them.", field="--mix")
    if not data and not mix:
        raise InvalidInput(
            "There is nothing to train on.", hint="Name a file or a dataset, several with --mix, or a job file with -f."
        )
    return data


@dataclass(frozen=True, slots=True)
class Chosen:
    """The datasets of a job."""

    training: str
    test: str  #: "": none
    uploaded: Sequence[str]  #: those of the two that files became


def training_and_test(
    session: Session,
    data: str,
    held_out: HeldOut,
    seed: int,
    *,
    model: str,
    options: PreprocessFields,
    bad: BadConversations,
) -> Chosen:
    """Return the training and test dataset; all files are read before any dataset is made."""
    bad.check()
    test, fraction = held_out.test, held_out.test_fraction
    if test and fraction is not None:
        raise InvalidInput("--test and --test-fraction exclude each other.", hint="Give one of them.", field="--test")
    if is_dataset(data) and fraction is not None:
        raise InvalidInput(
            "--test-fraction needs a file, not a dataset.", hint="Split when making it: `turnloom dataset create`."
        )
    from turnloom.reading.local_sources import LocalSource  # noqa: PLC0415  # needs numpy

    if fraction is not None:
        test = f"{data} (test)"
        source = LocalSource.open([data], choice=split_of(fraction, seed))
        parts = list(zip((data, test), source.parts(), strict=True))
    else:
        names = [name for name in (data, test) if name and not is_dataset(name)]
        parts = [(name, LocalSource.open([name]).whole()) for name in names]
    check_parts([part for _, part in parts], skip_bad=bad.skip_bad)
    uploaded: list[str] = []  # in the order of the parts, whose names may be equal
    for name, part in parts:
        with leaving_nothing(session, uploaded):
            made = upload(
                session, part, model=model, name=display_name(Path(name).name), fields=options, strict=bad.strict
            )
        session.say(
            f"{escape(name)} is dataset [bold]{made.id}[/]: {counted(made.conversations, 'conversation')},"
            f" {many(made.tokens, 'token')}, {count(made.loss_tokens)} trained"
        )
        uploaded.append(made.id)
    left = iter(uploaded)
    training, held = (name if not name or is_dataset(name) else next(left) for name in (data, test))
    return Chosen(training, held, uploaded)
