"""Judge a grid of runs, in sentences with reasons: best cell, ties, rank, rate, trouble, advice.

Two cells tie where noise.py finds that their difference may be noise. Cells that successive halving stopped are
named with their place. The effect of rank and rate is then read at the first rung, where all cells had trained alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from turnloom.plural import counted
from turnloom.results.cells import Cell, cell_of, is_tie, lowest_first, shaky
from turnloom.results.effects import calmer, on_ranks, on_rates, on_steps
from turnloom.results.noise import MIN_EVALUATIONS, Noise, between
from turnloom.results.runs import Run, label
from turnloom.results.trouble import Trouble, TroubleKind
from turnloom.v1 import training_pb2

HAPPENED: Final = {
    TroubleKind.DIVERGED: "diverged at",
    TroubleKind.UNSTABLE: "was unstable at",
    TroubleKind.OVERFITTED: "over-fitted after",
}
FEW: Final = 30  #: test conversations below which a standard error is rough itself


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement; all fields except the sentences are for programs."""

    best: str  #: job id; empty: no cell was evaluated
    ties: tuple[str, ...]  #: job ids within noise of the best
    stopped: dict[str, str]  #: job id to why successive halving stopped it
    trouble: dict[str, Trouble]  #: by job id
    sentences: tuple[str, ...]


def judge(runs: Sequence[Run], axes: Sequence[str]) -> Verdict:
    """Judge the runs that were evaluated, and name the others with their state."""
    cells = [cell_of(run, axes) for run in runs if run.test]
    done = [cell for cell in cells if cell.run.job.state == training_pb2.JOB_STATE_SUCCEEDED]
    trouble = {cell.run.job.id: cell.trouble for cell in cells if cell.trouble is not None}
    stopped = {run.job.id: run.job.halving.reason for run in runs if run.job.halving.stopped}
    if len({run.tested_on for run in runs if run.test}) > 1:
        sentences = (*_tested_apart(runs), *_trained_apart(runs), *_unfinished(runs, axes), *_told(cells))
        return Verdict("", (), stopped, trouble, sentences)
    sound = [cell for cell in done if cell.trouble is None or cell.trouble.kind is not TroubleKind.DIVERGED]
    if not sound:
        sentences = ("No cell came to a sound end, so there is no best one.", *_halved(runs, axes))
        sentences = (*sentences, *_unfinished(runs, axes), *_told(cells), *_advice(cells, axes))
        return Verdict("", (), stopped, trouble, sentences)
    best, *others = sorted(sound, key=lowest_first)
    noise = {cell.run.job.id: between(cell.run, best.run) for cell in others}
    ties = [cell for cell in others if is_tie(cell, best, noise[cell.run.job.id])]
    sentences = (
        f"Best: {best.name}, test NLL {best.final:.4f} after step {best.run.test[-1][0]}"
        f" ({best.start:.4f} before training{_whose(best)}).",
        *_ties(best, ties, others, noise),
        *_halved(runs, axes),
        *(
            _alike(runs, cells, axes)
            if stopped
            else (*on_ranks(best, sound, axes), *on_rates(best, sound, cells, axes))
        ),
        *on_steps(best),
        *_trained_apart(runs),
        *_unfinished(runs, axes),
        *_told(cells),
        *_advice(cells, axes),
    )
    return Verdict(best.run.job.id, tuple(cell.run.job.id for cell in ties), stopped, trouble, sentences)


def _tested_apart(runs: Sequence[Run]) -> Iterator[str]:
    """Explain why these jobs are not ranked."""
    named = _by_dataset((run.tested_on, run.job.test_dataset, run.job.id) for run in runs if run.test)
    yield f"Not ranked: these jobs were tested on different test datasets, whose NLLs can't be compared: {named}."
    yield "Train again with one --test for all, or plot the jobs of one test dataset."


def _trained_apart(runs: Sequence[Run]) -> Iterator[str]:
    """Warn that the jobs differ in more than their settings."""
    if len({run.trained_on for run in runs}) > 1:
        named = _by_dataset((run.trained_on, run.training_name, run.job.id) for run in runs)
        yield f"These jobs were trained on different data, which may be what makes the difference: {named}."


def _by_dataset(found: Iterable[tuple[str, str, str]]) -> str:
    """Group jobs by datasets of equal content: "ds-1: job-1, job-2; ds-2: job-3"."""
    names: dict[str, tuple[str, list[str]]] = {}
    for content, dataset, job in found:
        names.setdefault(content, (dataset, []))[1].append(job)
    return "; ".join(f"{dataset}: {', '.join(jobs)}" for dataset, jobs in names.values())


def _ties(best: Cell, ties: Sequence[Cell], others: Sequence[Cell], noise: dict[str, Noise | None]) -> Iterator[str]:
    if not others:
        return
    known = [found for found in noise.values() if found is not None]
    if not known:
        yield (
            "Which cells are within noise can't be said: these jobs have no record of what each test example lost, and"
            f" without it that takes {MIN_EVALUATIONS} evaluations at least; lower eval_every."
        )
        return
    if ties:
        named = "; ".join(f"{cell.name} (+{cell.final - best.final:.4f}, {_size(noise, cell)})" for cell in ties)
        yield f"Within noise of it: {named}."
    else:
        second = others[0]
        yield (
            f"No other cell is within noise: the next, {second.name}, is {second.final - best.final:.4f} above"
            f" ({_size(noise, second)})."
        )
    yield from _explained(known)


