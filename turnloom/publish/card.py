"""Write an adapter's model card: only facts of its job, as Markdown with the hub's front matter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from turnloom.plural import counted
from turnloom.results.runs import Run, written
from turnloom.results.trouble import trouble_of
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import preprocess_pb2 as pp
from turnloom.v1 import training_pb2 as tr
from turnloom.version import VERSION

MOST_ROWS: Final = 20  #: evaluations in the table of the curve
_HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that a card is made of."""

    run: Run
    model: pp.Model | None  #: None: the server no longer serves it
    training: Sequence[ds.Dataset]  #: those of a mixture, in order; without deleted ones
    test: ds.Dataset | None
    checkpoint: tr.Checkpoint
    files: Sequence[tuple[str, str]]  #: (name, sha256) of the adapter's files


def card(name: str, facts: Facts) -> str:
    """Return the text of README.md for the hub's model `name`."""
    return "\n".join([*_front_matter(facts), *_body(name, facts)]) + "\n"


def _front_matter(facts: Facts) -> Iterator[str]:
    yield "---"
    base = facts.model.source if facts.model is not None else ""
    if _HUB_NAME.fullmatch(base):
        yield f"base_model: {json.dumps(base)}"
        yield "base_model_relation: adapter"
    yield "library_name: peft"
    yield "pipeline_tag: text-generation"
    yield "tags: [lora, sft, turnloom]"
    yield "---"


def _body(name: str, facts: Facts) -> Iterator[str]:
    job = facts.run.job
    yield f"# {name.rsplit('/', 1)[-1]}"
    yield ""
    yield f"A LoRA adapter (PEFT) for {job.model}, trained with Turnloom {VERSION} in the job {job.id}."
    yield ""
    yield "## Training"
    yield ""
    yield from _table(("", ""), _about(facts))
    yield ""
    yield "## Hyperparameters"
    yield ""
    yield from _table(("name", "value"), _hyperparameters(job.hyperparameters))
    yield ""
    yield "## Losses"
    yield ""
    yield "Masked negative log-likelihood, nats per unit of weight."
    yield ""
    yield from _table(("step", "test NLL", "mean train NLL since the row above"), _curve(facts.run))
    yield ""
    yield from _verdict(facts.run)
    yield ""
    yield "## Files"
    yield ""
    yield from _table(("file", "sha256"), facts.files)


def _about(facts: Facts) -> Iterator[tuple[str, str]]:
    job = facts.run.job
    if facts.model is not None:
        revision = f" at revision {facts.model.revision}" if facts.model.revision else ""
        base = facts.model.source if _HUB_NAME.fullmatch(facts.model.source) else "a local folder"
        yield "base model", f"{job.model} ({base}{revision})"
        yield "chat template", f"sha256 {facts.model.template_sha256}"
    weights = {part.dataset: f" (weight {part.weight:g})" for part in job.mix}
    named = [(f"training data{weights.get(dataset.id, '')}", dataset) for dataset in facts.training]
    for what, dataset in [*named, *([("test data", facts.test)] if facts.test is not None else [])]:
        numbers = (dataset.conversations, "conversation"), (dataset.examples, "example"), (dataset.tokens, "token")
        counts = ", ".join(counted(number, noun) for number, noun in numbers)
        yield what, f"{counts}, {dataset.loss_tokens} of them trained"
        yield f"{what}, sha256", dataset.sha256
    yield "checkpoint", f"{facts.checkpoint.id}, after step {facts.checkpoint.step} of {job.progress.planned_steps}"
    yield "tokens seen", str(job.progress.tokens)
    yield "finished", job.finish_time.ToJsonString() if job.HasField("finish_time") else "-"


def _hyperparameters(used: tr.Hyperparameters) -> Iterator[tuple[str, str]]:
    for field, value in used.ListFields():
        shown = written(value)
        if field.enum_type is not None:
            prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
            shown = field.enum_type.values_by_number[value].name.removeprefix(prefix).lower()
        yield field.name, shown


def _curve(run: Run) -> Iterator[tuple[str, str, str]]:
    """Yield rows of the evaluations, evenly thinned, always with the first and the last."""
    test = run.test
    every = max(1, -(-len(test) // MOST_ROWS))
    shown = [one for index, one in enumerate(test) if index % every == 0 or index == len(test) - 1]
    before = -1
    for step, nll in shown:
        mean = run.mean_train(before, step) if before >= 0 else None
        yield str(step), f"{nll:.4f}", "" if mean is None else f"{mean:.4f}"
        before = step
    if not test and run.train:
        last = run.train[-1][0]
        mean = run.mean_train(0, last)
        yield str(last), "not evaluated", "" if mean is None else f"{mean:.4f}"


def _verdict(run: Run) -> Iterator[str]:
    test = run.test
    if len(test) > 1:
        step, best = min(test, key=lambda one: one[1])
        yield (
            f"Test NLL went from {test[0][1]:.4f} before training to {test[-1][1]:.4f}; lowest {best:.4f} after step"
            f" {step}."
        )
    found = trouble_of(run)
    if found is not None:
        yield f"The run {found.kind}: {found.reason}."
    elif len(test) > 1:
        yield "The curves show no divergence, instability or over-fitting."
    else:
        yield "Without a test dataset nothing can be said of how the adapter generalizes."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
