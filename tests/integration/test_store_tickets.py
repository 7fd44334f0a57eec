"""Tickets on a real Redis with a real RQ worker; hosts and where a job goes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from rq import Queue, SimpleWorker
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer

from services.outages import OutageLog
from services.store.errors import NoHost, TicketFailed, TicketTimeout
from services.store.hosts import HostClaim, claim_host, keep_host, release_host
from services.store.queueing import ticket_jobs
from services.store.queueing.queues import JOB_FUNCTION, queue_name, ticket_id
from services.store.queueing.ticket_jobs import TicketWorker
from services.store.queueing.workers import FRESH, RECORD_LIFE, count, registered
from services.store.records import HostRecord, JobRecord, JobSpec, ServedModelRecord
from services.store.store import Store
from tests.support.rq_workers import age
from tests.support.store_fixtures import store_of_a_ledger

store = pytest.fixture(store_of_a_ledger)


def queued(store: Store, host: str = "h1") -> JobRecord:
    return store.jobs.queue(store.jobs.create(JobSpec("m", "tuft/m", "ds")).job.id, host=host, planned_steps=9)


def answer(question: str) -> dict[str, object]:
    """Runs in the worker."""
    if question == "bad":
        raise ValueError("the question is bad")
    return {"answer": question.upper(), "numbers": [1, 2.5, None]}


def work(store: Store, queue: str) -> None:
    queues = [Queue(queue, connection=store.rq, serializer=JSONSerializer)]
    worker = SimpleWorker(queues, connection=store.rq, serializer=JSONSerializer)
    worker.work(burst=True)


def test_a_ticket_whose_record_is_gone_is_dropped_like_any_other(store: Store) -> None:
    job = queued(store)
    ticket = store.tickets.enqueue(job)
    store.rq.delete(f"rq:job:{ticket}")
    store.tickets.drop(job)
    assert store.tickets.waiting("h1") == []


def test_a_ticket_names_a_function_and_an_attempt_and_nothing_else(store: Store) -> None:
    job = queued(store)
    name = store.tickets.enqueue(job)
    assert name == ticket_id(job.id, 1) == f"{job.id}-a1"
    ticket = RqJob.fetch(name, connection=store.rq, serializer=JSONSerializer)
    assert (ticket.func_name, ticket.kwargs, ticket.args) == (JOB_FUNCTION, {"job_id": job.id, "attempt": 1}, [])
    assert (ticket.origin, ticket.timeout, ticket.result_ttl, ticket.retries_left) == ("train.h1", -1, 60, None)


def call(store: Store, question: str, queue: str = "q") -> str:
    return store.tickets.call(queue, f"{__name__}.answer", {"question": question}, timeout=5)


def first_taken(store: Store, question: str) -> object:
    return store.tickets.take_first("q", f"{__name__}.answer", lambda found: found["question"] == question)


def test_the_first_ticket_is_taken_by_its_arguments_and_nothing_behind_it(store: Store) -> None:
    assert first_taken(store, "a") is None
    names = [call(store, question) for question in ("a", "b")]
    assert first_taken(store, "b") is None, "not the first"
    assert store.tickets.take_first("q", "another.function", lambda _: True) is None
    assert first_taken(store, "a") == {"question": "a"}
    assert [name.decode() for name in store.rq.lrange("rq:queue:q", 0, -1)] == names[1:]
    assert not store.rq.exists(f"rq:job:{names[0]}")
    store.rq.delete(f"rq:job:{names[1]}")
    assert first_taken(store, "b") is None, "its record is gone; a worker drops it"
    work(store, "q")
    assert store.tickets.depth("q") == 0


def test_many_that_take_the_first_ticket_at_once_get_each_ticket_once(store: Store) -> None:
    for number in range(60):
        call(store, str(number))

    def taken(_: int) -> list[object]:
        found = iter(lambda: store.tickets.take_first("q", f"{__name__}.answer", lambda _: True), None)
        return [arguments["question"] for arguments in found]

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(taken, range(4)))
    assert sorted(int(str(item)) for share in shares for item in share) == list(range(60))
    assert all(share == sorted(share, key=lambda item: int(str(item))) for share in shares)


def test_a_worker_counts_by_its_last_sign_whatever_life_rq_would_give_its_record(store: Store) -> None:
    def life() -> float:
        return store.redis.pttl(worker.key) / 1000

    worker = TicketWorker("q", store.rq, look_every=1)
    worker.register_birth()
    assert RECORD_LIFE - FRESH < life() <= RECORD_LIFE
    for timeout in (None, 61, 65, 1000):  # as RQ gives them to an idle worker and to a busy one
        age(store, worker.key, fresh_for=1.0)
        worker.heartbeat(timeout)
        assert RECORD_LIFE - 5 < life() <= RECORD_LIFE
    age(store, worker.key)
    assert count(store.redis, ["none", "q"]) == [0, 0]
    worker.heartbeat()
    assert count(store.redis, ["q", "none", "q"]) == [1, 0, 1]
    worker.register_death()
    assert count(store.redis, ["q"]) == [0]
    assert count(store.redis, []) == []


def test_a_worker_that_rq_struck_off_is_counted_again_with_its_next_sign_and_its_horse_signs_for_nobody(
    store: Store,
) -> None:
    worker = TicketWorker("q", store.rq, look_every=1)
    worker.register_birth()
    store.redis.delete("rq:workers", registered("q"), worker.key)
    worker.heartbeat()
    assert count(store.redis, ["q"]) == [1]
    assert store.redis.smembers("rq:workers") == {worker.key}
    store.redis.delete(registered("q"))
    worker._is_horse = True
    worker.heartbeat()
    assert count(store.redis, ["q"]) == [0]


def test_a_preempted_job_goes_to_the_front(store: Store) -> None:
    first, second = queued(store), queued(store)
    store.tickets.enqueue(first)
    store.tickets.enqueue(second, front=True)
    assert store.tickets.waiting("h1") == [ticket_id(second.id, 1), ticket_id(first.id, 1)]
    assert store.tickets.depth("train.h1") == 2
    assert 0 <= store.tickets.oldest_age("train.h1") < 60
    assert store.tickets.oldest_age("train.none") == 0
    store.tickets.drop(first)
    assert store.tickets.waiting("h1") == [ticket_id(second.id, 1)]


def test_a_call_brings_its_json_result_or_its_error_back(store: Store) -> None:
    good = store.tickets.call("q", f"{__name__}.answer", {"question": "why"}, timeout=5)
    bad = store.tickets.call("q", f"{__name__}.answer", {"question": "bad"}, timeout=5)
    work(store, "q")
    assert store.tickets.result(good, 10) == {"answer": "WHY", "numbers": [1, 2.5, None]}
    with pytest.raises(TicketFailed, match=r"^the question is bad$"):
        store.tickets.result(bad, 10)
    with pytest.raises(TicketFailed, match="call call-none is unknown"):
        store.tickets.result("call-none", 1)


def test_a_call_that_nobody_takes_ends_at_its_deadline_and_is_taken_back(store: Store) -> None:
    name = store.tickets.call("q", f"{__name__}.answer", {"question": "why"}, timeout=5)
    began = time.monotonic()
    with pytest.raises(TicketTimeout, match=r"no worker answered on queue q within 0.5 s"):
        store.tickets.result(name, 0.5)
    assert time.monotonic() - began < 60
    assert store.tickets.depth("q") == 0


def asking(store: Store, question: str, **more: object) -> Future[object]:
    """`ask` in a thread; the call is in the queue when this returns."""
    pool = ThreadPoolExecutor(1)
    function = f"{__name__}.answer"
    asked = pool.submit(lambda: store.tickets.ask("q", function, {"question": question}, timeout=100, **more))  # type: ignore[arg-type]
    pool.shutdown(wait=False)
    end = time.monotonic() + 60
    while not store.tickets.depth("q"):
        assert time.monotonic() < end
        time.sleep(0.01)
    return asked


def left(store: Store) -> list[str]:
    """Keys that hold, or name, a call."""
    keys = store.redis.keys("rq:*")
    return [key for key in keys if "call-" in key or "call-" in str(store.rq.dump(key))]


@pytest.mark.parametrize("question", ["why", "bad"])
def test_of_a_question_nothing_stays_in_redis_once_it_is_answered_well_or_badly(store: Store, question: str) -> None:
    asked = asking(store, question)
    assert left(store)
    work(store, "q")
    if question == "bad":
        with pytest.raises(TicketFailed, match=r"^the question is bad$"):
            asked.result(60)
    else:
        assert asked.result(60) == {"answer": "WHY", "numbers": [1, 2.5, None]}
    assert left(store) == []


def test_a_question_that_nobody_takes_is_gone_at_its_deadline_or_when_its_caller_stops(store: Store) -> None:
    with pytest.raises(TicketTimeout, match=r"no worker answered on queue q within 0.3 s"):
        store.tickets.ask("q", f"{__name__}.answer", {"question": "why"}, timeout=0.3)
    assert left(store) == []
    stop = threading.Event()
    asked = asking(store, "why", stop=stop)
    began = time.monotonic()
    stop.set()
    with pytest.raises(TicketTimeout):
        asked.result(60)
    assert time.monotonic() - began < 50
    assert left(store) == []
    work(store, "q")  # nothing is done later


def test_a_question_is_asked_before_what_waits_and_expires_if_its_caller_dies(store: Store) -> None:
    job = store.tickets.enqueue(queued(store, "q"))
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        function, arguments = f"{__name__}.answer", {"question": "why"}
        asked = pool.submit(lambda: store.tickets.ask("train.q", function, arguments, timeout=100, stop=stop))
        end = time.monotonic() + 60
        while store.tickets.depth("train.q") < 2:
            assert time.monotonic() < end
            time.sleep(0.01)
        first, second = store.tickets.waiting("q")
        assert (first.startswith("call-"), second) == (True, job)
        assert 0 < store.redis.ttl(f"rq:job:{first}") <= 110
        stop.set()
        assert isinstance(asked.exception(60), TicketTimeout)


def test_a_ticket_that_a_dead_worker_was_taking_over_is_cleared_after_a_minute(store: Store) -> None:
    job = queued(store)
    name = store.tickets.enqueue(job)
    store.redis.lmove("rq:queue:train.h1", "rq:queue:train.h1:intermediate", "LEFT", "RIGHT")
    assert store.tickets.waiting("h1") == []
    store.tickets.reap("train.h1")
    assert store.redis.llen("rq:queue:train.h1:intermediate") == 1
    store.redis.set(f"rq:queue:train.h1:intermediate:first_seen:{name}", time.time() - 61)
    store.tickets.reap("train.h1")
    assert store.redis.llen("rq:queue:train.h1:intermediate") == 0
    assert not store.redis.keys("*first_seen*")


def test_a_job_goes_to_the_live_host_that_serves_it_with_the_shortest_queue(store: Store) -> None:
    small, large = ServedModelRecord("tuft/m", 16), ServedModelRecord("tuft/m", 64)
    store.hosts.put(HostRecord("a", models=(small,), backend_up=True))
    store.hosts.put(HostRecord("b", models=(large,), backend_up=True))
    store.hosts.put(HostRecord("c", models=(ServedModelRecord("tuft/m"),), backend_up=True))
    store.hosts.put(HostRecord("d", models=(large,), backend_up=False))
    assert store.hosts.place("tuft/m", 8) == "a"
    assert store.hosts.place("tuft/m", 32) == "b"
    store.tickets.enqueue(queued(store, "b"))
    assert store.hosts.place("tuft/m", 32) == "c"
    assert store.hosts.place("tuft/m", 32, host="d") == "d"
    with pytest.raises(
        NoHost, match=r"host a does not serve model tuft/m at LoRA rank 32; a serves tuft/m \(rank <= 16\)"
    ):
        store.hosts.place("tuft/m", 32, host="a")
    with pytest.raises(NoHost, match="no host serves model other at LoRA rank 1"):
        store.hosts.place("other", 1)
    with pytest.raises(NoHost, match="host z has not reported"):
        store.hosts.place("tuft/m", 1, host="z")
    assert [(host.name, host.queued_jobs) for host in store.hosts.list()] == [("a", 0), ("b", 1), ("c", 0), ("d", 0)]


def test_a_host_whose_workers_are_silent_is_known_and_gets_no_job(store: Store) -> None:
    store.hosts.put(HostRecord("a", models=(ServedModelRecord("m"),), backend_up=True), ttl=60.0, alive=0.001)
    end = time.monotonic() + 60
    while store.hosts.live():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert [host.name for host in store.hosts.list()] == ["a"]
    assert not store.pool.load().hosts
    with pytest.raises(NoHost, match="no host reports at all"):
        store.hosts.place("m", 1)
    assert keep_host(store.rq, None, "a") is None
    assert store.hosts.place("m", 1) == "a"


def test_a_hosts_name_belongs_to_one_machine_until_it_is_silent(store: Store) -> None:
    first, second = HostClaim("a", "1" * 32, "one"), HostClaim("a", "2" * 32, "two")
    assert claim_host(store.rq, first) is None
    assert claim_host(store.rq, first) is None, "another worker of the same machine"
    assert claim_host(store.rq, second) == first
    note = store.hosts.refused("a")
    assert note is not None
    assert (note.machine, note.id) == ("two", second.id)
    assert abs(note.time - time.time()) < 60
    store.redis.delete("tl:run:identity:a")  # as its lifetime ends
    assert claim_host(store.rq, second) is None
    assert keep_host(store.rq, first, "a") == second, "the one that comes back hears it"
    release_host(store.rq, first)
    assert claim_host(store.rq, first) == second, "it can't give back what it has not"
    release_host(store.rq, second)
    assert claim_host(store.rq, first) is None
    assert store.hosts.refused("b") is None


def test_a_host_that_stops_reporting_expires_and_its_silence_is_known(store: Store) -> None:
    store.hosts.put(HostRecord("a"), ttl=0.05)
    end = time.monotonic() + 60
    while store.hosts.get("a") is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert 0 <= store.hosts.silent("a") < 60
    assert store.hosts.silent("never") == float("inf")
    with pytest.raises(NoHost, match="no host reports at all: start a trainer worker"):
        store.hosts.place("m", 1)
    assert queue_name("a") == "train.a"


def test_a_heartbeat_that_is_not_sent_yet_is_no_end_of_an_outage(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = OutageLog(ticket_jobs.LOG, "Redis can't be used", lambda: 0.0)
    monkeypatch.setattr(ticket_jobs, "OUTAGE", outage)
    worker = TicketWorker("train.h1", store.rq, look_every=1, name="h1")
    ticket_jobs.OUTAGE.failed("no route")
    with store.rq.pipeline() as pipeline:
        worker.heartbeat(pipeline=pipeline)
        assert caplog.messages == ["Redis can't be used (no route); trying again"]
    worker.heartbeat()
    assert caplog.messages[1:] == ["Redis can't be used: that is over, after 0 s"]
