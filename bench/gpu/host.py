"""Training runs on servers that are up, and what was measured while they ran. Knows no plan."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, cast

from bench.gpu.conversations import Chat
from bench.gpu.figures import (
    GEOMETRY,
    H200_BF16_FLOPS,
    busy_seconds,
    lora_flops,
    mean_between,
    paired,
)
from bench.gpu.loops_process import Loops
from bench.gpu.parts import KEY, Place, Services, Tuft, served_name
from bench.gpu.rows_file import saved_rows
from bench.gpu.scales import Scale
from bench.gpu.watching import GpuSamples, HorseSamples, Sampler
from services.store.store import open_store
from services.trainer.batches.batching import Batches
from services.trainer.batches.mixing import Part
from services.trainer.batches.rows import Row
from turnloom.client import TERMINAL, TurnloomClient
from turnloom.errors import StackError
from turnloom.v1 import training_pb2 as tr
from turnloom.wire.options import HyperparameterFields

RANK: Final = 16
SEED: Final = 0
POLL: Final = 0.1


@dataclass(slots=True)
class Measured:
    """One run, from the end of its first step to the end of its last one."""

    name: str
    steps: int = 0
    tokens_per_second: float | None = None  #: trained and prompt tokens, tails that were not sent included
    trained_tokens_per_second: float | None = None
    idle_share: float | None = None  #: of wall time, no request at the server
    gpu_utilization: float | None = None  #: percent, mean of NVML's samples
    gpu_memory_peak: float | None = None  #: bytes in use on the card, highest sample
    mfu: float | None = None  #: FLOPs of the rows without padding and recomputation, over the H200's datasheet
    cpu_ms_per_step: float | None = None  #: of the client's process
    to_first_step: float | None = None  #: seconds from the order to the end of step 1
    nlls: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    gpu_memory_before: float | None = None  #: bytes in use on the card when the run began
    calls_per_step: float | None = None
    accelerated: bool | None = None  #: as the steps of the job say; None: another loop
    job: str = ""
    error: str = ""


class Host:
    """Servers that are up, services, dataset and the checkpoint that every run begins from."""

    def __init__(self, place: Place, scale: Scale, services: Services) -> None:
        """Take what is up.

        Args:
            place: where.
            scale: how much of everything.
            services: with the servers; loops that are not the product run on the last one.
        """
        self.place, self.scale, self.services = place, scale, services
        self.tufts = services.tufts
        self.tuft = list(services.tufts.values())[-1]
        self.client = TurnloomClient(services.address)
        self.gpus = {name: GpuSamples(tuft.gpus) for name, tuft in self.tufts.items()}
        self.gpu = self.gpus[self._name(self.tuft)]
        self.horses = {
            name: HorseSamples([worker.pid for worker in workers]) for name, workers in services.workers_of.items()
        }
        self.loops = Loops(services.folder / "loops.log")
        self.dataset = ""
        self.rows: list[Row] = []
        self.start: tr.StartFrom | None = None
        self._chats: Sequence[Chat] = ()
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        self._parts.enter_context(self.client)
        for samples in self.gpus.values():
            self._parts.enter_context(Sampler(samples.take))
        for horses in self.horses.values():
            self._parts.enter_context(Sampler(horses.take))
        self._parts.enter_context(self.loops)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    def make_dataset(self, model: str, chats: Sequence[Chat]) -> float:
        """Sends the chats, fetches the rows back for the other loops, and returns the seconds until READY."""
        begun = time.monotonic()
        dataset = self.client.datasets.create(chats, model=model, max_length=self.scale.max_length)  # type: ignore[arg-type]
        seconds = time.monotonic() - begun
        self.dataset, self._chats = dataset.id, chats
        fetched = [
            (row.conversation_index, row.token_ids, row.target_weights)
            for batch in self.client.datasets.download(dataset.id)
            for row in batch
        ]
        if len(fetched) != len(chats):
            raise StackError(f"{len(chats)} chats became {len(fetched)} rows; the loops compare one row per chat")
        saved_rows(self._file("rows.npz"), fetched)
        self._file("chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
        self.rows = [Row(index, ids, weights, 0) for index, ids, weights in fetched]
        return seconds

    def make_start(self, model: str) -> None:
        """A job of one step: its checkpoint 0 is what every run begins from."""
        job = self.client.jobs.create(
            model=model,
            training_dataset=self.dataset,
            host=self._name(self.tuft),
            **self._fields(steps=1, keep_checkpoints=5),
        )
        self._until_ended(job.id, 120)
        first = next(one for one in self.client.jobs.checkpoints(job.id) if one.step == 0)
        self.start = tr.StartFrom(job=job.id, checkpoint=first.id)
        store = open_store(self.services.redis_url, self.services.store)
        try:
            store.objects.get_folder(store.ledger.checkpoint(job.id, first.id).uri, self._file("start"))
        finally:
            store.close()

    def product(
        self,
        name: str,
        model: str,
        steps: int,
        seconds: float = 240,
        seed: int = SEED,
        host: str = "",
        **fields: object,
    ) -> Measured:
        """A job through gRPC, measured; another seed gives it other batches. `host`: TURNLOOM_HOST; empty: any."""
        begun = time.time()
        job = self.submit(model, steps, host=host, seed=seed, **fields)
        ended = self._until_ended(job, seconds, must_succeed=False)
        if ended.state != tr.JOB_STATE_SUCCEEDED:
            state = tr.JobState.Name(ended.state)
            return Measured(name, job=job, error=f"{state}: {ended.error.code}: {ended.error.message}"[:400])
        return self.measured_job(name, job, begun, seed)

    def submit(self, model: str, steps: int, host: str = "", **fields: object) -> str:
        """A job from the common start; returns its id."""
        return self.client.jobs.create(
            model=model,
            training_dataset=self.dataset,
            start_from=self.start,
            host=host,
            **self._fields(steps=steps, **fields),
        ).id

    def measured_job(self, name: str, job: str, begun: float, seed: int = SEED) -> Measured:
        """What a finished job did."""
        steps = list(self.client.jobs.steps(job))
        times = [step.time.ToNanoseconds() / 1e9 for step in steps]
        where = self.client.jobs.retrieve(job).host
        tuft = self.tufts[where]
        measured = self._measured(name, begun, times, [step.nll_sum for step in steps], seed, tuft)
        measured.calls_per_step = statistics.mean(step.calls for step in steps)
        measured.accelerated = all(step.accelerated for step in steps)
        cpu = self.horses[where].between(times[0], times[-1])
        if cpu is not None and len(times) > 1:
            measured.cpu_ms_per_step = 1e3 * cpu / (len(times) - 1)
        measured.job = job
        return measured

    def loop(
        self,
        name: str,
        micro: int,
        steps: int,
        seconds: float = 240,
        seed: int = SEED,
        tuft: Tuft | None = None,
        **order: object,
    ) -> Measured:
        """One of the loops of bench.gpu.loops on the entry with this micro_batch_size, measured."""
        begun = time.time()
        tuft = tuft or self.tuft
        answer = self.loops.run(
            {
                "loop": "guide",
                "url": tuft.url,
                "key": KEY,
                "model": served_name(micro),
                "rank": RANK,
                "rows": str(self._file("rows.npz")),
                "start": str(self._file("start")),
                "checkpoints": str(tuft.checkpoints),
                "batch_size": self.scale.batch_size,
                "seed": seed,
                "steps": steps,
                "chats": str(self._file("chats.jsonl")),
                **order,
            },
            seconds,
        )
        times, nlls = _floats(answer["times"]), _floats(answer["nlls"])
        if answer["error"] or len(times) < 2:
            return Measured(name, error=str(answer["error"]) or "too few steps")
        measured = self._measured(name, begun, times, nlls, seed, tuft)
        (cpu,) = _floats([answer["cpu_seconds"]])
        measured.cpu_ms_per_step = 1e3 * cpu / (len(times) - 1)
        return measured

    def _measured(
        self, name: str, begun: float, times: list[float], nlls: list[float], seed: int, tuft: Tuft
    ) -> Measured:
        begin, end = times[0], times[-1]
        wall = end - begin
        measured = Measured(name, len(times), nlls=nlls, times=times, to_first_step=begin - begun)
        if len(times) < 2:
            return measured
        rows = [row for step in self.batches(seed, len(times))[1:] for row in step]
        flops = lora_flops(GEOMETRY[self.scale.size], [row.length for row in rows])
        spans = paired(list(tuft.events), time.time())
        gpu = self.gpus.get(self._name(tuft), self.gpu)
        before = [used for at, used in gpu.memory if at <= begun]
        peaks = [used for at, used in gpu.memory if begin <= at <= end]
        return replace(
            measured,
            tokens_per_second=sum(row.length for row in rows) / wall,
            trained_tokens_per_second=sum(row.loss_tokens for row in rows) / wall,
            idle_share=1 - busy_seconds(spans, begin, end) / wall,
            gpu_utilization=mean_between(gpu.utilization, begin, end),
            gpu_memory_peak=max(peaks) if peaks else None,
            gpu_memory_before=before[-1] if before else None,
            mfu=None if self.place.rehearsal else flops / wall / H200_BF16_FLOPS,
        )

    @contextmanager
    def preprocessing(self, model: str) -> Iterator[list[float]]:
        """Keeps the API busy with preprocessing; the list gets conversations per second of each round."""
        stop, rates = threading.Event(), list[float]()

        def work() -> None:
            while not stop.is_set():
                begun = time.monotonic()
                for _ in self.client.stream_preprocess(self._chats, model=model):  # type: ignore[arg-type]
                    pass
                rates.append(len(self._chats) / (time.monotonic() - begun))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield rates
        finally:
            stop.set()
            thread.join(60)

    def until(self, job: str, step: int, seconds: float) -> None:
        """Waits until a job has done a step."""
        until = time.monotonic() + seconds
        while self.client.jobs.retrieve(job).progress.step < step:
            if time.monotonic() > until:
                raise StackError(f"{job} did not reach step {step} within {seconds:g} s")
            time.sleep(POLL)

    def _until_ended(self, job: str, seconds: float, *, must_succeed: bool = True) -> tr.Job:
        until = time.monotonic() + seconds
        while True:
            found = self.client.jobs.retrieve(job)
            if found.state in TERMINAL:
                break
            if time.monotonic() > until:
                self.client.jobs.cancel(job)
                raise StackError(f"{job} did not end within {seconds:g} s: {tr.JobState.Name(found.state)}")
            time.sleep(POLL)
        if must_succeed and found.state != tr.JOB_STATE_SUCCEEDED:
            raise StackError(f"{job} did not succeed: {found.error.code}: {found.error.message}")
        return found

    def ended(self, job: str, seconds: float) -> tr.Job:
        """Waits for a job's end, whatever it is."""
        return self._until_ended(job, seconds, must_succeed=False)

    def _fields(self, *, steps: int, **fields: object) -> HyperparameterFields:
        chosen: dict[str, object] = {
            "lora_rank": RANK,
            "learning_rate": 1e-4,
            "batch_size": self.scale.batch_size,
            "max_steps": steps,
            "seed": SEED,
            "eval_every": 0,
            "checkpoint_every": 0,
            "checkpoint_every_seconds": 3600,
            "max_tokens_per_call": self.scale.budget,
            **fields,
        }
        return cast(HyperparameterFields, chosen)  # names are the fields'

    def batches(self, seed: int, steps: int) -> list[Sequence[Row]]:
        """Rows of steps 1 to `steps`, tails included."""
        batches = Batches([Part(self.rows, [row.conversation for row in self.rows])], self.scale.batch_size, seed)
        return [batches.batch(step).rows for step in range(1, steps + 1)]

    def _name(self, tuft: Tuft) -> str:
        """Return the server's TURNLOOM_HOST; "" where it is beside those of this host."""
        return next((name for name, one in self.tufts.items() if one is tuft), "")

    def _file(self, name: str) -> Path:
        return self.services.folder / name


def _floats(values: object) -> list[float]:
    assert isinstance(values, list)
    return [float(value) for value in values]


def record(measured: Measured) -> dict[str, object]:
    """For results.jsonl; series are shortened to what is looked at later."""
    fields = asdict(measured)
    fields["step_seconds"] = (
        statistics.median(b - a for a, b in zip(measured.times, measured.times[1:], strict=False))
        if measured.steps > 1
        else None
    )
    del fields["times"]
    return fields
