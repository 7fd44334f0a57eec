"""Turnloom and TuFT's guide loop on one GPU host, side by side; see README.md beside.

    python -m bench.gpu --size 0.6b --phases compare,guide_sized,kill,oom --prepared DIR --out DIR [--seconds 540]

Everything that is found is written to OUT/results.jsonl at once, so that a run that is cut short loses nothing.
"""

from __future__ import annotations

import sys
import time
import traceback
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from bench.gpu.scales import HOST, options
from bench.program import libraries

PROGRAM: Final = options("bench.gpu", __doc__)
PROGRAM.add_argument("--phases", default="compare,guide_sized,pair,overlap,depths,levers,kill,oom")
PROGRAM.add_argument("--steps", default="", help="20,8,6: of a repetition: accelerated, stock, the guide's loop")

with libraries(HOST, __name__, PROGRAM):
    from bench.gpu.ballast import ballast
    from bench.gpu.conversations import chats
    from bench.gpu.faults import TAKEN, Faults
    from bench.gpu.figures import largest_relative_difference
    from bench.gpu.host import Host, Measured, record
    from bench.gpu.parts import GPU_CONFIG, GPU_CONFIG_MODEL, Services, Tuft, served_name, several_entries, started
    from bench.gpu.plan import MODEL, begun, end_children, keep_logs, machine
    from bench.gpu.report import summary
    from services.trainer.batches.batching import CALL_OVERHEAD
    from services.trainer.host.gpu import find
    from turnloom.v1 import training_pb2 as tr

FAST: Final = "accelerated"  #: TURNLOOM_HOST of the workers at the accelerated server
WRITTEN: Final = "written"  #: the same at an accelerated server that records no passes
STOCK: Final = "stock"  #: the same at stock TuFT
NAMES: Final = {
    FAST: "turnloom, accelerated",
    WRITTEN: "turnloom, accelerated, kernel by kernel",
    STOCK: "turnloom, stock TuFT",
}
GUIDE_CONVERSATIONS: Final = 9_500  #: of the run in TuFT's guide
GUIDE_EPOCHS: Final = 3
LONG_STEPS: Final = 201  #: of the product, for the extrapolation to that run
OVERHEADS: Final = (2_000, 8_000)  #: padded tokens that a call may cost, for `levers`, beside CALL_OVERHEAD
LEVERS_SEED: Final = 100  #: every lever has batches of its own, so that the server has not seen their shapes


