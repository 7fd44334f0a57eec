"""What each call of the Tinker API does on the fake TuFT, faults included. Knows no sockets.

Operations on runs go through one thread in the order of their arrival, as TuFT's model actor takes them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes.tuft_faults import Fault, Faults
from tests.fakes.tuft_model import Adam, Row
from tests.fakes.tuft_runs import Run, Runs, TuftFailure, server_error
from tests.fakes.tuft_sampling import Samplers
from tests.fakes.tuft_wire import ForwardRequest, encode_output

LONG_POLL = 120.0  #: seconds that retrieve_future waits before it answers try_again
BREAKS = ("restart_rollback", "restart_keep", "restart_lost", "refuse", "crash")
OUT_OF_MEMORY = (
    "\x1b[36mray::HFTrainingModel.forward()\x1b[39m (pid=1, ip=127.0.0.1, actor_id=fake)\n"
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 19.53 GiB. GPU 0 has a total capacity of 139.80 GiB "
    "of which 3.29 GiB is free."
)
Json = dict[str, Any]


class Broken(Exception):
    """The server goes away in the middle of a call: `fault` says how."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.fault)
        self.fault = fault


@dataclass(slots=True)
class Future:
    """An operation's result to be."""

    done: threading.Event = field(default_factory=threading.Event)
    result: Json | bytes | None = None  #: bytes: a ForwardBackwardOutput or a SampleResponse
    failure: TuftFailure | None = None


