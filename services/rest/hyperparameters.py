"""Convert OpenAI's three hyperparameters to Turnloom's, and back; "auto" depends on the training data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from services.rest.bodies import CreateJob, Method, Supervised, SupervisedHyperparameters
from services.rest.problems import invalid
from turnloom.errors import InvalidInput
from turnloom.learning_rates import suggest
from turnloom.v1 import training_pb2 as tr

USUAL_RATE: Final = 1e-4  #: learning rate of the multiplier 1, for a model whose name says no size
AUTO_BATCH: Final = 16  #: conversations
AUTO_EPOCHS: Final = 3
MOST_EPOCHS: Final = 25  #: of "auto", for very small files
FEWEST_SEEN: Final = 100  #: conversations that "auto" shows the model over all epochs, at least
MOST_SEEN: Final = 25_000  #: and at most, unless one epoch holds more

#: OpenAI's names and ours for the same thing.
SAME: Final = {"n_epochs": "epochs", "batch_size": "batch_size", "learning_rate_multiplier": "learning_rate"}


def auto_epochs(conversations: int) -> int:
    """Return 3, more for a small file, fewer for a large one."""
    if conversations * AUTO_EPOCHS < FEWEST_SEEN:
        return min(MOST_EPOCHS, math.ceil(FEWEST_SEEN / max(1, conversations)))
    return max(1, min(AUTO_EPOCHS, MOST_SEEN // conversations))


def asked_of(body: CreateJob) -> SupervisedHyperparameters:
    """Return OpenAI's three hyperparameters from any place in the request.

    Raises:
        Problem: a method that can't be meant here, or two places that say different things.
    """
    method = body.method
    if method is not None and (method.type != "supervised" or method.dpo or method.reinforcement):
        raise invalid("method", f"{method.type} is not possible; Turnloom trains on conversations (supervised).")
    inner = method.supervised.hyperparameters if method is not None and method.supervised is not None else None
    if inner is not None and body.hyperparameters is not None and inner != body.hyperparameters:
        raise invalid("hyperparameters", "differ from those of method.supervised; give one of them.")
    return inner or body.hyperparameters or SupervisedHyperparameters()


def base_rate(model: str, batch_size: int) -> float:
    """Return the learning rate of the multiplier 1: that of `--lr auto`."""
    try:
        return suggest(model, batch_size).rate
    except InvalidInput:
        return USUAL_RATE


def chosen(
    model: str, asked: SupervisedHyperparameters, extra: Mapping[str, object], seed: int | None, conversations: int
) -> dict[str, object]:
    """Return the fields of Hyperparameters.

    Args:
        model: its name, which may say its size.
        asked: OpenAI's three.
        extra: Turnloom's own names; they may not repeat what is asked.
        seed: of the order of conversations; None: 0.
        conversations: of the training dataset.

    Raises:
        Problem: something is given twice, or out of range.
    """
    for theirs, ours in SAME.items():
        if getattr(asked, theirs) not in (None, "auto") and ours in extra:
            raise invalid(f"turnloom.hyperparameters.{ours}", f"repeats {theirs}; give one of them.")
    if asked.n_epochs not in (None, "auto") and "max_steps" in extra:
        raise invalid("turnloom.hyperparameters.max_steps", "excludes n_epochs; give one of them.")
    epochs = auto_epochs(conversations) if asked.n_epochs in (None, "auto") else asked.n_epochs
    batch = min(AUTO_BATCH, max(1, conversations)) if asked.batch_size in (None, "auto") else asked.batch_size
    made: dict[str, object] = {"epochs": epochs, "batch_size": batch, **extra}
    if "learning_rate" not in extra:
        asked_for = asked.learning_rate_multiplier
        multiplier = 1.0 if asked_for is None or asked_for == "auto" else asked_for
        size = made["batch_size"]
        made["learning_rate"] = multiplier * base_rate(
            model, size if isinstance(size, int) and size > 0 else AUTO_BATCH
        )
    if "max_steps" in extra:
        made.pop("epochs")
    if seed is not None:
        made["seed"] = seed
    for theirs, ours in SAME.items():
        value = made.get(ours, 1)
        if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise invalid(theirs, f"is {value!r}; give a number above 0.")
    return made


def told(job: tr.Job) -> SupervisedHyperparameters:
    """Return OpenAI's three hyperparameters of a job."""
    used = job.hyperparameters
    return SupervisedHyperparameters(
        n_epochs=used.epochs if used.HasField("epochs") else None,
        batch_size=used.batch_size,
        learning_rate_multiplier=float(f"{used.learning_rate / base_rate(job.model, used.batch_size):.12g}"),
    )


def method_of(job: tr.Job) -> Method:
    """Return the method of a job, which is always supervised."""
    return Method(type="supervised", supervised=Supervised(hyperparameters=told(job)))
