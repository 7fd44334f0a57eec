"""Summarise a job's updates: step, NLL, rate, time left."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from turnloom.display.words import count, duration, job_state, seconds
from turnloom.results.runs import test_nll, train_nll
from turnloom.v1 import training_pb2

__all__ = ["LEVELS", "JobView", "test_nll", "train_nll"]
LEVELS: Final = {"warning": "yellow", "error": "red"}  #: levels of events that are told, and their colours
WINDOW: Final = 20  #: steps that a rate is taken over


@dataclass(slots=True)
class JobView:
    """One job as its watcher sees it."""

    job: training_pb2.Job
    step: int = 0
    train_nll: float | None = None  #: of the last step
    test_nll: float | None = None  #: of the last evaluation
    checkpoint: str = ""  #: id of the last one
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))  #: commit time, tokens

    def take(self, update: training_pb2.WatchJobResponse) -> None:
        """Apply an update; a step of a higher attempt may go back to an earlier number."""
        kind = update.WhichOneof("update")
        if kind == "step":
            self._take_step(update.step)
        elif kind == "job":
            planned = max(self.planned, update.job.progress.planned_steps)
            self.job.MergeFrom(update.job)
            self.job.progress.planned_steps = planned
        elif kind == "checkpoint":
            self.checkpoint = update.checkpoint.id

    def _take_step(self, step: training_pb2.Step) -> None:
        if step.step <= self.step:
            self._recent.clear()
        self.step = step.step
        nll, held_out = train_nll(step), test_nll(step)
        self.train_nll = self.train_nll if nll is None else nll
        self.test_nll = self.test_nll if held_out is None else held_out
        if step.step:
            self._recent.append((seconds(step.time), step.tokens))

    @property
    def planned(self) -> int:
        """Number of planned steps; 0 until it is known."""
        return self.job.progress.planned_steps

    @property
    def state(self) -> str:
        """Name of the job's state."""
        return job_state(self.job)

    def tokens_per_second(self) -> float:
        """Return the rate over the last steps; 0 before there are two."""
        return self._rate(sum(tokens for _, tokens in list(self._recent)[1:]))

    def seconds_left(self) -> float | None:
        """Estimate the time left from the rate of the last steps; None before there is one."""
        rate = self._rate(len(self._recent) - 1)
        return (self.planned - self.step) / rate if rate and self.planned else None

    def _rate(self, amount: float) -> float:
        if len(self._recent) < 2:
            return 0.0
        elapsed = self._recent[-1][0] - self._recent[0][0]
        return amount / elapsed if elapsed > 0 else 0.0

    def line(self) -> str:
        """Return a one-line plain-text summary that fits 80 characters beside a state and a bar."""
        parts = [f"step {self.step}/{self.planned or '?'}"]
        parts += [f"NLL {self.train_nll:.4f}"] if self.train_nll is not None else []
        parts += [f"test {self.test_nll:.4f}"] if self.test_nll is not None else []
        rate, left = self.tokens_per_second(), self.seconds_left()
        parts += [f"{count(rate)} tok/s"] if rate else []
        parts += [f"{duration(left)} left"] if left is not None and self.step < self.planned else []
        return "  ".join(parts)
