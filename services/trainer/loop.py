"""Training loop: batches in, one StepRecord per optimizer step out. Imports no Prometheus and no SDK.

Steps are submitted ahead (pipeline_depth) and read in order. A checkpoint of step k is submitted between the optimizer
step k and step k + 1. So it holds exactly k steps. Its probe follows it at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from services.store.blobs.evaluations import RowLosses
from services.store.records import CheckpointRecord, Control, Hyperparameters, StepRecord
from services.trainer.backend import Adam, Backend, Logprobs, Pending
from services.trainer.batches.batching import Batch, Batches, call_tokens, cut
from services.trainer.batches.mixing import sums_by_part
from services.trainer.batches.rows import Row
from services.trainer.batches.weighting import NORMALIZATION, Weights, weighted_nll
from services.trainer.errors import BackendError, CallOutOfMemory, Code, NonFiniteLoss
from services.trainer.evaluation import Evaluation, Patience, evaluate, noted, probe_nll
from services.trainer.schedule import learning_rate
from turnloom.plural import counted

EVALUATION_GRACE = 10.0  #: seconds that an evaluation may still take once the run is asked to leave


class Journal(Protocol):
    """Where a run records its progress; every write may end the run by raising."""

    def step(self, record: StepRecord) -> None:
        """Record a finished optimizer step."""
        ...

    def checkpoint(self, record: CheckpointRecord) -> None:
        """Record a saved state whose probe NLL is known."""
        ...

    def control(self) -> Control:
        """Return what the run is asked to do, as far as is known without waiting."""
        ...

    def event(self, level: str, kind: str, message: str, **fields: str) -> None:
        """Record something worth telling people."""
        ...


@dataclass(frozen=True, slots=True)
class Gauge:
    """Current load of the host's GPUs; None without a GPU."""

    utilization: float | None = None  #: percent, mean
    memory_bytes: int | None = None  #: in use, sum


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything that decides what a run computes."""

    job: str
    attempt: int
    hyperparameters: Hyperparameters
    batches: Batches
    steps: int  #: of the whole job
    test_rows: Sequence[Row]  #: empty: no evaluation
    probe_rows: Sequence[Row]  #: at most 8, longest first
    ceiling: int  #: tokens per call that are not to be passed
    packs: bool = False  #: they are real tokens, and the server computes no others; else padded ones

    def checkpoint_name(self, step: int) -> str:
        """Return a name that is unique in the job and safe as a folder name."""
        return f"{self.job}-a{self.attempt}-s{step}"

    def live_name(self, step: int) -> str:
        """Return a name for the adapter after a step that is saved to be sampled."""
        return f"{self.checkpoint_name(step)}-live"

    def budget(self, step: int) -> int:
        """Return the tokens per call at `step`."""
        if self.hyperparameters.max_tokens_per_call:
            return self.ceiling
        return call_tokens(step, self.ceiling, packs=self.packs)

    def is_evaluated(self, step: int) -> bool:
        """Return whether to take the test NLL after `step`."""
        every = self.hyperparameters.eval_every
        return bool(self.test_rows) and (step in (0, self.steps) or (every > 0 and step % every == 0))

    def is_saved(self, step: int) -> bool:
        """Return whether `step` is due for a checkpoint; early stopping saves at every evaluation."""
        every = self.hyperparameters.checkpoint_every
        looks = self.hyperparameters.early_stopping_patience > 0 and self.is_evaluated(step)
        return step in (0, self.steps) or (every > 0 and step % every == 0) or looks


@dataclass(frozen=True, slots=True)
class Saving:
    """A checkpoint under way."""

    step: int
    path: Pending[str]
    probe: Pending[Sequence[Logprobs]]


class ReplySampler(Protocol):
    """What samples the adapter while it trains (replies.py)."""

    def due(self, step: int) -> bool:
        """Return whether replies are wanted after a step."""
        ...

    def offer(self, step: int, path: str) -> None:
        """Sample this adapter, without keeping the run."""
        ...


@dataclass(frozen=True, slots=True)
class InFlight:
    """A step under way."""

    batch: Batch
    calls: Sequence[tuple[Sequence[Row], Sequence[Weights], Pending[Sequence[Logprobs]]]]
    optim: Pending[None]
    learning_rate: float
    saving: Saving | None
    live: Pending[str] | None = None  #: the adapter after the step, saved to be sampled


@dataclass(slots=True)
class Run:
    """One attempt at a job, from a state that the backend already holds."""

    plan: RunSpec
    backend: Backend
    journal: Journal
    patience: Patience
    gauge: Callable[[], Gauge]
    clock: Callable[[], float]  #: monotonic seconds
    now: Callable[[], float]  #: seconds since 1970
    keep_losses: Callable[[int, RowLosses], None] = lambda _step, _losses: None  #: takes every evaluation by row
    sampler: ReplySampler | None = None  #: None: nobody wants replies
    _flight: deque[InFlight] = field(init=False, default_factory=deque)
    _submitted: int = field(init=False, default=0)  # last step that the server was asked for
    _saved: int = field(init=False, default=-1)  # step of the last checkpoint asked for
    _saved_at: float = field(init=False, default=0.0)
    _read_at: float = field(init=False, default=0.0)  # when the last step was written down
    _data_seconds: float = field(init=False, default=0.0)  # spent since then on making and submitting steps
    _recorded: CheckpointRecord | None = field(init=False, default=None)  # last checkpoint written down
    _tested: tuple[int, Evaluation] | None = field(init=False, default=None)  # last evaluation and its step
    _stop: bool = field(init=False, default=False)  # early stopping ended the run
    _untested: bool = field(init=False, default=False)  # the run left before its last evaluation was done
    _asked_at: float | None = field(init=False, default=None)  # when the run was first asked to leave

    def train(self, steps_done: int, *, save_first: bool, untested: StepRecord | None) -> Control:
        """Train from step `steps_done` + 1 to the end or until asked to leave, then save the state.

        Args:
            steps_done: steps that the loaded state holds.
            save_first: the ledger has no checkpoint of this state yet.
            untested: record of step `steps_done`, if its evaluation is due and the ledger has none.

        Returns:
            NONE at the end of the job, else what was asked.

        Raises:
            NonFiniteLoss, BackendError, CallOutOfMemory, and what the journal raises.
        """
        self._submitted = self._saved = steps_done
        self._stop = self.patience.is_over  # an attempt that stopped early broke off before the job had ended
        self._saved_at = self.clock()
        try:
            return self._train(save_first, untested)
        except BackendError as error:
            if error.code is Code.OUT_OF_MEMORY:
                raise self._out_of_memory(self._submitted, 0, error) from error
            raise

    def _train(self, save_first: bool, untested: StepRecord | None) -> Control:
        if save_first:
            self._record(self._save(self._submitted))
        if untested is not None:
            self._evaluate_first(untested)
        self._read_at = self.clock()
        while True:
            control = self._asked()
            if control is Control.NONE:
                self._fill()
            if not self._flight:
                break
            self._collect(self._flight.popleft())
        if self._saved < self._submitted:
            self._record(self._save(self._submitted))
        return control

    def _asked(self) -> Control:
        """Return what the run is asked to do. At the end and after an early stop no request counts any more.

        A run that left its last evaluation is not at its end: the next attempt takes it.
        """
        if not self._flight and (self._submitted >= self.plan.steps or self._stop) and not self._untested:
            return Control.NONE
        control = self.journal.control()
        if control is not Control.NONE and self._asked_at is None:
            self._asked_at = self.clock()
        return control

    def _evaluate_first(self, record: StepRecord) -> None:
        """Evaluate the loaded state: of step 0, or of a step whose evaluation an earlier attempt had to leave."""
        test = self._evaluate(record.step)
        if test is None:
            return
        self.journal.step(noted(record, test))
        if self._recorded is None:
            self._record(self._save(record.step))
        else:
            self.journal.checkpoint(replace(self._recorded, test_nll=test.nll))
        self._judge(record.step, test)

    def _judge(self, step: int, test: Evaluation) -> None:
        """Stop early where evaluations no longer improve."""
        self._stop = self.patience.seen(test.nll)
        if self._stop and step < self.plan.steps:
            waited = counted(self.patience.waited, "evaluation")
            message = f"Step {step}: not below {self.patience.best:.4f} in {waited}."
            self.journal.event("info", "EARLY_STOPPED", message)

    def _fill(self) -> None:
        """Submit steps until the pipeline is full. An evaluated step is a barrier, since its weights are evaluated."""
        depth = self.plan.hyperparameters.pipeline_depth
        while self._submitted < self.plan.steps and len(self._flight) < depth and not self._stop:
            if self._flight and self.plan.is_evaluated(self._flight[-1].batch.step):
                return
            self._flight.append(self._submit(self._submitted + 1))

    def _submit(self, step: int) -> InFlight:
        begun = self.clock()
        hyper = self.plan.hyperparameters
        batch = self.plan.batches.batch(step)
        weights = NORMALIZATION[hyper.weight_normalization](batch.rows)
        sent = []
        for places in cut(batch.rows, self.plan.budget(step), packs=self.plan.packs):
            rows = [batch.rows[place] for place in places]
            call_weights = [weights[place] for place in places]
            sent.append((rows, call_weights, self.backend.forward_backward(rows, call_weights)))
        rate = learning_rate(
            step,
            steps=self.plan.steps,
            peak=hyper.learning_rate,
            schedule=hyper.schedule,
            warmup_steps=hyper.warmup_steps,
        )
        adam = Adam(rate, hyper.beta1, hyper.beta2, hyper.epsilon, hyper.weight_decay, hyper.grad_clip_norm)
        optim = self.backend.optim_step(adam)
        self._submitted = step
        overdue = self.clock() - self._saved_at >= hyper.checkpoint_every_seconds
        saving = self._save(step) if self.plan.is_saved(step) or overdue else None
        live = None
        if self.sampler is not None and self.sampler.due(step) and step < self.plan.steps:
            live = self.backend.save_adapter(self.plan.live_name(step))
        self._data_seconds += self.clock() - begun
        return InFlight(batch, sent, optim, rate, saving, live)

    def _save(self, step: int) -> Saving:
        """Submit a checkpoint of the state after `step` steps, and the probe NLL that proves it later."""
        saving = Saving(
            step, self.backend.save_state(self.plan.checkpoint_name(step)), self.backend.forward(self.plan.probe_rows)
        )
        self._saved, self._saved_at = step, self.clock()
        return saving

    def _collect(self, item: InFlight) -> None:
        step = item.batch.step
        nlls: list[tuple[int, float]] = []  # with the row's dataset
        objectives: list[float] = []
        for rows, weights, pending in item.calls:
            for row, sent, logprobs in zip(rows, weights, self._logprobs(step, rows, pending), strict=True):
                one = weighted_nll(logprobs, row.target_weights)
                nlls.append((row.part, one))
                objectives.append(one if sent is row.target_weights else weighted_nll(logprobs, sent))
        nll = math.fsum(one for _, one in nlls)
        if not math.isfinite(nll):
            raise NonFiniteLoss(f"step {step}: the NLL of the batch is {nll}; earlier checkpoints are good")
        after_calls = self.clock()
        item.optim.result()
        after_optim = self.clock()
        test = self._evaluate(step) if self.plan.is_evaluated(step) else None
        after_test = self.clock()
        self.backend.check_alive()
        seconds = {
            "data": self._data_seconds,
            "forward_backward": after_calls - self._read_at - self._data_seconds,
            "optim_step": after_optim - after_calls,
        } | ({"evaluate": after_test - after_optim} if test else {})
        self.journal.step(noted(self._step_record(item, nlls, math.fsum(objectives), seconds), test))
        self._read_at, self._data_seconds = self.clock(), 0.0
        if item.saving is not None:
            self._record(item.saving)
        if item.live is not None:
            self.offer(step, item.live)
        if test is not None:
            self._judge(step, test)

    def offer(self, step: int, live: Pending[str]) -> None:
        """Have the adapter sampled; one that could not be saved costs its replies alone."""
        assert self.sampler is not None
        try:
            path = live.result()
        except BackendError as error:  # a server that is gone fails the next step, too
            message = f"Step {step} has no replies: {error.sentence}. The job goes on."
            self.journal.event("warning", "REPLIES_MISSING", message, step=str(step))
        else:
            self.sampler.offer(step, path)

    def _logprobs(self, step: int, rows: Sequence[Row], pending: Pending[Sequence[Logprobs]]) -> Sequence[Logprobs]:
        try:
            return pending.result()
        except BackendError as error:
            if error.code is Code.OUT_OF_MEMORY:
                raise self._out_of_memory(step, len(rows), error) from error
            raise

    def _out_of_memory(self, step: int, rows: int, error: BackendError) -> CallOutOfMemory:
        return CallOutOfMemory(step, rows, self.plan.budget(step), error, packed=self.plan.packs)

    def _step_record(
        self, item: InFlight, nlls: Sequence[tuple[int, float]], objective: float, seconds: dict[str, float]
    ) -> StepRecord:
        batch, gauge = item.batch, self.gauge()
        return StepRecord(
            step=batch.step,
            attempt=self.plan.attempt,
            epoch=batch.epoch,
            conversations=batch.conversations,
            rows=len(batch.rows),
            tokens=sum(row.length for row in batch.rows),
            loss_tokens=sum(row.loss_tokens for row in batch.rows),
            target_bytes=sum(row.target_bytes for row in batch.rows),
            nll_sum=math.fsum(nll for _, nll in nlls),
            weight_sum=math.fsum(row.weight_sum for row in batch.rows),
            objective=objective,
            learning_rate=item.learning_rate,
            phase_seconds=seconds,
            gpu_utilization=gauge.utilization,
            gpu_memory_bytes=gauge.memory_bytes,
            time=self.now(),
            calls=len(item.calls),
            accelerated=self.plan.packs,
            mix=sums_by_part(batch.by_part, batch.rows, nlls) if len(batch.by_part) > 1 else (),
        )

    def _evaluate(self, step: int) -> Evaluation | None:
        if not self.plan.test_rows:
            return None
        budget, packs = self.plan.budget(step), self.plan.packs
        test = evaluate(self.backend, self.plan.test_rows, budget, self._may_go_on, packs=packs)
        self._untested = test is None
        if test is None:
            message = f"Step {step}: left before its evaluation was done; a resumed job begins with it."
            self.journal.event("warning", "EVALUATION_SKIPPED", message)
        elif not math.isfinite(test.nll_sum):
            raise NonFiniteLoss(f"step {step}: the NLL of the test dataset is {test.nll_sum}")
        else:
            self.keep_losses(step, test.losses)  # before the ledger says that there was an evaluation
            self._tested = (step, test)
        return test

    def _may_go_on(self) -> bool:
        if self.journal.control() is Control.NONE:
            return True
        if self._asked_at is None:
            self._asked_at = self.clock()
        return self.clock() - self._asked_at < EVALUATION_GRACE

    def _record(self, saving: Saving) -> None:
        """Wait for a checkpoint and record it, once its probe NLL shows that its weights are finite."""
        path = saving.path.result()
        probe = probe_nll(self.plan.probe_rows, saving.probe.result())
        if not math.isfinite(probe):
            raise NonFiniteLoss(f"step {saving.step}: the saved weights give an NLL of {probe} on the probe rows")
        self.backend.check_alive()
        cursor = self.plan.batches.cursor(saving.step)
        test = self._tested[1] if self._tested and self._tested[0] == saving.step else None
        self._recorded = CheckpointRecord(
            id=self.plan.checkpoint_name(saving.step),
            path=path,
            step=saving.step,
            attempt=self.plan.attempt,
            epoch=cursor.epoch,
            position=cursor.position,
            probe_nll=probe,
            probe_rows=len(self.plan.probe_rows),
            test_nll=test.nll if test else None,
            time=self.now(),
            max_tokens_per_call=self.plan.ceiling,
            packed=self.plan.packs,
        )
        self.journal.checkpoint(self._recorded)
