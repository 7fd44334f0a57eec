"""Options that take several numbers after one name, as in `--rank 8 32 128`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from turnloom.cli.running.session import Command, pairs
from turnloom.errors import InvalidInput

NUMBER: Final = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
SPREAD: Final = ("--rank", "--lora-rank", "--lr", "--learning-rate", "--rungs")


class ManyNumbers(Command):
    """A command whose options in SPREAD take all numbers that follow them."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, D102  # as click has it
        return super().parse_args(ctx, list(spread(args)))  # type: ignore[no-untyped-call]


def spread(words: Sequence[str]) -> Iterator[str]:
    """Rewrite `--rank 8 32 x` as `--rank 8 --rank 32 x`."""
    option = ""  #: that takes numbers now
    fresh = False  #: it has none yet
    for word in words:
        if word in SPREAD:
            option, fresh = word, True
        elif option and not fresh and NUMBER.fullmatch(word):
            yield option
        elif fresh:
            fresh = False
        else:
            option = ""
        yield word


def axes(ranks: Sequence[int], rates: Sequence[float], others: Sequence[str]) -> dict[str, list[float]]:
    """Return the axes by hyperparameter, rank first.

    Raises:
        InvalidInput: --axis without "=" or with a value that is not a number.
    """
    found: dict[str, list[float]] = {}
    if ranks:
        found["lora_rank"] = [float(rank) for rank in ranks]
    if rates:
        found["learning_rate"] = list(rates)
    for name, text in _named(others).items():
        if name in found:
            raise InvalidInput(f"--axis {name}: there is an option of its own for it, used already.", field="--axis")
        try:
            found[name] = [float(word) for word in text.split(",")]
        except ValueError as error:
            hint = "Write --axis NAME=NUMBER,NUMBER."
            raise InvalidInput(f"--axis {name}: {text!r} is no list of numbers.", hint=hint, field="--axis") from error
    return found


def _named(others: Sequence[str]) -> Mapping[str, str]:
    return pairs(others, "--axis")
