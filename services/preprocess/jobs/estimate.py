"""Estimate what a job will cost and what its max_length cuts, from the dataset's file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from services.store.records import CutReport, DatasetRecord, HostRecord, Hyperparameters, JobRecord
from services.store.shards.dataset_files import DatasetReader
from services.store.shards.shares import shares

ENOUGH_STEPS: Final = 5  #: of an attempt whose rate counts: the first steps warm the backend up
LIKE: Final = 9  #: jobs that a rate is taken over
ALONE: Final = 2.0  #: how far off the rate of a single job may be, either way
#: Hyperparameters in which a job must be like the one to estimate, closest first.
CLOSENESS: Final = (("lora_rank", "batch_size", "train_mlp", "train_attn", "train_unembed"), ("batch_size",), ())


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the rows that a job trains."""

    conversations: int  #: with at least one trained token left
    tokens: int
    loss_tokens: int
    cut: CutReport


@dataclass(frozen=True, slots=True)
class Time:
    """How long the steps will take, by jobs like it."""

    seconds: float  #: at their median rate
    low: float  #: at their highest rate
    high: float  #: at their lowest rate
    jobs: int  #: how many they are
    gpu: bool  #: whether it is time of a GPU
    hour_price: float | None = None  #: of an hour on that host; None: not known
    currency: str = ""  #: of the price


@dataclass(frozen=True, slots=True)
class Cost:
    """The total cost of a job's steps."""

    steps: int
    tokens: int  #: at most: the trainer also leaves out what follows a row's last trained target
    loss_tokens: int
    time: Time | None  #: None: no rate is known yet


def epoch(record: DatasetRecord, max_length: int | None) -> Epoch:
    """Return the totals of one pass; the file is read only where `max_length` cuts something.

    A row that is cut keeps its first `max_length` tokens, so `max_length - 1` targets. Without a trained target among
    them it is emptied. A conversation whose rows are all emptied is not trained.
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


def mixed(epochs: Sequence[Epoch], weights: Sequence[float]) -> Epoch:
    """Return the totals of one epoch of a mixture: of each dataset its share, at its mean length.

    Of one dataset these are its own totals.
    """
    conversations = sum(one.conversations for one in epochs)
    counts = shares(weights, conversations)
    passes = [count / max(one.conversations, 1) for count, one in zip(counts, epochs, strict=True)]
    return Epoch(
        conversations,
        round(sum(times * one.tokens for times, one in zip(passes, epochs, strict=True))),
        round(sum(times * one.loss_tokens for times, one in zip(passes, epochs, strict=True))),
        CutReport(
            cut_rows=sum(one.cut.cut_rows for one in epochs),
            cut_tokens=sum(one.cut.cut_tokens for one in epochs),
            emptied_rows=sum(one.cut.emptied_rows for one in epochs),
        ),
    )


def planned_steps(conversations: int, chosen: Hyperparameters) -> int:
    """Return the optimizer steps: max_steps, or epochs times ceil(conversations / batch_size)."""
    if chosen.max_steps is not None:
        return chosen.max_steps
    return chosen.epochs * -(-conversations // chosen.batch_size)


def cost(one: Epoch, chosen: Hyperparameters, rates: Sequence[float], host: HostRecord) -> Cost:
    """Return the cost of the whole job; a partial epoch counts by its share of steps.

    Args:
        one: totals of one epoch.
        chosen: steps, epochs and batch size.
        rates: tokens per second of jobs like this one on its host; () where none is known.
        host: where it will run, with its price.
    """
    steps = planned_steps(one.conversations, chosen)
    per_epoch = planned_steps(one.conversations, Hyperparameters(batch_size=chosen.batch_size))
    tokens = round(one.tokens * steps / per_epoch)
    loss_tokens = round(one.loss_tokens * steps / per_epoch)
    return Cost(steps, tokens, loss_tokens, _time(tokens, rates, host) if rates else None)


def _time(tokens: int, rates: Sequence[float], host: HostRecord) -> Time:
    low, high = (rates[0] / ALONE, rates[0] * ALONE) if len(rates) == 1 else (min(rates), max(rates))
    seconds = tokens / median(rates)
    return Time(seconds, tokens / high, tokens / low, len(rates), bool(host.gpus), host.hour_price, host.currency)


def known_rates(jobs: Iterable[JobRecord], tuft_model: str, host: str, chosen: Hyperparameters) -> list[float]:
    """Return tokens per second of the most similar jobs on that host, newest first, at most LIKE.

    A job's rate is that of its last steps, without its first. Jobs of the same rank, batch size and adapter come first,
    then those of the same batch size. All others of the model come last.
    """
    known = [
        job
        for job in jobs
        if job.spec.tuft_model == tuft_model
        and job.host == host
        and job.tokens_per_second > 0
        and job.step - job.start_step >= ENOUGH_STEPS
    ]
    for names in CLOSENESS:
        like = [job for job in known if all(_same(job, chosen, name) for name in names)]
        if like:
            return [job.tokens_per_second for job in like[:LIKE]]
    return []


def _same(job: JobRecord, chosen: Hyperparameters, name: str) -> bool:
    return bool(getattr(job.spec.hyperparameters, name) == getattr(chosen, name))