class Service:
    """The server's state between two restarts, and its one thread of work."""

    def __init__(
        self,
        *,
        home: Path,
        model_name: str,
        buckets: int,
        persistence: bool,
        faults: Faults,
        break_down: Callable[[Fault], None],
        samples: bool = False,
        packs: int = 0,
    ) -> None:
        self.runs = Runs(home, model_name, buckets, persistence)
        self.samplers = Samplers(self.runs, samples)
        self.packs = packs
        self.faults = faults
        self.break_down = break_down  # ends this service from one of its own threads
        self.futures: dict[str, Future] = {}
        for request_id, reason in self.runs.cancelled().items():
            failure = TuftFailure(410, f"Future with request ID {request_id} was cancelled: {reason}")
            self._finish(self.futures.setdefault(request_id, Future()), failure=failure)
        self._lock = threading.Lock()  # arrival: numbering and queueing are one act
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work_off, daemon=True)
        self._worker.start()

    def close(self) -> None:
        """No further operation starts, and one in progress is recorded no more."""
        self.runs.persistence = False
        self._work.put(None)

    def _work_off(self) -> None:
        while (task := self._work.get()) is not None:
            task()

    @staticmethod
    def _finish(future: Future, result: Json | bytes | None = None, failure: TuftFailure | None = None) -> None:
        future.result, future.failure = result, failure
        future.done.set()

    def submit(self, call: Json, faults: dict[str, Fault], operation: Callable[[], Json | bytes]) -> Json:
        """Queues an operation and answers with the id to ask for its result by."""
        future = Future()

        def task() -> None:
            try:
                if "slow" in faults:
                    faults["slow"].cleared.wait(faults["slow"].ms / 1000)
                result, failure = operation(), None
            except TuftFailure as error:
                result, failure = None, error
            except Broken as error:
                self.break_down(error.fault)
                return
            except Exception as error:  # whatever TuFT's backend raises becomes a server error
                result, failure = None, server_error(str(error))
            call["outcome"] = "ok" if failure is None else str(failure)
            broken = next((faults[name] for name in BREAKS if name in faults and faults[name].when == "after"), None)
            if broken is not None:
                self.break_down(broken)
            elif "dropped" not in faults:
                self._finish(future, result, failure)

        with self._lock:
            request_id = self.runs.new_future(call.get("model_id"))
            self.futures[request_id] = future
            self._work.put(task)
        return {"request_id": request_id, "model_id": call.get("model_id")}

    def ready(self, result: Json, model_id: str) -> Json:
        """An answer that is there at once, in the form of one that is not."""
        with self._lock:
            request_id = self.runs.new_future(model_id)
            self._finish(self.futures.setdefault(request_id, Future()), result)
        return {"request_id": request_id, "model_id": model_id}

    def retrieve(self, request_id: str) -> Json | bytes:
        """Waits for an operation's result."""
        future = self.futures.get(request_id)
        if future is None:
            raise TuftFailure(404, f"Failed to retrieve future: Future with request ID {request_id} not found.")
        if not future.done.wait(LONG_POLL):
            return {"type": "try_again", "request_id": request_id, "queue_state": "active"}
        if future.failure is not None:
            if future.failure.status == 500:
                raise TuftFailure(422, f"Future failed: {future.failure.detail}")
            raise TuftFailure(future.failure.status, f"Failed to retrieve future: {future.failure.detail}")
        assert future.result is not None
        return future.result

    def acceleration(self, model_name: str, faults: dict[str, Fault]) -> Json:
        """What services/tuft says of its models; a stock TuFT has no such route."""
        if not self.packs:
            raise TuftFailure(404, "Not Found")
        state = "starting" if "starting" in faults else "ready"
        status = {"model_name": model_name, "state": state, "accelerated": True, "reason": ""}
        return {"version": 1, "models": [status | {"max_tokens_per_pass": self.packs}]}

    # -- the operations ---------------------------------------------------------------------------------------------

    def forward(self, request: ForwardRequest, call: Json, faults: dict[str, Fault]) -> Json:
        """forward and forward_backward."""
        longest = max((len(row.tokens) for row in request.rows), default=0)
        call |= {"model_id": request.model_id, "seq_id": request.seq_id, "rows": len(request.rows)}
        call |= {"tokens": sum(len(row.tokens) for row in request.rows), "padded_tokens": longest * len(request.rows)}

        def operation() -> bytes:
            run = self.runs.run(request.model_id)
            return self.runs.guarded(run, request.seq_id, lambda: work(run))

        def work(run: Run) -> bytes:
            fail_as_ordered(faults, run, request.seq_id)
            check_lengths(request.rows, request.weight_lengths)
            if "oom" in faults and call["tokens" if self.packs else "padded_tokens"] > faults["oom"].above_tokens:
                if not request.forward_only:  # the micro-batches before the one that did not fit
                    run.adapter.backward(request.rows[: len(request.rows) // 2])
                raise server_error(OUT_OF_MEMORY)
            logprobs, loss = run.adapter.forward(request.rows)
            if not request.forward_only:
                run.adapter.backward(request.rows)
            if "nan" in faults:
                logprobs, loss = [np.full_like(row, np.nan) for row in logprobs], float("nan")
            call["loss"] = loss
            return encode_output(logprobs, loss)

        return self.submit(call, faults, operation)

    def optim_step(self, body: Json, call: Json, faults: dict[str, Fault]) -> Json:
        """One Adam step on the gradients that wait."""
        adam = Adam(**{name: float(body["adam_params"][name]) for name in Adam.__dataclass_fields__})
        call |= {"model_id": body["model_id"], "seq_id": body["seq_id"], "learning_rate": adam.learning_rate}

        def operation() -> Json:
            run = self.runs.run(body["model_id"])

            def work() -> Json:
                fail_as_ordered(faults, run, body["seq_id"])
                run.adapter.optim_step(adam)
                return {"type": "optim_step", "metrics": None}

            return self.runs.guarded(run, body["seq_id"], work)

        return self.submit(call, faults, operation)

    def save(self, body: Json, call: Json, faults: dict[str, Fault], kind: str) -> Json:
        """save_weights and save_weights_for_sampler."""
        call |= {"model_id": body["model_id"], "seq_id": body["seq_id"], "name": body.get("path")}
        broken = next((faults[name] for name in BREAKS if name in faults and faults[name].when == "during"), None)

        def half_way() -> None:
            if broken is not None:
                raise Broken(broken)

        def operation() -> Json:
            run = self.runs.run(body["model_id"])

            def work() -> Json:
                fail_as_ordered(faults, run, body["seq_id"])
                return {"path": self.runs.save(run, body.get("path"), kind, half_way)}

            return self.runs.guarded(run, body["seq_id"], work)

        if kind == "sampler" and body.get("sampling_session_seq_id") is not None:
            return self.submit(call, faults, lambda: _refuse(self.samplers.disabled()))
        return self.submit(call, faults, operation)

    def load(self, body: Json, call: Json, faults: dict[str, Fault]) -> Json:
        """load_weights."""
        call |= {"model_id": body["model_id"], "seq_id": body["seq_id"], "path": body["path"]}

        def operation() -> Json:
            run = self.runs.run(body["model_id"])
            fail_as_ordered(faults, run, body["seq_id"])
            self.runs.load(run, body["path"], optimizer=bool(body["optimizer"]), seq_id=body["seq_id"])
            return {"type": "load_weights", "path": body["path"]}

        return self.submit(call, faults, operation)

    def sample(self, body: Json, call: Json, faults: dict[str, Fault]) -> Json:
        """asample: a reply by the adapter of a sampling session."""
        call |= {"prompt": body["prompt"]["chunks"][0]["tokens"], "how": body["sampling_params"]}

        def operation() -> bytes:
            if "fail_422" in faults:
                raise server_error("ordered by a test")
            return self.samplers.sample(body)

        return self.submit(call, faults, operation)


def fail_as_ordered(faults: dict[str, Fault], run: Run, seq_id: int) -> None:
    """The faults in which an operation fails by itself."""
    if "conflict_409" in faults:
        raise TuftFailure(409, f"Sequence conflict: expected {run.next_seq_id}, got {seq_id + 1}.")
    if "fail_422" in faults:
        raise server_error("ordered by a test")


def check_lengths(rows: list[Row], weight_lengths: list[int]) -> None:
    """Weights are padded like targets, so only the longest of each must agree. A short row passes beside a long one."""
    targets = max((len(row.targets) for row in rows), default=0)
    weights = max(weight_lengths, default=0)
    if targets != weights:
        shapes = f"[torch.Size([{len(rows)}, {targets}]), torch.Size([{len(rows)}, {weights}])]"
        raise TuftFailure(409, f"Input tensors must have the same shape. Got shapes: {shapes}")


def _refuse(failure: TuftFailure) -> Json:
    raise failure
