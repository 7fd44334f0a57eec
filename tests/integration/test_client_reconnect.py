"""The client over a connection that is cut again and again, to a real server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from services.store.records import DatasetRecord, HostRecord, JobState, StepRecord
from services.store.store import Store
from tests.support.api_calls import MODEL, Api, Start
from turnloom import TurnloomClient
from turnloom.errors import NotFound, ResourceExhausted, TurnloomError
from turnloom.v1.datasets_pb2 import DATASET_STATE_CANCELLED as CANCELLED
from turnloom.v1.datasets_pb2 import DATASET_STATE_CREATING as CREATING
from turnloom.v1.training_pb2 import WatchJobRequest
from turnloom.wire.conversations import from_json

STEPS = 200  #: commits, at every second of which the connection may be cut
CHAT = from_json({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]})


class Cuttable:
    """A TCP relay to an address, whose connections can all be cut."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.open: list[socket.socket] = []
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            with self.lock:
                self.open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def cut(self) -> bool:
        """Whether there was a connection since the last cut."""
        with self.lock:  # a connection that comes meanwhile is one of the next cut
            ends, self.open = self.open, []
        for end in ends:
            with suppress(OSError):  # closed by its other end
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        return bool(ends)

    def close(self) -> None:
        self.listener.close()
        self.cut()


@pytest.fixture
def relay(api: Api) -> Iterator[Cuttable]:
    relay = Cuttable(api.address)
    yield relay
    relay.close()


def test_a_watcher_that_is_cut_off_20_times_sees_every_update_once(
    api: Api, store: Store, gpu_host: HostRecord, relay: Cuttable
) -> None:
    troubles: list[str] = []
    with TurnloomClient(relay.address) as client, TurnloomClient(api.address) as undisturbed:
        dataset = client.datasets.create([CHAT], model=MODEL)
        job = client.jobs.create(model=MODEL, training_dataset=dataset.id, max_steps=STEPS).id
        assert store.jobs.claim(job, 1, "w") is not None
        seen = []
        step = cuts = 0
        for update in client.jobs.watch(job, on_trouble=lambda error: troubles.append(error.message)):
            seen.append(update.event_id)
            if update.HasField("job") and update.job.attempt == 0:
                continue
            if step < STEPS:  # what the watcher waits for happens only after what came before was seen
                step += 1
                store.ledger.commit_step(job, StepRecord(step=step, attempt=1, nll_sum=1.0, weight_sum=1.0, tokens=1))
                if step % 2 == 0 and cuts < 20:  # one between two connections cuts nothing
                    cuts += relay.cut()
            elif step == STEPS:
                step += 1
                store.jobs.finish(job, 1, JobState.SUCCEEDED)
        assert seen == [update.event_id for update in undisturbed.jobs.watch(job)]
        assert [s.step for s in client.jobs.steps(job)] == list(range(1, STEPS + 1))
    assert cuts == 20
    assert len(seen) > STEPS


def test_a_watcher_of_a_dataset_that_is_cut_off_sees_no_state_twice_and_the_last_one(
    api: Api, store: Store, relay: Cuttable
) -> None:
    with TurnloomClient(api.address) as client:
        options = store.datasets.get(client.datasets.create([CHAT], model=MODEL).id).options_json
    record = store.datasets.create(DatasetRecord("dataset-1", options, model=MODEL)).dataset
    seen: list[tuple[int, int]] = []
    cuts = 0
    with TurnloomClient(relay.address) as client:
        for state in client.datasets.watch(record.id):
            seen.append((state.state, state.conversations_read))
            if len(seen) <= 10:
                cuts += relay.cut()
                store.datasets.progress(record.id, conversations_read=len(seen))
            elif len(seen) == 11:
                cuts += relay.cut()
                store.datasets.cancel(record.id)
        with pytest.raises(NotFound, match="dataset-2"):
            next(client.datasets.watch("dataset-2"))
    assert seen == [(CREATING, read) for read in range(11)] + [(CANCELLED, 10)]
    assert cuts > 5


def test_a_watcher_whose_slot_was_taken_waits_for_one_and_misses_nothing(
    start_api: Start, store: Store, redis_url: str, gpu_host: HostRecord
) -> None:
    api = start_api(redis_url, threads=4)  # two slots
    told, left = threading.Event(), threading.Event()
    troubles: list[TurnloomError] = []

    def trouble(error: TurnloomError) -> None:
        troubles.append(error)
        told.set()

    with TurnloomClient(api.address) as client:
        job = client.jobs.create(model=MODEL, training_dataset=client.datasets.create([CHAT], model=MODEL).id).id
        others = [api.jobs.WatchJob(WatchJobRequest(id=job), timeout=60) for _ in range(2)]
        assert all(next(other).event_id for other in others)  # both have their slot

        def make_room() -> None:
            told.wait(60)
            others[0].cancel()
            assert store.jobs.claim(job, 1, "w") is not None
            store.jobs.finish(job, 1, JobState.SUCCEEDED)
            left.set()

        thread = threading.Thread(target=make_room)
        thread.start()
        seen = [update.event_id for update in client.jobs.watch(job, on_trouble=trouble)]
        thread.join()
        assert left.is_set()
        assert seen == [update.event_id for update in client.jobs.watch(job)]
    assert {(type(error), error.retry_after) for error in troubles} == {(ResourceExhausted, 5.0)}
    assert troubles[0].message == "All 2 slots for streaming calls are taken; end one, or try again in a few seconds."


def test_a_submission_that_is_repeated_after_a_cut_makes_one_job(
    api: Api, gpu_host: HostRecord, relay: Cuttable
) -> None:
    with TurnloomClient(relay.address) as client:
        dataset = client.datasets.create([CHAT], model=MODEL)
        relay.cut()
        job = client.jobs.create(model=MODEL, training_dataset=dataset.id)
        assert [found.id for found in client.jobs.list()] == [job.id]
