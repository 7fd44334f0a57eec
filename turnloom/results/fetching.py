"""Runs from a server, with all that a comparison needs. Knows no terminal."""

from __future__ import annotations

from collections.abc import Sequence

from turnloom.client import TurnloomClient
from turnloom.errors import FailedPrecondition, NotFound, ServerUnreachable, Unavailable, Unimplemented
from turnloom.evaluations import Evaluation
from turnloom.results.runs import Run
from turnloom.v1 import training_pb2


def fetch(client: TurnloomClient, jobs: Sequence[training_pb2.Job]) -> list[Run]:
    """The jobs with all their steps, and the losses by example of their last evaluation where they were recorded."""
    return [Run(job, list(client.steps(job.id)), _losses(client, job)) for job in jobs]


def _losses(client: TurnloomClient, job: training_pb2.Job) -> Evaluation | None:
    if not job.progress.HasField("test_nll"):
        return None
    try:
        return client.evaluation(job.id)
    except (NotFound, FailedPrecondition, Unimplemented, ServerUnreachable, Unavailable):
        return None  # an older job or server, or no object store: the verdict says what it does without
