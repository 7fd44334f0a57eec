"""Fetch runs from a server, with all that a comparison needs."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import replace

from turnloom.client import TurnloomClient
from turnloom.errors import NotAllowed, NotFound, ServerUnreachable, Unavailable, Unimplemented
from turnloom.results.runs import Run
from turnloom.v1 import training_pb2
from turnloom.wire.evaluations import Evaluation


def fetch(client: TurnloomClient, jobs: Sequence[training_pb2.Job]) -> list[Run]:
    """Fetch the jobs with all their steps and, where recorded, the by-example losses that are compared.

    Compared are each job's last evaluation, and those at the steps where successive halving stopped one of them.
    """
    contents = _contents(client, jobs)
    rungs = {job.halving.compared_step for job in jobs if job.halving.stopped}
    runs = [Run(job, list(client.jobs.steps(job.id))) for job in jobs]
    return [replace(run, losses=_losses(client, run, rungs), contents=contents) for run in runs]


def _contents(client: TurnloomClient, jobs: Sequence[training_pb2.Job]) -> dict[str, str]:
    """Map dataset ids to the sha256 of their rows; asks only where ids differ and skips deleted datasets."""
    found = {}
    trained = {part.dataset for job in jobs for part in job.mix} | {job.training_dataset for job in jobs}
    for names in (trained, {job.test_dataset for job in jobs if job.test_dataset}):
        for name in names if len(names) > 1 else ():
            with suppress(NotFound, NotAllowed, Unimplemented, ServerUnreachable, Unavailable):
                found[name] = client.datasets.retrieve(name).sha256
    return found


def _losses(client: TurnloomClient, run: Run, rungs: Set[int]) -> dict[int, Evaluation]:
    evaluated = [step for step, _ in run.test]
    found = {}
    for step in (step for step in evaluated if step in rungs or step == evaluated[-1]):
        try:
            found[step] = client.jobs.evaluation(run.job.id, step)
        except (NotFound, Unimplemented, ServerUnreachable, Unavailable):
            continue  # an older job or server, or no object store: the verdict says how it does without
    return found
