"""FineTuningService: jobs are steered, and watched without a loss or a repetition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from services.store.records import ErrorRecord, HostRecord, JobState, ServedModelRecord, StepRecord
from services.store.store import Store
from services.trainer.supervision.supervisor import Supervisor, SupervisorSettings
from tests.support.api_calls import (
    MODEL,
    TUFT_MODEL,
    Api,
    Start,
    make_dataset,
    make_job,
    placed,
    read_refusal,
    refusal,
    wait_until,
)
from tests.support.job_steps import LIMIT, checkpoint, commit, finished_job, get, running
from tests.support.rq_workers import sign_in
from tests.support.small_disk import small_disk
from turnloom.v1 import training_pb2 as pb

Hyper = pb.Hyperparameters


@pytest.mark.usefixtures("gpu_host")
class TestSteering:
    """Cancel, pause, resume, delete."""

    def test_a_queued_job_is_cancelled_at_once_and_its_ticket_is_gone(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        assert api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_CANCELLED
        assert store.tickets.waiting("gpu-a") == []
        assert api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_CANCELLED

    def test_a_running_job_is_asked_and_the_next_commit_tells_it(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        assert api.jobs.PauseJob(pb.PauseJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_PAUSING
        assert store.jobs.renew(job, attempt).value == "pause"
        store.jobs.finish(job, attempt, JobState.PAUSED)
        resumed = api.jobs.ResumeJob(pb.ResumeJobRequest(id=job), timeout=LIMIT).job
        assert resumed.state == pb.JOB_STATE_QUEUED
        assert [one.job for one in store.pool.waiting()] == [job]
        attempt = running(store, job)
        assert api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_CANCELLING

    def test_a_job_in_the_wrong_state_says_which_it_is_in(self, api: Api) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        said = refusal(lambda: api.jobs.PauseJob(pb.PauseJobRequest(id=job), timeout=LIMIT))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "queued" in said.message.lower()
        said = refusal(lambda: api.jobs.DeleteJob(pb.DeleteJobRequest(id=job), timeout=LIMIT))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION

    def test_a_deleted_job_is_gone_with_its_adapter(self, api: Api, store: Store, tmp_path: Path) -> None:
        job = finished_job(api, store, tmp_path)
        api.jobs.DeleteJob(pb.DeleteJobRequest(id=job), timeout=LIMIT)
        assert refusal(lambda: get(api, job)).code is grpc.StatusCode.NOT_FOUND
        assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file() and job in str(path)]

    def test_the_files_of_a_job_deleted_while_the_store_is_away_go_later(
        self, api: Api, store: Store, tmp_path: Path
    ) -> None:
        job = finished_job(api, store, tmp_path)
        supervisor = Supervisor(store, SupervisorSettings("", str(tmp_path / "store")))
        busy = tmp_path / "store" / "adapters" / job / "busy"
        busy.mkdir()
        with small_disk(busy, 1) as disk:  # what is mounted can't be removed
            if disk is None:
                pytest.skip("this user may not mount")
            api.jobs.DeleteJob(pb.DeleteJobRequest(id=job), timeout=LIMIT)
            assert refusal(lambda: get(api, job)).code is grpc.StatusCode.NOT_FOUND
            store.redis.zincrby("tl:run:left-objects", -3600, job)  # an hour ago
            supervisor.tidy_files()
            assert store.jobs.with_objects_left(0.0) == [job]
        supervisor.tidy_files()
        assert store.jobs.with_objects_left(0.0) == []
        assert not (tmp_path / "store" / "adapters" / job).exists()

    def test_a_deleted_job_leaves_no_key_and_no_object(self, api: Api, store: Store, tmp_path: Path) -> None:
        dataset = make_dataset(api).id
        adapter = tmp_path / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")

        def life() -> set[str]:
            """Everything that a job can leave, then DeleteJob; answers all keys."""
            job = make_job(api, dataset, request_id="one", metadata={"a": "b"}).job.id
            store.tickets.drop(store.jobs.get(job))  # no worker is here to take it
            store.ledger.commit_step(job, StepRecord(0, running(store, job), test_nll_sum=1.0, test_weight_sum=2.0))
            checkpoint(store, job, 1, 0)
            commit(store, job, 1, 1, test_nll_sum=1.0, test_weight_sum=2.0)
            store.tickets.enqueue(store.jobs.release(job, 1, "crash", "It crashed."))
            store.tickets.drop(store.jobs.get(job))
            attempt = running(store, job)
            commit(store, job, attempt, 1)
            checkpoint(store, job, attempt, 1)
            store.objects.put_folder(job, "final", adapter)
            store.jobs.finish(job, attempt, JobState.FAILED, ErrorRecord("X", "x"))
            Supervisor(store, SupervisorSettings("", str(tmp_path / "store"))).archive()
            assert store.jobs.get(job).archive_uri
            api.jobs.DeleteJob(pb.DeleteJobRequest(id=job), timeout=LIMIT)
            assert not [key for key in store.redis.scan_iter() if job in key]
            assert not [path for path in (tmp_path / "store").rglob("*") if job in path.name]
            return set(store.redis.scan_iter())

        assert life() == life()

    def test_a_job_cancelled_in_its_queue_leaves_no_ticket(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        placed(store, job)
        assert [key for key in store.redis.scan_iter("rq:*") if job in key]
        api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT)
        assert not [key for key in store.redis.scan_iter("rq:*") if job in key]

    def test_a_queued_and_a_running_job_are_moved(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        placed(store, job)
        said = refusal(lambda: api.jobs.MoveJob(pb.MoveJobRequest(id=job), timeout=LIMIT))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "No live host but gpu-a serves" in said.message
        model = (ServedModelRecord(TUFT_MODEL, 64),)
        store.hosts.put(HostRecord(name="gpu-0", models=model, backend_up=True), ttl=300)
        moved = api.jobs.MoveJob(pb.MoveJobRequest(id=job, host="gpu-0"), timeout=LIMIT).job
        assert (moved.host, moved.state) == ("gpu-0", pb.JOB_STATE_QUEUED)
        assert (store.tickets.waiting("gpu-0"), store.tickets.waiting("gpu-a")) == ([f"{job}-a1"], [])
        said = refusal(lambda: api.jobs.MoveJob(pb.MoveJobRequest(id=job, host="gpu-0"), timeout=LIMIT))
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        attempt = running(store, job)
        assert api.jobs.MoveJob(pb.MoveJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_RUNNING
        assert store.jobs.renew(job, attempt).value == "preempt"
        released = store.jobs.release(job, attempt, "moved", "Moved.")
        assert (released.state, released.host) == (JobState.QUEUED, "")
        commit(store, job, running(store, job), 1)
        store.jobs.release(job, attempt + 1, "crash", "x")
        said = refusal(lambda: api.jobs.MoveJob(pb.MoveJobRequest(id=job), timeout=LIMIT))
        assert "so only host gpu-a can go on with it" in said.message

    def test_a_job_that_has_ended_is_not_moved_whatever_its_host_and_no_queued_one_is_resumed(
        self, api: Api, store: Store
    ) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        said = refusal(lambda: api.jobs.ResumeJob(pb.ResumeJobRequest(id=job), timeout=LIMIT))
        assert said.message == f"Job {job} is QUEUED, only a PAUSED, FAILED or CANCELLED job is resumed."
        api.jobs.CancelJob(pb.CancelJobRequest(id=job), timeout=LIMIT)
        for host in ("", "gpu-a", "nowhere"):
            said = refusal(lambda host=host: api.jobs.MoveJob(pb.MoveJobRequest(id=job, host=host), timeout=LIMIT))
            assert said.code is grpc.StatusCode.FAILED_PRECONDITION
            assert said.message == f"Job {job} is CANCELLED, only a QUEUED or RUNNING job is moved."

    def test_a_job_that_asks_for_its_host_is_moved_where_it_is_told_to(self, api: Api, store: Store) -> None:
        dataset = make_dataset(api).id
        waiting, job = (make_job(api, dataset, host="gpu-a").job.id for _ in range(2))
        attempt = running(store, job)
        store.hosts.put(HostRecord(name="gpu-0", models=(ServedModelRecord(TUFT_MODEL, 64),), backend_up=True), ttl=300)
        for one in (waiting, job):
            said = refusal(lambda one=one: api.jobs.MoveJob(pb.MoveJobRequest(id=one), timeout=LIMIT))
            assert said.code is grpc.StatusCode.FAILED_PRECONDITION
            assert f"'{one}' asks for host 'gpu-a'; name the host that it shall move to." in said.message
        assert store.jobs.renew(job, attempt).value == "none"
        api.jobs.MoveJob(pb.MoveJobRequest(id=job, host="gpu-0"), timeout=LIMIT)
        assert store.jobs.release(job, attempt, "moved", "Moved.").host == "gpu-0"

    def test_the_queue_is_listed_in_order_with_reasons(self, api: Api, store: Store) -> None:
        dataset = make_dataset(api).id
        first = make_job(api, dataset).job.id
        urgent = make_job(api, dataset, priority=3).job
        assert urgent.priority == 3
        found = api.jobs.ListQueue(pb.ListQueueRequest(), timeout=LIMIT)
        assert [(one.job, one.position, one.priority) for one in found.jobs] == [(urgent.id, 1, 3), (first, 2, 0)]
        assert {one.reason for one in found.jobs} == {"No worker runs on gpu-a."}
        assert found.waiting == 2
        sign_in(store, "train.gpu-a")
        placed(store, urgent.id)
        held, left = api.jobs.ListQueue(pb.ListQueueRequest(), timeout=LIMIT).jobs
        assert (held.job, held.position, held.host) == (urgent.id, 0, "gpu-a")
        assert (left.job, left.position, left.reason) == (first, 1, "Every worker is busy: gpu-a has 1.")
        said = refusal(lambda: make_job(api, dataset, priority=101))
        assert said.code is grpc.StatusCode.INVALID_ARGUMENT

    def test_the_queue_names_the_quota_the_host_that_is_gone_and_what_nobody_serves(
        self, api: Api, store: Store
    ) -> None:
        dataset = make_dataset(api).id

        def reasons() -> dict[str, tuple[int, str]]:
            found = api.jobs.ListQueue(pb.ListQueueRequest(), timeout=LIMIT).jobs
            return {one.job: (one.position, one.reason) for one in found}

        held, free, pinned = (make_job(api, dataset, **asked).job.id for asked in ({}, {}, {"host": "gpu-a"}))
        sign_in(store, "train.gpu-a")
        placed(store, held)
        store.pool.say_quota(1)
        assert reasons() == {
            held: (0, "A worker of host gpu-a takes it next."),
            free: (1, "Its owner has as many jobs on hosts as the quota allows: 1."),
            pinned: (2, "Its owner has as many jobs on hosts as the quota allows: 1."),
        }
        gone = store.hosts.get("gpu-a")
        assert gone is not None
        store.redis.delete("tl:run:host:gpu-a")
        assert reasons() == {
            held: (0, "It goes on at host gpu-a, which is silent."),
            free: (1, f"No live host serves {TUFT_MODEL} at rank 8."),
            pinned: (2, "It asks for host gpu-a, which is silent."),
        }
        store.hosts.put(replace(gone, models=()))
        assert reasons()[pinned] == (2, f"It asks for host gpu-a, which does not serve {TUFT_MODEL} at rank 8.")
        store.hosts.put(replace(gone, backend_up=False))
        assert reasons()[free] == (1, "TuFT does not answer on gpu-a.")
        assert reasons()[held] == (0, "It goes on at host gpu-a, where TuFT does not answer.")

    def test_a_full_queue_refuses_a_job_and_a_sweep(self, start_api: Start, redis_url: str, store: Store) -> None:
        api = start_api(redis_url, quota_queued=2)
        dataset = make_dataset(api).id
        first = make_job(api, dataset, request_id="first")
        cells = pb.CreateSweepRequest(
            base=pb.CreateJobRequest(model=MODEL, training_dataset=dataset, hyperparameters=Hyper(batch_size=4)),
            axes=[pb.SweepAxis(hyperparameter="lora_rank", values=[4, 8])],
        )
        said = refusal(lambda: api.jobs.CreateSweep(cells, timeout=LIMIT))
        assert said.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert said.message == "The owner has 1 job in the queue, and 2 more would be over the quota: 2."
        assert store.sweeps.list().items == []
        make_job(api, dataset)
        said = refusal(lambda: make_job(api, dataset))
        assert (said.code, said.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_REACHED")
        assert said.message == "The owner has as many jobs in the queue as the quota allows: 2."
        again = make_job(api, dataset, request_id="first")
        assert (again.job.id, again.deduplicated) == (first.job.id, True)

    def test_a_failed_job_says_why_and_can_be_resumed(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        store.jobs.finish(
            job, attempt, JobState.FAILED, ErrorRecord("OUT_OF_MEMORY", "No room.", "max_length", "Less.")
        )
        failed = get(api, job)
        assert (failed.error.code, failed.error.param, failed.error.hint) == ("OUT_OF_MEMORY", "max_length", "Less.")
        assert failed.HasField("finish_time")
        assert api.jobs.ResumeJob(pb.ResumeJobRequest(id=job), timeout=LIMIT).job.state == pb.JOB_STATE_QUEUED


@pytest.mark.usefixtures("gpu_host")
class TestWatchJob:
    """Everything in order, each once, however often the client comes back."""

    def test_twenty_reconnects_see_everything_once(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        attempt = running(store, job)
        seen: list[tuple[str, str]] = []
        position, step = "", 0
        for _ in range(20):
            watch = api.jobs.WatchJob(pb.WatchJobRequest(id=job, start_event_id=position), timeout=LIMIT)
            for _ in range(3):
                step += 1
                commit(store, job, attempt, step)
                update = next(watch)
                seen.append((update.event_id, update.WhichOneof("update")))
                position = update.event_id
            watch.cancel()
        store.jobs.finish(job, attempt, JobState.SUCCEEDED)
        rest = list(api.jobs.WatchJob(pb.WatchJobRequest(id=job, start_event_id=position), timeout=LIMIT))
        seen += [(update.event_id, update.WhichOneof("update")) for update in rest]
        whole = list(api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT))
        assert seen == [(update.event_id, update.WhichOneof("update")) for update in whole]
        assert [update.step.step for update in whole if update.HasField("step")] == list(range(1, 61))
        states = [update.job.state for update in whole if update.HasField("job")]
        assert states[-1] == pb.JOB_STATE_SUCCEEDED
        assert pb.JOB_STATE_RUNNING in states

    def test_a_watch_ends_after_the_terminal_state_and_frees_its_thread(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        watch = api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT)
        next(watch)
        store.jobs.cancel(job)
        assert [update.job.state for update in watch if update.HasField("job")][-1] == pb.JOB_STATE_CANCELLED

    def test_what_is_said_after_the_end_neither_keeps_a_watch_open_nor_is_lost(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        store.jobs.finish(job, running(store, job), JobState.SUCCEEDED)
        first = list(api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT))
        assert first[-1].job.state == pb.JOB_STATE_SUCCEEDED
        store.events.append(job, "info", "ADAPTER_RELEASED", "Freed 1 runs on the server.", 1)
        asked = pb.WatchJobRequest(id=job, start_event_id=first[-1].event_id)
        (late,) = api.jobs.WatchJob(asked, timeout=LIMIT)
        assert late.event.type == "ADAPTER_RELEASED"
        assert not list(api.jobs.WatchJob(pb.WatchJobRequest(id=job, start_event_id=late.event_id), timeout=LIMIT))

    def test_clients_that_leave_free_their_slots(self, start_api: Start, store: Store, redis_url: str) -> None:
        api = start_api(redis_url, threads=4)
        job = make_job(api, make_dataset(api).id).job.id
        for _ in range(6):  # with two slots, so those that left must have given theirs back
            wait_until(lambda: begins_and_leaves(api, job))
        wait_until(lambda: api.handled("server_stream", "FineTuningService", "WatchJob", "CANCELLED") == 6)

    def test_an_event_id_that_is_none_is_refused(self, api: Api) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        said = refusal(lambda: list(api.jobs.WatchJob(pb.WatchJobRequest(id=job, start_event_id="x"), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.INVALID_ARGUMENT
        assert said.reason == "BAD_TOKEN"

    def test_a_watch_from_an_event_that_is_not_yet_is_refused_and_does_not_wait(self, api: Api) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        request = pb.WatchJobRequest(id=job, start_event_id="9999999999999-0")
        said = refusal(lambda: list(api.jobs.WatchJob(request, timeout=LIMIT)))
        assert said.code is grpc.StatusCode.INVALID_ARGUMENT
        assert said.message.startswith("Event id '9999999999999-0' lies in the future")

    def test_events_that_expired_are_out_of_range(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        (name,) = [key for key in store.redis.scan_iter(f"*{job}*") if store.redis.type(key) == "stream"]
        store.redis.delete(name)
        said = refusal(lambda: list(api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.OUT_OF_RANGE

    def test_events_come_in_pages_without_steps(self, api: Api, store: Store) -> None:
        job = make_job(api, make_dataset(api).id).job.id
        for number in range(5):
            store.events.append(job, "info", "TEST", f"number {number}", fields={"n": str(number)})
        found, token = [], ""
        while True:
            page = api.jobs.ListEvents(pb.ListEventsRequest(job=job, page_size=2, page_token=token), timeout=LIMIT)
            found += list(page.events)
            token = page.next_page_token
            if not token:
                break
        mine = [event for event in found if event.type == "TEST"]
        assert [event.fields["n"] for event in mine] == list("01234")
        assert len({event.id for event in found}) == len(found)


def begins_and_leaves(api: Api, job: str) -> bool:
    """Open a watch, see one update and leave; False: all slots were still taken."""
    watch = api.jobs.WatchJob(pb.WatchJobRequest(id=job), timeout=LIMIT)
    try:
        next(watch)
    except grpc.RpcError as error:
        refused = read_refusal(error).code
    else:
        watch.cancel()
        return True
    assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
    return False