def _size(noise: dict[str, Noise | None], cell: Cell) -> str:
    found = noise[cell.run.job.id]
    return "noise not known" if found is None else f"noise {found.size:.4f}"


def _explained(known: Sequence[Noise]) -> Iterator[str]:
    """Explain how noise was measured and what it leaves out."""
    counts = [found.conversations for found in known if found.conversations]
    if counts:
        rough = f" With {counted(min(counts), 'conversation')} it is rough itself." if min(counts) < FEW else ""
        yield (
            f"Noise is the standard error of the difference over {counted(min(counts), 'test conversation')}, compared"
            f" one by one; a difference of at most twice that is a tie.{rough} What another seed of"
            " training would change is not in it, and may be more."
        )
    if len(counts) < len(known):
        whose = "Some of these jobs" if counts else "These jobs"
        yield (
            f"{whose} have no record of what each test example lost (they ran before it was kept, or the object store"
            " was away): their noise is how far the difference of two cells jumps between evaluations. A difference of"
            " at most twice that is a tie; the choice of test examples is not in it."
        )


def _halved(runs: Sequence[Run], axes: Sequence[str]) -> Iterator[str]:
    """Describe cells that successive halving stopped, a sentence per rung, the best of them first."""
    stopped = [run for run in runs if run.job.halving.stopped]
    close: list[str] = []
    for step in sorted({run.job.halving.compared_step for run in stopped}):
        there = sorted(
            (run for run in stopped if run.job.halving.compared_step == step), key=lambda run: run.job.halving.rank
        )
        named = "; ".join(
            f"{_name(run, axes)} (test NLL {run.job.halving.test_nll:.4f}, place {run.job.halving.rank} of"
            f" {run.job.halving.compared})"
            for run in there
        )
        yield f"Stopped by successive halving at step {step}: {named}."
        cut = sorted((cell_of(run.until(step), axes) for run in runs if _came_to(run, step)), key=lowest_first)
        ids = {run.job.id for run in there}
        ended = [cell for cell in cut if cell.run.job.id in ids]
        close += [cell.name for cell in ended if is_tie(cell, cut[0], between(cell.run, cut[0].run))]
    if close:
        yield f"Stopped although within noise of the lowest cell at that step: {'; '.join(close)}."
    if stopped:
        yield (
            "A stopped cell may have come closer later, a low rate above all; turnloom resume JOB trains one to its"
            " end."
        )


def _whose(cell: Cell) -> str:
    job = cell.run.job.id
    return "" if job in cell.name else f"; {job}"


def _name(run: Run, axes: Sequence[str]) -> str:
    return label(axes, run.values(axes)) or run.job.id


def _came_to(run: Run, step: int) -> bool:
    """Return whether the run was evaluated at exactly that step."""
    return any(at == step for at, _ in run.test)


def _alike(runs: Sequence[Run], cells: Sequence[Cell], axes: Sequence[str]) -> Iterator[str]:
    """Describe rank and rate at the first rung, the last step that all cells were trained to."""
    step = min(run.job.halving.compared_step for run in runs if run.job.halving.stopped)
    there = [cell_of(run.until(step), axes) for run in runs if _came_to(run, step)]
    sound = [cell for cell in there if cell.trouble is None or cell.trouble.kind is not TroubleKind.DIVERGED]
    if len(sound) < 2:
        return
    best = min(sound, key=lowest_first)
    said = [*on_ranks(best, sound, axes), *on_rates(best, sound, cells, axes)]
    if said:
        yield f"At step {step}, where all cells were compared, {best.name} was lowest ({best.final:.4f})."
    for sentence in said:
        yield f"At step {step}: {sentence[0].lower()}{sentence[1:]}"


def _unfinished(runs: Sequence[Run], axes: Sequence[str]) -> Iterator[str]:
    for run in runs:
        if run.job.halving.stopped:
            continue
        state = training_pb2.JobState.Name(run.job.state).removeprefix("JOB_STATE_")
        if run.job.state != training_pb2.JOB_STATE_SUCCEEDED:
            waits = run.job.halving.reason if run.job.halving.waiting_step else ""
            reason = run.job.error.message or waits
            why = f": {reason}" if reason else "."
            yield f"Not judged: {_name(run, axes)} is {state} at step {run.job.progress.step}{why}"
        elif not run.test:
            yield f"Not judged: {run.job.id} was not evaluated; give it a test dataset."


def _told(cells: Sequence[Cell]) -> Iterator[str]:
    for cell in cells:
        if cell.trouble is not None:
            what = f"{HAPPENED[cell.trouble.kind]} step {cell.trouble.step}"
            yield f"{cell.name[:1].upper()}{cell.name[1:]} {what}: {cell.trouble.reason}."


def _advice(cells: Sequence[Cell], axes: Sequence[str]) -> Iterator[str]:
    kinds = {cell.trouble.kind for cell in cells if cell.trouble is not None}
    unstable = [cell for cell in cells if shaky(cell)]
    if unstable:
        yield f"Where a run is unstable, lower the learning rate first, then the rank{calmer(unstable, cells, axes)}."
    if TroubleKind.OVERFITTED in kinds:
        yield "Where a run over-fits, take fewer steps (or the best checkpoint), or more conversations."
    if "lora_rank" in axes:
        yield "If the task is harder than this one, try rank 32 before 128, and more steps before more rank."
