"""What a job will cost and what its max_length cuts, from the dataset's file. Knows no protobuf and no Redis."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from services.store.dataset_files import DatasetReader
from services.store.records import CutReport, DatasetRecord, Hyperparameters, JobRecord


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the rows that a job trains."""

    conversations: int  #: with at least one trained token left
    tokens: int
    loss_tokens: int
    cut: CutReport


@dataclass(frozen=True, slots=True)
class Cost:
    """All steps of a job."""

    steps: int
    tokens: int  #: at most: the trainer also leaves out what follows a row's last trained target
    loss_tokens: int
    gpu_seconds: float | None  #: None: no rate is known yet


def epoch(record: DatasetRecord, max_length: int | None) -> Epoch:
    """Totals of one pass; the file is read only where `max_length` cuts something.

    A row that is cut keeps its first `max_length` tokens, so `max_length - 1` targets; without a trained one among
    them it is emptied, and a conversation whose rows are all emptied is not trained.
    """
    whole = Epoch(record.conversations, record.tokens, record.loss_tokens, CutReport())
    if max_length is None:
        return whole
    reader = DatasetReader(record.uri)
    try:
        lengths = np.asarray(reader.row_lengths)
        long = np.flatnonzero(lengths > max_length)
        if not len(long):
            return whole
        kept = np.ones(len(lengths), dtype=bool)
        loss_tokens = record.loss_tokens
        for index in long.tolist():
            row = reader[index]
            trained = np.repeat(row.run_values > 0, row.run_lengths)
            left = int(np.count_nonzero(trained[: max_length - 1]))
            loss_tokens -= int(np.count_nonzero(trained)) - left
            kept[index] = left > 0
        cut = CutReport(
            cut_rows=len(long),
            cut_tokens=int((lengths[long] - max_length).sum()),
            emptied_rows=int(np.count_nonzero(~kept)),
        )
        conversations = len(np.unique(np.asarray(reader.conversation)[kept]))
        tokens = int(np.minimum(lengths[kept], max_length).sum())
        return Epoch(conversations, tokens, loss_tokens, cut)
    finally:
        reader.close()


def planned_steps(conversations: int, chosen: Hyperparameters) -> int:
    """Optimizer steps: max_steps, or epochs times ceil(conversations / batch_size)."""
    if chosen.max_steps is not None:
        return chosen.max_steps
    return chosen.epochs * -(-conversations // chosen.batch_size)


def cost(one: Epoch, chosen: Hyperparameters, rate: float | None) -> Cost:
    """The whole job; part of an epoch counts by its share of steps.

    Args:
        one: totals of one epoch.
        chosen: steps, epochs and batch size.
        rate: tokens per second of earlier jobs on that host; None where none is known.
    """
    steps = planned_steps(one.conversations, chosen)
    per_epoch = planned_steps(one.conversations, Hyperparameters(batch_size=chosen.batch_size))
    tokens = round(one.tokens * steps / per_epoch)
    loss_tokens = round(one.loss_tokens * steps / per_epoch)
    return Cost(steps, tokens, loss_tokens, tokens / rate if rate else None)


def known_rate(jobs: Iterable[JobRecord], tuft_model: str, host: str) -> float | None:
    """Tokens per second of the newest job with that model on that host that has a rate."""
    rates = (
        job.tokens_per_second
        for job in jobs
        if job.spec.tuft_model == tuft_model and job.host == host and job.tokens_per_second > 0
    )
    return next(rates, None)
