"""Random histories of one job against a plain Python model: the ledger never loses, repeats or invents a step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from services.store.errors import Fenced, IllegalEdge, StepOutOfOrder
from services.store.ledger import Outcome
from services.store.records import EDGES, HELD, TERMINAL, CheckpointRecord, JobSpec, JobState, StepRecord
from services.store.store import Store
from tests.support.store_fixtures import store_of_a_ledger

store = pytest.fixture(store_of_a_ledger)


@dataclass
class Model:
    """What the contract says about one job, without Redis."""

    state: JobState = JobState.QUEUED
    attempt: int = 0
    start: int = 0
    series: list[StepRecord] = field(default_factory=list)
    work: list[StepRecord] = field(default_factory=list)
    lineage: list[tuple[int, str]] = field(default_factory=list)  # effective checkpoints: step, id
    chosen: str = ""
    last: str = ""
    idle: int = 0
    stalled: int = 0
    furthest: int = 0
    committed: int = 0

    def goes(self, to: JobState) -> None:
        assert to in EDGES[self.state], f"{self.state} -> {to}: the model itself broke the table"
        self.state = to


class LedgerMachine(RuleBasedStateMachine):
    """Two kinds of worker act: the one that holds the job, and older ones that think they do."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        job = self.store.jobs.create(JobSpec("m", "m", "ds")).job
        self.id = self.store.jobs.queue(job.id, host="h", planned_steps=1000).id

    def record(self, step: int, attempt: int, nll: float) -> StepRecord:
        return StepRecord(
            step, attempt, epoch=1, conversations=1, rows=2, tokens=7, loss_tokens=3, target_bytes=5, nll_sum=nll,
            weight_sum=3.0,
        )  # fmt: skip

    @rule(ahead=st.integers(0, 2))
    def claim(self, ahead: int) -> None:
        model = self.model
        claim = self.store.jobs.claim(self.id, model.attempt + ahead, f"w{model.attempt + ahead}")
        if model.state in HELD and ahead == 0:
            assert claim is not None, "its own claim again"
            return
        if model.state is not JobState.QUEUED or ahead != 1:
            assert claim is None
            return
        assert claim is not None
        model.attempt += 1
        wanted = model.chosen or model.last
        model.start = next((step for step, name in model.lineage if name == wanted), 0)
        model.furthest = model.start if model.chosen else max(model.furthest, len(model.series))
        del model.series[model.start :]
        model.lineage = [item for item in model.lineage if item[0] <= model.start]
        model.last, model.chosen, model.committed = wanted, "", 0
        model.goes(JobState.RUNNING)
        assert (claim.checkpoint.id if claim.checkpoint else "") == wanted

    @precondition(lambda self: self.model.attempt > 0)
    @rule(offset=st.sampled_from([1, 1, 1, 1, 0, -1, -3, 2, 5]), nll=st.floats(0, 100))
    def commit(self, offset: int, nll: float) -> None:
        model = self.model
        last = len(model.series)
        step = last + offset
        if step < 1:
            return
        record = self.record(step, model.attempt, nll)
        if model.state in HELD and step <= model.start:
            with pytest.raises(StepOutOfOrder):
                self.store.ledger.commit_step(self.id, record)
            return
        answer = self.store.ledger.commit_step(self.id, record)
        if model.state not in HELD:
            assert answer.outcome is Outcome.FENCED
        elif step > last + 1:
            assert (answer.outcome, answer.last) == (Outcome.GAP, last)
        else:
            assert answer.outcome is Outcome.OK
            if step == last + 1:
                model.series.append(record)
                model.work.append(record)
                model.committed += 1

    @precondition(lambda self: self.model.attempt > 1)
    @rule(back=st.integers(1, 3), offset=st.integers(-2, 2))
    def an_old_attempt_commits(self, back: int, offset: int) -> None:
        attempt = max(1, self.model.attempt - back)
        record = self.record(max(1, len(self.model.series) + offset), attempt, 1.0)
        assert self.store.ledger.commit_step(self.id, record).outcome is Outcome.FENCED
        checkpoint = CheckpointRecord(f"old-{attempt}", "p", 0, attempt)
        assert self.store.ledger.commit_checkpoint(self.id, checkpoint).outcome is Outcome.FENCED
        with pytest.raises(Fenced):
            self.store.jobs.finish(self.id, attempt, JobState.SUCCEEDED)

    @precondition(lambda self: self.model.state in HELD)
    @rule()
    def save(self) -> None:
        model = self.model
        step = len(model.series)
        name = f"a{model.attempt}-s{step}"
        answer = self.store.ledger.commit_checkpoint(self.id, CheckpointRecord(name, "p", step, model.attempt))
        assert (answer.outcome, answer.checkpoint_step) == (Outcome.OK, step)
        if (step, name) not in model.lineage:
            model.lineage.append((step, name))
        model.last = name

    @precondition(lambda self: self.model.state in HELD)
    @rule(preempted=st.booleans())
    def the_attempt_ends(self, preempted: bool) -> None:
        model = self.model
        found = self.store.jobs.release(self.id, model.attempt, "preempted" if preempted else "crash", "x")
        if model.state is JobState.CANCELLING:
            model.goes(JobState.CANCELLED)
        elif model.state is JobState.PAUSING:
            model.goes(JobState.PAUSED)
        else:
            if not preempted:
                model.idle = 0 if model.committed else model.idle + 1
                model.stalled = 0 if len(model.series) > model.furthest else model.stalled + 1
            model.furthest = max(model.furthest, len(model.series))
            model.goes(JobState.FAILED if model.idle >= 3 or model.stalled >= 20 else JobState.QUEUED)
        assert found.state is model.state

    @rule(wish=st.sampled_from(["pause", "cancel"]))
    def steer(self, wish: str) -> None:
        model = self.model
        if wish == "pause":
            if model.state not in (JobState.RUNNING, JobState.PAUSING):
                with pytest.raises(IllegalEdge):
                    self.store.jobs.pause(self.id)
                return
            self.store.jobs.pause(self.id)
            model.state = JobState.PAUSING
        elif model.state in (JobState.QUEUED, JobState.PAUSED, JobState.RUNNING):
            self.store.jobs.cancel(self.id)
            model.goes(JobState.CANCELLING if model.state is JobState.RUNNING else JobState.CANCELLED)
        elif model.state in TERMINAL:
            assert self.store.jobs.cancel(self.id).state is model.state

    @precondition(lambda self: self.model.state in (JobState.PAUSED, JobState.FAILED, JobState.CANCELLED))
    @rule(pick=st.integers(0, 100))
    def resume(self, pick: int) -> None:
        model = self.model
        model.chosen = model.lineage[pick % len(model.lineage)][1] if model.lineage and pick % 3 else ""
        self.store.jobs.resume(self.id, model.chosen)
        model.idle = model.stalled = model.furthest = 0
        model.goes(JobState.QUEUED)

    @invariant()
    def the_series_is_the_models(self) -> None:
        found = self.store.ledger.steps(self.id)
        assert found == self.model.series
        assert [record.step for record in found] == list(range(1, len(found) + 1))
        assert list(self.store.ledger.all_steps(self.id)) == self.model.work

    @invariant()
    def the_record_is_the_models(self) -> None:
        model, job = self.model, self.store.jobs.get(self.id)
        assert (job.state, job.attempt, job.step, job.last_checkpoint) == (
            model.state, model.attempt, len(model.series), model.last
        )  # fmt: skip
        for sums, records in ((job.effective, model.series), (job.work, model.work)):
            assert sums.steps == len(records)
            assert sums.nll == in_order(records)
            assert (sums.tokens, sums.weight) == (7 * len(records), 3.0 * len(records))
        kept = {record.id for record in self.store.ledger.checkpoints(self.id, superseded=False)}
        assert kept == {name for _, name in model.lineage}


def in_order(records: list[StepRecord]) -> float:
    """The sum as additions one after the other give it, bit for bit."""
    total = 0.0
    for record in records:
        total += record.nll_sum
    return total


def test_random_histories_agree_with_the_model(store: Store) -> None:
    class Bound(LedgerMachine):
        pass

    Bound.store = store
    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_the_model_would_see_a_step_that_is_counted_twice(store: Store) -> None:
    class Broken(LedgerMachine):
        pass

    class Twice:
        """A ledger that counts a repeated step again."""

        def __getattr__(self, name: str) -> object:
            return getattr(store.ledger, name)

        def all_steps(self, job_id: str) -> list[StepRecord]:
            records = list(store.ledger.all_steps(job_id))
            return records + records[-1:]

    Broken.store = replace(store, ledger=Twice())  # type: ignore[arg-type]
    history = Broken()
    history.claim(ahead=1)
    history.the_series_is_the_models()
    history.commit(offset=1, nll=2.5)
    with pytest.raises(AssertionError):
        history.the_series_is_the_models()
