"""Two GPUs of one host: TuFT's FSDP backend beside one GPU, and two servers beside one. See README.md beside.

    python -m bench.gpu.two_gpus --size 4b --prepared DIR --out DIR [--seconds 330] [--larger 8b]

In this order, each result on disk as soon as it is known: a job over both GPUs (deploy/tuft/gpu-fsdp.yaml), the same
job killed with its server in the middle, the same steps on one GPU by stock TuFT (on a third one, where --gpus names
it), then two accelerated servers with a worker each: one job alone, two jobs at once, and one server killed for good.
Phase `larger`: the first three with a larger geometry. With --stock the server over both is TuFT without services.tuft.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from bench.gpu.scales import HOST, options
from bench.program import libraries

PROGRAM: Final = options("bench.gpu.two_gpus", __doc__)
PROGRAM.add_argument("--phases", default="over_both,side_by_side,larger")
PROGRAM.add_argument("--larger", default="8b", help="geometry for both GPUs, where there is time")
PROGRAM.add_argument("--stock", action="store_true", help="TuFT as it is over both GPUs")

with libraries(HOST, __name__, PROGRAM):
    from bench.gpu.conversations import chats
    from bench.gpu.figures import largest_relative_difference, series_is_continuous, together_rate
    from bench.gpu.host import Host, Measured, record
    from bench.gpu.parts import GPU_CONFIG_MODEL, Place, Services, Tuft, served_name, several_entries, started
    from bench.gpu.plan import MODEL, Plan, begun, end_children, keep_logs, machine, make_weights
    from bench.gpu.report import summary
    from turnloom.embedded.tuft_server import REPOSITORY
    from turnloom.v1 import training_pb2 as tr

FSDP_CONFIG: Final = REPOSITORY / "deploy" / "tuft" / "gpu-fsdp.yaml"
REHEARSAL: Final = Path(__file__).with_name("rehearsal")  #: a sitecustomize for two processes on a CPU
STEPS: Final = 20
KILLED_STEPS: Final = 14  #: of the job whose server is killed
KILLED_AT: Final = 8
PAIR_STEPS: Final = 12
PAIR_ROUNDS: Final = 3
BOTH: Final = "both"  #: TURNLOOM_HOST of the worker at the server over two GPUs
ONE: Final = "one"  #: the same at stock TuFT on the first GPU
HOST_LOST_SECONDS: Final = 45  #: of silence; a host reports every 20


@dataclass(slots=True)
class TwoGpus(Plan):
    """The plan."""

    stock: bool = False  #: the server over both GPUs is TuFT as it is

    def fsdp(self, place: Place, name: str = BOTH) -> Tuft:
        """One model over two GPUs, as deploy/tuft/gpu-fsdp.yaml has it."""
        on_cpu = {"PYTHONPATH": str(REHEARSAL), "RAY_OVERRIDE_RESOURCES": '{"GPU": 2, "CPU": 4}'}
        environment = on_cpu if place.rehearsal else {}
        gpus = ",".join(self.gpus[:2])
        return Tuft(place, name, FSDP_CONFIG, 0, accelerated=not self.stock, environment=environment, gpus=gpus)

    def one_gpu(self, name: str, gpu: int, *, accelerated: bool) -> Tuft:
        """A server that sees one GPU."""
        config = self.place.folder / f"{name}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(several_entries(self.place, [self.scale.ours]))
        return Tuft(self.place, name, config, 1, accelerated=accelerated, gpus=self.gpus[gpu])

    @contextmanager
    def up(self, name: str, tufts: Mapping[str, Tuft], models: Mapping[str, str], place: Place) -> Iterator[Host]:
        """Servers, services and the dataset."""
        begun = time.monotonic()
        services = Services(place, place.folder / f"{name}-turnloom", tufts, models)
        with started(list(tufts.values())), services, Host(place, self.scale, services) as host:
            host.make_dataset(MODEL, chats(self.scale.chats, scale=self.scale.shrink))
            self.note("host", name=name, ready_seconds=time.monotonic() - begun)
            yield host
            self.note("acceleration", servers={key: tuft.acceleration() for key, tuft in tufts.items()})

    # -- one model over two GPUs ---------------------------------------------------------------------------------------

    def over_both(self) -> None:
        """20 steps, the same again with the server killed, and the same on one GPU from the same adapter."""
        self._over_both(self.scale.budget)

    def _over_both(self, alone: int) -> None:
        """`alone`: padded tokens of a call on one GPU."""
        with self.up("fsdp", {BOTH: self.fsdp(self.place)}, {MODEL: GPU_CONFIG_MODEL}, self.place) as host:
            budget = 2 * self.scale.budget  # a call is shared out between two GPUs
            host.make_start(MODEL)
            with ThreadPoolExecutor(1) as beside:
                stock = beside.submit(self._on_one_gpu, host, alone) if len(self.gpus) > 2 else None
                name = f"FSDP over two GPUs, {self.scale.size}"
                whole = self.run("fsdp", lambda: host.product(name, MODEL, STEPS, max_tokens_per_call=budget))
                self._note_memory(host)
                stock = stock or beside.submit(
                    self._on_one_gpu, host, alone
                )  # a killed server leaves the GPUs idle a minute
                self._killed(host, whole, budget)
                measured = stock.result()
            if whole.nlls and measured.nlls:
                difference = largest_relative_difference(whole.nlls, measured.nlls)
                self.note("fsdp_difference", against=measured.name, largest_relative=difference)

    def _killed(self, host: Host, whole: Measured, budget: int) -> None:
        begun = time.time()
        job = host.submit(MODEL, KILLED_STEPS, checkpoint_every=5, max_tokens_per_call=budget)
        host.until(job, KILLED_AT, max(40, self.left()))
        host.tuft.kill()
        killed = time.time()
        up = host.tuft.start()
        ended = host.ended(job, max(60, self.left()))
        series = list(host.client.jobs.steps(job))
        nlls = [step.nll_sum for step in series]
        resumed = next((step for step in series if step.attempt > 1), None)
        before = resumed.step - 1 if resumed else len(series)
        self.note(
            "fsdp_kill",
            state=tr.JobState.Name(ended.state),
            error=ended.error.message,
            attempts=ended.attempt,
            continuous=series_is_continuous([step.step for step in series], KILLED_STEPS),
            server_up_again_seconds=up,
            killed_to_next_step_seconds=resumed.time.ToNanoseconds() / 1e9 - killed if resumed else None,
            seconds=time.time() - begun,
            difference_before=largest_relative_difference(nlls[:before], whole.nlls) if whole.nlls else None,
            difference_after=largest_relative_difference(nlls[before:], whole.nlls[before:]) if whole.nlls else None,
            nlls=nlls,
            events=[f"{one.attempt} {one.type}: {one.message}"[:260] for one in host.client.jobs.events(job)],
        )

    def _on_one_gpu(self, host: Host, budget: int) -> Measured:
        """Stock TuFT with the product's calls, from the adapter that the job over two GPUs began with."""
        one = self.one_gpu(ONE, 2 if len(self.gpus) > 2 else 0, accelerated=False)
        with started([one]):
            return self.run(
                "fsdp",
                lambda: host.loop(
                    "stock TuFT on one GPU", self.scale.ours, STEPS, tuft=one, loop="levers", sort=True, cut_tail=True,
                    budget=budget, overhead=4_000, even=True, few_shapes=True, depth=2,
                    adapter_only=True,
                ),
            )  # fmt: skip

    def _note_memory(self, host: Host) -> None:
        used = [sizes for _, sizes in host.gpu.memory_of_each]
        self.note("fsdp_memory", peak_bytes=[max(of_one) for of_one in zip(*used, strict=True)])

    def larger(self, size: str) -> None:
        """The same with a larger geometry; on one GPU its calls are half as large, so that stock TuFT fits."""
        weights = self.place.weights.with_name(f"weights-{size}")
        make_weights(size, weights, self.place.tuft_python)
        was = self.place, self.scale
        self.place = replace(self.place, weights=weights, folder=self.place.folder / size)
        self.scale = replace(self.scale, size=size)
        try:
            self._over_both(self.scale.budget // 2)
        finally:
            self.place, self.scale = was

    # -- two servers side by side --------------------------------------------------------------------------------------

    def side_by_side(self) -> None:
        """One job alone and two at once, by turns; then one server is killed for good."""
        tufts = {name: self.one_gpu(name, gpu, accelerated=True) for gpu, name in enumerate("ab")}
        models = {MODEL: served_name(self.scale.ours)}
        with self.up("pair", tufts, models, self.place) as host:
            host.make_start(MODEL)
            warm = [host.submit(MODEL, 4, host=name, max_tokens_per_call=self.scale.packed) for name in tufts]
            for job in warm:  # both have compiled and seen a step
                host.ended(job, max(60, self.left()))
            for turn in range(PAIR_ROUNDS):
                if self.left() < 30:  # a turn takes 25 s on an H200
                    break
                self._turn_of_two(host, turn)
            if self.left() > 60:
                self._lost(host)

    def _fast(self, host: Host, name: str, seed: int) -> Measured:
        return host.product(
            f"alone on {name}", MODEL, PAIR_STEPS, seed=seed, host=name, max_tokens_per_call=self.scale.packed
        )

    def _turn_of_two(self, host: Host, turn: int) -> None:
        alone = self.run("pair_alone", lambda: self._fast(host, "a" if turn % 2 == 0 else "b", seed=turn + 1))
        begun = time.time()
        jobs = {
            name: host.submit(
                MODEL, 2 * PAIR_STEPS, host=name, seed=10 * turn + number, max_tokens_per_call=self.scale.packed
            )
            for number, name in enumerate("ab", 1)
        }
        for job in jobs.values():
            if host.ended(job, max(30, self.left())).state != tr.JOB_STATE_SUCCEEDED:
                self.note("pair", error=f"{job} did not succeed")
                return
        both = [
            host.measured_job(f"{name} of two", job, begun, 10 * turn + number)
            for number, (name, job) in enumerate(jobs.items(), 1)
        ]
        sizes = [
            [sum(row.length for row in rows) for rows in host.batches(10 * turn + number, one.steps)]
            for number, one in enumerate(both, 1)
        ]
        together = together_rate([one.times for one in both], sizes)
        for one in both:
            self.note("pair_job", **record(one))
        self.note(
            "pair",
            turn=turn,
            tokens_per_second=together,
            alone=alone.tokens_per_second,
            times_one=together / alone.tokens_per_second if alone.tokens_per_second else None,
        )

    def _lost(self, host: Host) -> None:
        """A GPU that is gone for good, its server and its worker: its job goes on at the other."""
        job = host.submit(MODEL, 400, checkpoint_every=10, max_tokens_per_call=self.scale.packed)
        host.until(job, 15, 120)
        where = host.client.jobs.retrieve(job).host
        host.services.lose(where)
        lost, step = time.time(), host.client.jobs.retrieve(job).progress.step
        until = time.monotonic() + max(20, min(HOST_LOST_SECONDS + 60, self.left() - 15))
        while time.monotonic() < until:
            found = host.client.jobs.retrieve(job)
            if found.host != where and found.progress.step > step:
                break
            time.sleep(0.5)
        series = list(host.client.jobs.steps(job))
        elsewhere = next((one for one in series if one.attempt > 1), None)
        self.note(
            "server_lost",
            was_at=where,
            goes_on_at=found.host,
            state=tr.JobState.Name(found.state),
            step_when_lost=step,
            goes_on_after_step=elsewhere.step - 1 if elsewhere else None,
            seconds_to_next_step=elsewhere.time.ToNanoseconds() / 1e9 - lost if elsewhere else None,
            continuous=series_is_continuous([one.step for one in series], len(series)),
            events=[f"{one.attempt} {one.type}: {one.message}"[:200] for one in host.client.jobs.events(job)][-10:],
        )
        host.client.jobs.cancel(job)


def main() -> int:
    """Run what there is time for; everything started here is ended here."""
    arguments = PROGRAM.parse_args()
    place, scale, deadline = begun(arguments)
    os.environ["TURNLOOM_HOST_LOST_SECONDS"] = str(HOST_LOST_SECONDS)  # read by the supervisor
    gpus = (arguments.gpus or "0,1").split(",")
    bench = TwoGpus(
        place, scale, arguments.out, deadline, arguments.repetitions, not arguments.no_losses, gpus, arguments.stock
    )
    bench.note("machine", **machine(), command=" ".join(sys.argv))
    phases = {"over_both": bench.over_both, "side_by_side": bench.side_by_side}
    phases["larger"] = lambda: bench.larger(arguments.larger)
    failed = False
    for name in arguments.phases.split(","):
        if bench.left() < 60:
            break
        try:
            phases[name]()
        except Exception:
            failed = True
            bench.note("trouble", host=name, error=traceback.format_exc()[-1800:])
        finally:
            keep_logs(place.folder, arguments.out / f"logs-two-{name}.tar.gz")
    end_children()
    print(summary(arguments.out / "results.jsonl"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
