"""The steps of a job as the CSV file that OpenAI calls its results. Built for every reader; nothing is kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Final

from services.rest import names
from services.rest.bodies import FileObject
from services.rest.gateway import Turnloom
from services.rest.problems import missing
from services.rest.views import TERMINAL, seconds
from turnloom.results.runs import test_nll, train_nll
from turnloom.v1 import training_pb2 as tr

#: OpenAI's columns that we have, then ours. Losses are nats per unit of weight; an empty cell: not measured.
COLUMNS: Final = ("step", "train_loss", "valid_loss", "learning_rate", "epoch", "tokens", "trained_tokens", "time")
ROWS: Final = 500  #: that are written at a time


def is_results(identity: str) -> bool:
    """Return whether a file's id names a job's steps."""
    return identity.startswith(names.RESULTS)


def job_of(turnloom: Turnloom, identity: str) -> tr.Job:
    """Return the job whose results a file's id names.

    Raises:
        Problem: there is none, or it has not ended.
    """
    job = turnloom.job(f"job-{identity.removeprefix(names.RESULTS)}")
    if job.state not in TERMINAL or not job.progress.step:
        raise missing("file", identity)
    return job


def results_object(turnloom: Turnloom, job: tr.Job) -> FileObject:
    """Return the file of a job's results."""
    return FileObject(
        id=names.results_name(job),
        bytes=sum(len(piece) for piece in results_csv(turnloom.series(job.id))),
        created_at=seconds(job.finish_time),
        filename="step_metrics.csv",
        purpose="fine-tune-results",
    )


def results_csv(steps: Iterable[tr.Step]) -> Iterator[bytes]:
    """Yield the file, ROWS steps at a time; numbers as Python writes them, so that they read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for count, step in enumerate(steps, start=1):
        trained = step.step > 0
        measured = [step.learning_rate, step.epoch, step.tokens, step.loss_tokens] if trained else [None] * 4
        time = step.time.seconds + step.time.nanos / 1e9
        writer.writerow([step.step, train_nll(step), test_nll(step), *measured, time])
        if count % ROWS == 0:
            yield text.getvalue().encode()
            text.seek(0)
            text.truncate()
    yield text.getvalue().encode()
