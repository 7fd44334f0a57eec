"""The ledger's rules for steps and checkpoints on a real Redis: duplicates, gaps, fencing, resume, sums."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.store.codec import encode
from services.store.errors import CheckpointNotUsable, Fenced, NotFound, StepOutOfOrder
from services.store.ledger import Outcome
from services.store.records import Control, ErrorRecord, JobState, MixPart, MixSums, StepRecord
from services.store.store import Store
from tests.support.ledger_steps import (
    SPEC,
    checkpoint,
    events,
    running,
    save,
    series,
    step,
    store_of_two_datasets,
    train,
)


@pytest.fixture
def store(redis_url: str) -> Store:
    return store_of_two_datasets(redis_url)


def test_floats_pass_through_the_ledger_exactly(store: Store) -> None:
    job = running(store)
    records = [step(n, nll=0.1 + n / 7, test=1e-17 + n / 3 if n % 2 else None) for n in range(1, 8)]
    for record in records:
        store.ledger.commit_step(job.id, record)
    assert store.ledger.steps(job.id) == records
    total = 0.0
    for record in records:
        total += record.nll_sum
    found = store.jobs.get(job.id)
    assert found.effective.nll == total == found.work.nll
    assert found.last_train_nll == records[-1].nll_sum / 40.0
    assert found.learning_rate == 1e-4 / 3
    assert found.test_nll == (1e-17 + 7 / 3) / 10.0
    assert found.best_test_nll == (1e-17 + 1 / 3) / 10.0
    assert (found.test_step, found.best_test_step, found.step) == (7, 1, 7)


def test_a_step_sent_twice_counts_once_and_a_gap_names_the_last_step(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 3)
    before = store.jobs.get(job.id)
    again = store.ledger.commit_step(job.id, step(2))
    assert (again.outcome, again.last, again.checkpoint_step) == (Outcome.OK, 3, -1)
    gap = store.ledger.commit_step(job.id, step(5))
    assert (gap.outcome, gap.last) == (Outcome.GAP, 3)
    assert replace(store.jobs.get(job.id)) == before
    assert store.ledger.commit_checkpoint(job.id, checkpoint(job, 4)).outcome is Outcome.GAP
    assert series(store, job) == [(1, 1), (2, 1), (3, 1)]


def test_the_evaluation_before_step_1_is_step_0_and_no_step(store: Store) -> None:
    job = running(store)
    assert store.ledger.initial(job.id) is None
    start = StepRecord(0, 1, test_nll_sum=50.0, test_weight_sum=10.0, test_target_bytes=25)
    for _ in range(2):
        assert store.ledger.commit_step(job.id, start).outcome is Outcome.OK
    train(store, job, 1, 2)
    assert store.ledger.initial(job.id) == start
    assert series(store, job) == [(1, 1), (2, 1)]
    found = store.jobs.get(job.id)
    assert (found.test_nll, found.work.test_weight, found.effective.test_weight, found.work.steps) == (
        5.0,
        10.0,
        10.0,
        2,
    )
    assert found.effective.steps == 2


def test_a_resumed_attempt_supersedes_later_steps_but_their_work_stays_counted(store: Store) -> None:
    job = running(store)
    save(store, job, 0)
    train(store, job, 1, 2)
    store.ledger.commit_step(job.id, step(3, test=30.0))
    kept = save(store, job, 3, test=3.0)
    at_three = store.jobs.get(job.id)
    train(store, job, 4, 5)
    store.ledger.commit_step(job.id, step(6, test=10.0))
    store.jobs.release(job.id, 1, "server_restarted", "TuFT restarted.")
    claim = store.jobs.claim(job.id, 2, "w2")
    assert claim is not None
    assert claim.checkpoint == checkpoint(job, 3, test=3.0)
    assert (claim.job.step, claim.job.start_step, claim.job.last_checkpoint) == (3, 3, kept)
    assert claim.job.effective == at_three.effective
    assert (claim.job.test_nll, claim.job.best_test_nll, claim.job.epoch) == (3.0, 3.0, 1)
    assert claim.job.last_train_nll == at_three.last_train_nll
    assert claim.job.work.steps == 6
    train(store, job, 4, 4, attempt=2)
    assert series(store, job) == [(1, 1), (2, 1), (3, 1), (4, 2)]
    assert [record.step for record in store.ledger.all_steps(job.id)] == [1, 2, 3, 4, 5, 6, 4]
    assert store.jobs.get(job.id).work.steps == 7
    assert store.jobs.get(job.id).effective.steps == 4


def test_two_attempts_alive_at_once_and_only_the_new_one_commits(store: Store) -> None:
    job = running(store)
    save(store, job, 0)
    train(store, job, 1, 2)
    store.jobs.release(job.id, 1, "worker_lost", "gone")
    assert store.jobs.claim(job.id, 2, "w2") is not None
    before = store.jobs.get(job.id)
    assert store.ledger.commit_step(job.id, step(3, attempt=1)).outcome is Outcome.FENCED
    assert store.ledger.commit_step(job.id, step(1, attempt=1)).outcome is Outcome.FENCED
    assert store.ledger.commit_checkpoint(job.id, checkpoint(job, 0)).outcome is Outcome.FENCED
    for call in (
        lambda: store.jobs.renew(job.id, 1),
        lambda: store.jobs.finish(job.id, 1, JobState.SUCCEEDED),
        lambda: store.jobs.release(job.id, 1, "x", "y"),
        lambda: store.jobs.preempt(job.id, 1, "x"),
        lambda: store.jobs.set_adapter(job.id, 1, "u", "s"),
        lambda: store.ledger.update_checkpoint(job.id, 1, f"{job.id}-a1-s0", test_nll=0.5),
        lambda: store.ledger.checkpoint_stored(job.id, 1, f"{job.id}-a1-s0", uri="u", sha256="s", bytes=1),
    ):
        with pytest.raises(Fenced, match=f"attempt 1 no longer holds job {job.id}"):
            call()
    assert store.jobs.get(job.id) == before
    train(store, job, 1, 3, attempt=2)
    assert series(store, job) == [(1, 2), (2, 2), (3, 2)]


def test_an_evaluation_that_an_attempt_left_is_added_to_its_step_once(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 2)
    save(store, job, 2)
    before = store.jobs.get(job.id)
    store.jobs.release(job.id, 1, "x", "y")
    store.jobs.claim(job.id, 2, "w")
    phases = store.redis.hgetall("tl:run:counters")
    late = step(2, attempt=2, test=50.0)
    for _ in range(2):  # the first answer may be lost
        assert store.ledger.commit_step(job.id, late).outcome is Outcome.OK
    found = store.jobs.get(job.id)
    assert (found.test_nll, found.test_step, found.best_test_step, found.step) == (5.0, 2, 2, 2)
    assert found.effective == replace(before.effective, test_nll=50.0, test_weight=10.0, test_target_bytes=25)
    assert found.work == replace(before.work, test_nll=50.0, test_weight=10.0, test_target_bytes=25)
    assert store.ledger.steps(job.id) == [step(1), late]
    assert store.redis.hgetall("tl:run:counters") == phases  # the step's seconds were counted before
    train(store, job, 3, 3, attempt=2)
    assert store.jobs.get(job.id).effective.steps == 3
    store.jobs.release(job.id, 2, "x", "y")  # back at step 2 the evaluation is still there
    store.jobs.claim(job.id, 3, "w")
    assert (store.jobs.get(job.id).test_nll, store.jobs.get(job.id).step) == (5.0, 2)


def test_a_checkpoint_that_is_evaluated_later_stays_in_the_store(store: Store) -> None:
    job = running(store)
    name = save(store, job, 0)
    store.ledger.checkpoint_stored(job.id, 1, name, uri="folder/s0", sha256="ab", bytes=7)
    store.ledger.commit_checkpoint(job.id, checkpoint(job, 0, test=2.5))
    found = store.ledger.checkpoint(job.id, name)
    assert (found.stored, found.uri, found.sha256, found.test_nll) == (True, "folder/s0", "ab", 2.5)
    assert store.jobs.get(job.id).best_checkpoint == name


def test_a_step_that_the_checkpoint_holds_is_a_bug_and_refused(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 2)
    save(store, job, 2)
    store.jobs.release(job.id, 1, "x", "y")
    store.jobs.claim(job.id, 2, "w")
    with pytest.raises(StepOutOfOrder, match=r"step 2 of job .* is part of the checkpoint that attempt 2 began from"):
        store.ledger.commit_step(job.id, step(2, attempt=2))
    with pytest.raises(StepOutOfOrder, match="is older than the one that attempt 2 began from"):
        store.ledger.commit_checkpoint(job.id, checkpoint(job, 1, attempt=2))


def test_resume_from_a_chosen_checkpoint_supersedes_later_ones(store: Store) -> None:
    job = running(store)
    names = {}
    for number in range(1, 7):
        train(store, job, number, number)
        names[number] = save(store, job, number, test=7.0 - number)
    assert store.jobs.get(job.id).best_checkpoint == names[6]
    store.jobs.finish(job.id, 1, JobState.FAILED, ErrorRecord("OUT_OF_MEMORY", "No room."))
    assert store.jobs.get(job.id).error == ErrorRecord("OUT_OF_MEMORY", "No room.")
    resumed = store.jobs.resume(job.id, names[2])
    assert (resumed.state, resumed.error, resumed.finish_time) == (JobState.QUEUED, None, 0.0)
    claim = store.jobs.claim(job.id, 2, "w")
    assert claim is not None
    assert claim.checkpoint is not None
    assert (claim.checkpoint.id, claim.job.best_checkpoint, claim.job.last_checkpoint) == (names[2],) * 3
    assert [(c.step, c.superseded) for c in store.ledger.checkpoints(job.id)] == [
        (1, False), (2, False), (3, True), (4, True), (5, True), (6, True),
    ]  # fmt: skip
    store.jobs.cancel(job.id)
    store.jobs.finish(job.id, 2, JobState.CANCELLED)
    with pytest.raises(CheckpointNotUsable, match="belongs to steps that a later attempt replaced"):
        store.jobs.resume(job.id, names[5])
    with pytest.raises(CheckpointNotUsable, match=f"job {job.id} has no checkpoint nothing"):
        store.jobs.resume(job.id, "nothing")
    assert store.jobs.resume(job.id, names[1]).state is JobState.QUEUED
    assert store.jobs.claim(job.id, 3, "w") is not None
    assert series(store, job) == [(1, 1)]


def test_cancelled_after_a_resume_the_series_ends_at_the_last_effective_step(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 2)
    save(store, job, 2)
    train(store, job, 3, 9)
    store.jobs.release(job.id, 1, "x", "y")
    store.jobs.claim(job.id, 2, "w")
    train(store, job, 3, 4, attempt=2)
    assert store.jobs.cancel(job.id).control is Control.CANCEL
    assert store.ledger.commit_step(job.id, step(5, attempt=2)).control is Control.CANCEL
    done = store.jobs.finish(job.id, 2, JobState.CANCELLED)
    assert (done.state, done.step, done.effective.steps, done.work.steps) == (JobState.CANCELLED, 5, 5, 12)
    assert series(store, job) == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]


def test_the_newest_stored_checkpoint_is_told_whatever_is_copied_after_it_and_cut_with_the_series(
    store: Store,
) -> None:
    job = running(store)
    names = {}
    for number in (1, 2, 3):
        train(store, job, number, number)
        names[number] = save(store, job, number)

    def copied(number: int) -> tuple[str, int]:
        store.ledger.checkpoint_stored(job.id, 1, names[number], uri="u", sha256="s", bytes=1)
        return told()

    def told() -> tuple[str, int]:
        now = store.jobs.get(job.id)
        return now.stored_checkpoint, now.stored_step

    assert copied(1) == (names[1], 1)
    assert copied(3) == (names[3], 3)
    lag = store.jobs.get(job.id).stored_lag
    assert copied(2) == (names[3], 3), "older ones that are kept are copied at the end"
    assert lag is not None
    assert store.jobs.get(job.id).stored_lag == lag
    store.jobs.finish(job.id, 1, JobState.FAILED, ErrorRecord("OUT_OF_MEMORY", "No room."))
    store.jobs.resume(job.id, names[2])
    assert store.jobs.claim(job.id, 2, "w") is not None
    assert told() == (names[2], 2)
    assert store.jobs.get(job.id).stored_lag is None


def test_checkpoints_are_updated_marked_best_and_removed_but_for_the_last_and_the_best(store: Store) -> None:
    job = running(store)
    first = save(store, job, 0)
    train(store, job, 1, 3)
    best, third = save(store, job, 1, test=1.0), save(store, job, 3, test=1.5)
    with pytest.raises(CheckpointNotUsable, match=f"checkpoint {best} is the best one and has to stay"):
        store.ledger.remove_checkpoint(job.id, 1, best)
    with pytest.raises(CheckpointNotUsable, match=f"checkpoint {third} is the last one and has to stay"):
        store.ledger.remove_checkpoint(job.id, 1, third)
    store.ledger.remove_checkpoint(job.id, 1, first)
    store.ledger.update_checkpoint(job.id, 1, third, test_nll=0.5)
    changed = store.ledger.checkpoint_stored(job.id, 1, third, uri="u", sha256="s", bytes=1)
    assert (changed.stored, changed.uri, changed.sha256, changed.probe_nll) == (True, "u", "s", 1 / 3)
    assert store.ledger.checkpoint(job.id) == changed
    assert store.jobs.get(job.id).best_checkpoint == third
    store.ledger.remove_checkpoint(job.id, 1, best)
    assert [c.id for c in store.ledger.checkpoints(job.id)] == [third]
    with pytest.raises(CheckpointNotUsable, match="has no checkpoint"):
        store.ledger.checkpoint_stored(job.id, 1, best, uri="u", sha256="s", bytes=1)
    with pytest.raises(NotFound, match="has no checkpoint"):
        store.ledger.checkpoint(job.id, best)


def test_a_checkpoint_committed_twice_is_announced_once(store: Store) -> None:
    job = running(store)
    for _ in range(2):
        save(store, job, 0)
    kinds = [entry.kind for entry in store.events.read(job.id)]
    assert kinds.count("checkpoint") == 1
    assert [event.type for event in events(store, job)].count("CHECKPOINT_SAVED") == 1


def test_the_rate_counts_the_last_steps_of_this_attempt_only(store: Store) -> None:
    job = running(store)
    train(store, job, 1, 2)
    first = int(store.redis.xrevrange(f"tl:run:stream:{job.id}", count=1)[0][0].split("-")[0])
    import time

    while int(store.redis.time()[0] * 1000 + store.redis.time()[1] / 1000) < first + 50:
        time.sleep(0.005)
    train(store, job, 3, 3)
    rate = store.jobs.get(job.id).tokens_per_second
    assert 0 < rate <= 2 * 100 / 0.050
    save(store, job, 3)
    store.jobs.release(job.id, 1, "x", "y")
    store.jobs.claim(job.id, 2, "w")
    train(store, job, 4, 4, attempt=2)
    assert store.jobs.get(job.id).tokens_per_second == 0.0


def test_a_record_that_is_not_finite_never_reaches_the_ledger() -> None:
    with pytest.raises(ValueError, match="step 4: nll_sum is nan, only finite numbers enter the ledger"):
        step(4, nll=float("nan"))
    with pytest.raises(ValueError, match=r"step 4: weight_sum is 0.0; send a number above 0"):
        replace(step(4), weight_sum=0.0)
    with pytest.raises(ValueError, match="test_nll_sum and test_weight_sum come together"):
        replace(step(4), test_nll_sum=1.0)
    assert encode(step(1)).startswith('{"step":1,"attempt":1')


def test_sums_by_dataset_of_a_mixture_are_exact_and_cut_with_the_series(store: Store) -> None:
    def mixed(number: int, attempt: int = 1) -> StepRecord:
        mix = (MixSums(number, 10 * number, 0.1 / number, 1.0), MixSums(1, 5, 1 / 3, 2.0))
        return replace(step(number, attempt), mix=mix)

    store.redis.hset("tl:api:dataset:ds-more", "state", "ready")
    spec = replace(SPEC, training_dataset="", mix=(MixPart("ds-train", 0.7), MixPart("ds-more", 0.3)))
    job = running(store, spec)
    assert store.redis.smembers(f"tl:run:uses:{'ds-more'}") == {job.id}
    assert store.jobs.get(job.id).effective_mix == ()
    for number in range(1, 6):
        for _ in range(2):  # an answer that was lost
            assert store.ledger.commit_step(job.id, mixed(number)).outcome is Outcome.OK
        if number == 2:
            save(store, job, 2)
    assert store.ledger.steps(job.id) == [mixed(number) for number in range(1, 6)]
    found = store.jobs.get(job.id)
    assert found.effective_mix == found.work_mix
    nll = weight = 0.0
    for number in range(1, 6):
        nll, weight = nll + 0.1 / number, weight + 1.0
    assert found.work_mix[0] == MixSums(15, 150, nll, weight)
    store.jobs.release(job.id, 1, "worker_lost", "x")
    claim = store.jobs.claim(job.id, 2, "w2")
    assert claim is not None
    assert claim.job.effective_mix == (
        MixSums(3, 30, 0.1 + 0.1 / 2, 2.0),
        MixSums(2, 10, 1 / 3 + 1 / 3, 4.0),
    )
    assert claim.job.work_mix == found.work_mix
    store.ledger.commit_step(job.id, mixed(3, attempt=2))
    again = store.jobs.get(job.id)
    assert again.effective_mix[0].conversations == 6
    assert again.work_mix[0].conversations == 18
    store.jobs.finish(job.id, 2, JobState.SUCCEEDED)
    assert not store.redis.exists("tl:run:uses:ds-more")