class Bench(Faults):
    """The phases."""

    def both(self) -> Mapping[str, Tuft]:
        """Two servers: the accelerated one, and stock TuFT with an entry per micro_batch_size."""
        gpu = self.gpus[0] if self.gpus else None
        return {FAST: self._entries(FAST, [self.scale.ours], gpu, accelerated=True), STOCK: self.stock()[STOCK]}

    def two_ways(self) -> Mapping[str, Tuft]:
        """Two accelerated servers on one GPU, which work by turns: passes as CUDA graphs, and kernel by kernel."""
        written = {"TURNLOOM_TUFT_GRAPHS": "0"}
        gpu = self.gpus[0] if self.gpus else None
        return {
            name: self._entries(name, [self.scale.ours], gpu, accelerated=True, environment=more)
            for name, more in ((WRITTEN, written), (FAST, {}))
        }

    def stock(self) -> Mapping[str, Tuft]:
        """Stock TuFT alone, with an entry per micro_batch_size."""
        micro = [self.scale.ours, *self.scale.micro, *self.scale.last]
        return {STOCK: self._entries(STOCK, micro, self.gpus[1] if self.gpus else None, accelerated=False)}

    def as_delivered(self) -> Mapping[str, Tuft]:
        """deploy/tuft/gpu.yaml, accelerated."""
        return {FAST: Tuft(self.place, "faults", GPU_CONFIG, 1)}

    def _entries(
        self, name: str, micro: Sequence[int], gpu: str | None, *, accelerated: bool,
        environment: Mapping[str, str] | None = None,
    ) -> Tuft:  # fmt: skip
        config = self.place.folder / f"{name}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(several_entries(self.place, micro))
        return Tuft(self.place, name, config, len(micro), accelerated=accelerated, environment=environment, gpus=gpu)

    @contextmanager
    def host(self, name: str, tufts: Mapping[str, Tuft], served: str) -> Iterator[Host]:
        """Everything up, with dataset and start; `tight`: beside a neighbour that was there first."""
        begun = time.monotonic()
        folder = self.place.folder / f"{name}-turnloom"
        services = Services(self.place, folder, tufts, {MODEL: served}, workers=2)
        with started(list(tufts.values())), services, ExitStack() as stack:
            up = time.monotonic() - begun
            if name == "tight":
                stack.enter_context(self._neighbour(tufts))
            with Host(self.place, self.scale, services) as host:
                talk = chats(self.scale.chats, scale=self.scale.shrink)
                seconds = host.make_dataset(MODEL, talk)
                lengths = sorted(row.length for row in host.rows)
                host.make_start(MODEL)
                self.note(
                    "host",
                    name=name,
                    up_seconds=up,
                    ready_seconds=time.monotonic() - begun,
                    dataset_seconds=seconds,
                    conversations_per_second=len(talk) / seconds,
                    tokens_mean=sum(lengths) / len(lengths),
                    tokens_p95=lengths[len(lengths) * 95 // 100],
                    tokens_max=lengths[-1],
                )
                yield host
                self.note("acceleration", servers={key: tuft.acceleration() for key, tuft in tufts.items()})
                self._keep_metrics(host, name)

    @contextmanager
    def _neighbour(self, tufts: Mapping[str, Tuft]) -> Iterator[None]:
        """Fill the card once the servers have found the size of their passes."""
        while any(one["state"] != "ready" for tuft in tufts.values() for one in tuft.acceleration()):
            time.sleep(0.5)
        with ballast(int(TAKEN * find().gpus[0].memory_bytes)):
            yield

    def compare(self, host: Host) -> None:
        """Losses over 21 steps, then interleaved repetitions: the product accelerated and on stock TuFT, the guide."""
        if self.losses:
            self.same_losses(host)
        self.repeat(host)

    def product(self, host: Host, where: str, steps: int, **fields: object) -> Measured:
        """The product on one of the servers, with the calls that are best there."""
        budget = self.scale.budget if where == STOCK else self.scale.packed
        chosen = {"max_tokens_per_call": budget, **fields}
        return host.product(NAMES[where], MODEL, self.steps(steps), host=where, **chosen)  # type: ignore[arg-type]

    def same_losses(self, host: Host) -> None:
        """20 losses of the product on both servers and of the guide's loop, from one checkpoint.

        Where each server has its GPU, the accelerated one goes on to 200 steps meanwhile, for `guide_sized`.
        """
        best = self.scale.micro[0]
        guide = f"guide micro {best}"
        others = [lambda: self.product(host, STOCK, 21), lambda: host.loop(guide, best, self.steps(21))]
        ours = (lambda: self._long(host)) if self.gpus else (lambda: self.product(host, FAST, 21))
        with self.beside(lambda: self.run("losses", ours)) as fast:
            found = [self.run("losses", other) for other in others if self.left() > 60]
        for measured in found:
            if fast().nlls and measured.nlls:
                difference = largest_relative_difference(fast().nlls[:20], measured.nlls[:20])
                self.note("loss_difference", against=measured.name, largest_relative=difference)
        if self.gpus:
            for measured in (fast(), *found):
                self._extrapolate(measured)

    @contextmanager
    def beside(self, work: Callable[[], Measured]) -> Iterator[Callable[[], Measured]]:
        """Measures on the first server: beside the block where each server has its GPU, else before it."""
        if not self.gpus:
            done = work()
            yield lambda: done
            return
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(work).result

    def repeat(self, host: Host) -> None:
        """All by turns; after the first turn the guide with its two best micro_batch_sizes only.

        Where each server has its GPU, the accelerated one works beside the others' turns.
        Each turn has steps of its own, the same for all, as a real run never sees a step twice.
        """
        rates: dict[int, float] = {}  # of the guide's loop in the first repetition, by micro_batch_size
        for repetition in range(self.repetitions):
            fastest = max(rates.values(), default=0.0)
            near = sorted((micro for micro in rates if rates[micro] > fastest / 2), key=lambda micro: -rates[micro])
            turns: list[str | int] = [FAST, STOCK, *(near[:2] or self.scale.micro)]
            if self.gpus:
                turns.remove(FAST)
            shift = repetition % len(turns)
            with ExitStack() as stack:
                if self.gpus:
                    stack.enter_context(self.beside(partial(self._turn, host, FAST, repetition)))
                for who in turns[shift:] + turns[:shift]:
                    if self.left() < 25:
                        return
                    measured = self._turn(host, who, repetition)
                    if repetition == 0 and not isinstance(who, str):
                        rates[who] = measured.tokens_per_second or 0.0
        for micro in self.scale.last:
            if self.left() > 40:
                self._turn(host, micro, 0)
        best = self.scale.micro[0]
        if self.losses and self.left() > 45:
            prepared = str(self.place.prepared)
            self.run(
                "end_to_end",
                lambda: host.loop(f"guide micro {best}, tokenizes", best, self.steps(6), tokenize=prepared),
            )

    def _turn(self, host: Host, who: str | int, repetition: int) -> Measured:
        """`who`: a server for the product, or the guide's micro_batch_size."""
        ours_steps, guide_steps = self.scale.run_steps
        seed = repetition + 1
        if isinstance(who, str):
            steps = self.scale.fast_steps if who == FAST else ours_steps
            return self.run("compare", lambda: self.product(host, who, steps, seed=seed), repetition=repetition)
        steps = self.steps(3 if who == 1 else guide_steps)
        loop = partial(host.loop, f"guide micro {who}", who, steps, seed=seed)
        return self.run("compare", loop, repetition=repetition)

    def graphs(self, host: Host) -> None:
        """The same job on both servers by turns; the first repetition records what the others replay."""
        for repetition in range(self.repetitions):
            order = (FAST, WRITTEN) if repetition % 2 == 0 else (WRITTEN, FAST)
            for where in order:
                if self.left() < 25:
                    return
                job = partial(self.product, host, where, self.scale.fast_steps, seed=repetition + 1)
                self.run("graphs", job, repetition=repetition)

    def guide_sized(self, host: Host) -> None:
        """What the guide's run would take, from 200 steps of the product and a few of the guide's loop."""
        best = self.scale.micro[0]
        with self.beside(lambda: self.run("guide_sized", lambda: self._long(host))) as found:
            theirs = self.run("guide_sized", lambda: host.loop(f"guide micro {best}", best, self.steps(21), seed=7))
        for measured in (found(), theirs):
            self._extrapolate(measured)

    def _long(self, host: Host) -> Measured:
        steps = 12 if self.place.rehearsal else LONG_STEPS
        return self.product(host, FAST, steps, seconds=max(60, self.left()), checkpoint_every=50)

    def _extrapolate(self, measured: Measured) -> None:
        planned = -(-GUIDE_CONVERSATIONS // self.scale.batch_size) * GUIDE_EPOCHS
        if measured.steps > 1:
            mean = (measured.times[-1] - measured.times[0]) / (measured.steps - 1)
            self.note(
                "extrapolation",
                name=measured.name,
                measured_steps=measured.steps,
                seconds_a_step=mean,
                planned_steps=planned,
                hours=(mean * planned + (measured.to_first_step or 0.0)) / 3600,
            )

    def levers(self, host: Host) -> None:
        """Every idea alone on the guide's best server entry, then one on top of the other; depths of the product."""
        best, ours, budget = self.scale.micro[0], self.scale.ours, self.scale.budget
        cheapest: dict[str, object] = {"budget": budget, "overhead": CALL_OVERHEAD, "sort": True}
        together: dict[str, object] = {**cheapest, "even": True, "few_shapes": True, "depth": 2}
        orders: list[tuple[str, int, dict[str, object]]] = [
            ("sequential", best, {}),
            ("+ sorted", best, {"sort": True}),
            ("+ tail cut", best, {"cut_tail": True}),
            ("+ depth 2", best, {"depth": 2}),
            ("+ calls filled to the budget", ours, {"budget": budget}),
            ("+ calls filled to the budget, sorted", ours, {"budget": budget, "sort": True}),
            ("cheapest calls", ours, cheapest),
            ("cheapest calls, even", ours, {**cheapest, "even": True}),
            ("cheapest calls, even, few shapes", ours, {**together, "depth": 1}),
            ("all, two in flight", ours, together),
            ("all, four in flight", ours, {**together, "depth": 4}),
            ("all, but any shape", ours, {**together, "few_shapes": False}),
            ("all, but half the budget", ours, {**together, "budget": budget // 2}),
        ]
        orders += [
            (f"all, a call costs {overhead}", ours, {**together, "overhead": overhead}) for overhead in OVERHEADS
        ]
        for repetition in range(max(1, self.repetitions - 4)):
            for number, (name, micro, order) in enumerate(orders):
                if self.left() < 15:
                    return
                seed = LEVERS_SEED + len(orders) * repetition + number
                lever = partial(host.loop, name, micro, self.steps(8), seed=seed, loop="levers", **order)  # type: ignore[arg-type]
                self.run("lever", lever, repetition=repetition)

    def depths(self, host: Host) -> None:
        """The product with 1, 2 and 4 steps in flight, and with its own growing budget."""
        for depth in (1, 2, 4):
            if self.left() < 30:
                return
            job = partial(host.product, f"depth {depth}", MODEL, self.steps(10), pipeline_depth=depth)
            self.run("depth", job)
        if self.left() > 60:
            self.run("growing", lambda: host.product("default budget", MODEL, self.steps(31), max_tokens_per_call=0))

    def overlap(self, host: Host) -> None:
        """The product while the API is kept busy with preprocessing."""
        with host.preprocessing(MODEL) as rates:
            measured = host.product("while preprocessing", MODEL, self.steps(8))
        self.note("overlap", **record(measured), conversations_per_second=max(rates, default=0.0))

    def pair(self, host: Host) -> None:
        """Two jobs at once on one server, both workers busy."""
        steps = self.steps(12)
        begun = time.time()
        jobs = [host.submit(MODEL, steps) for _ in range(2)]
        ended = [host.ended(job, max(30, self.left())) for job in jobs]
        if any(job.state != tr.JOB_STATE_SUCCEEDED for job in ended):
            self.note("pair", error="; ".join(f"{job.error.code}: {job.error.message}" for job in ended))
            return
        both = [host.measured_job(f"job {number} of 2", job, begun) for number, job in enumerate(jobs, 1)]
        begin = max(one.times[0] for one in both)
        end = min(one.times[-1] for one in both)
        tokens = 0.0
        for one in both:  # each job's tokens in the time in which both trained
            wall = one.times[-1] - one.times[0]
            inside = sum(1 for at in one.times if begin < at <= end)
            tokens += (one.tokens_per_second or 0.0) * wall * inside / (len(one.times) - 1)
        for one in both:
            self.note("pair_job", **record(one))
        self.note("pair", tokens_per_second=tokens / (end - begin), seconds=end - begin)

    def _keep_metrics(self, host: Host, name: str) -> None:
        with urllib.request.urlopen(host.services.exporter_url, timeout=10) as answer:
            (self.out / f"metrics-{self.scale.size}-{name}.txt").write_bytes(answer.read())


TWO_WAYS: Final = {"graphs": Bench.graphs}
BOTH: Final = {"compare": Bench.compare, "guide_sized": Bench.guide_sized}
SHARED: Final = {
    "pair": Bench.pair,
    "overlap": Bench.overlap,
    "depths": Bench.depths,
    "levers": Bench.levers,
}
TIGHT: Final = {"tight": Bench.tight}
FAULTS: Final = {"alone": Bench.alone, "kill": Bench.kill, "oom": Bench.oom}


def main() -> int:
    """Run the phases; everything started here is ended here."""
    arguments = PROGRAM.parse_args()
    place, scale, deadline = begun(arguments)
    gpus = arguments.gpus.split(",") if arguments.gpus else ()
    if arguments.steps:
        fast, *others = map(int, arguments.steps.split(","))
        scale = replace(scale, last=(), fast_steps=fast, run_steps=(others[0], others[1]))
    bench = Bench(place, scale, arguments.out, deadline, arguments.repetitions, not arguments.no_losses, gpus)
    bench.note("machine", **machine(), phases=arguments.phases, command=" ".join(sys.argv))
    failed = False
    ours = served_name(scale.ours)
    for name, tufts, served, phases in (
        ("ways", bench.two_ways, ours, TWO_WAYS),
        ("both", bench.both, ours, BOTH),
        ("shared", bench.stock, ours, SHARED),
        ("faults", bench.as_delivered, GPU_CONFIG_MODEL, FAULTS),
        ("tight", bench.as_delivered, GPU_CONFIG_MODEL, TIGHT),
    ):
        chosen = [phases[phase] for phase in arguments.phases.split(",") if phase in phases]
        if not chosen or bench.left() < 60:
            continue
        try:
            with bench.host(name, tufts(), served) as host:
                for phase in chosen:
                    phase(bench, host)
        except Exception:
            failed = True
            bench.note("trouble", host=name, error=traceback.format_exc()[-1500:])
        finally:
            keep_logs(place.folder, arguments.out / f"logs-{arguments.size}-{name}.tar.gz")
    end_children()
    print(summary(arguments.out / "results.jsonl"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
