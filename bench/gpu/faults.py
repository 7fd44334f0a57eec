"""Faults of one accelerated server: killed in the middle of a job, and out of memory. See README.md beside."""

from __future__ import annotations

import itertools
import time
from contextlib import suppress
from typing import Any, Final

from bench.gpu.ballast import ballast
from bench.gpu.figures import largest_relative_difference, series_is_continuous
from bench.gpu.host import Host
from bench.gpu.plan import MODEL, Plan
from services.trainer.host.gpu import find
from turnloom.errors import StackError
from turnloom.v1 import training_pb2 as tr

TAKEN: Final = 0.8  #: of the card, by a neighbour that was there before the first step


class Faults(Plan):
    """The phases on the server as it is delivered."""

    def alone(self, host: Host) -> None:
        """One job on the server as it is delivered."""
        self.run("alone", lambda: host.product("alone", MODEL, self.steps(21), max_tokens_per_call=self.scale.packed))

    def kill(self, host: Host) -> None:
        """SIGKILL for TuFT in the middle of a run, started again 10 s later."""
        steps = 30
        job = host.submit(MODEL, steps, checkpoint_every=5)
        host.until(job, 12, 120)
        host.tuft.kill()
        killed = time.time()
        time.sleep(10)
        up = host.tuft.start()
        ended = host.ended(job, max(60, self.left()))
        series = list(host.client.jobs.steps(job))
        resumed = next((one.time.ToNanoseconds() / 1e9 for one in series if one.attempt > 1), None)
        self.note(
            "kill",
            state=tr.JobState.Name(ended.state),
            error=ended.error.message,
            attempts=ended.attempt,
            continuous=series_is_continuous([step.step for step in series], steps),
            attempt_of_step=[step.attempt for step in series],
            server_up_again_seconds=up,
            killed_to_next_step_seconds=resumed - killed if resumed else None,
            nlls=[step.nll_sum for step in series],
            events=[f"{one.attempt} {one.type}: {one.message}"[:200] for one in host.client.jobs.events(job)],
        )
        if self.left() > 130:
            whole = host.product("never killed", MODEL, steps)
            if whole.nlls:
                difference = largest_relative_difference([step.nll_sum for step in series], whole.nlls)
                self.note("kill_difference", largest_relative=difference, against="the same job, never killed")

    def tight(self, host: Host) -> None:
        """Steps of twice the rows beside a neighbour that leaves a fifth of the card: passes must be cut."""
        more: dict[str, Any] = {"batch_size": 2 * self.scale.batch_size, "max_tokens_per_call": self.scale.packed}
        job = host.submit(MODEL, 8, checkpoint_every=4, **more)
        with suppress(StackError):
            host.ended(job, max(60, self.left()))
        self._note_memory(host, job, "tight", taken=TAKEN)

    def oom(self, host: Host) -> None:
        """A card that is nearly full: first so that smaller calls fit, then so that nothing does."""
        if self.place.rehearsal:
            return
        peak = max(used for _, used in host.gpu.memory)
        first_idle = host.gpu.memory[-1][1]
        total = float(find().gpus[0].memory_bytes)
        step = peak - first_idle  # what the largest step so far took beside weights
        neighbours = (
            ("half of the card", total / 2),
            ("half of what a step takes", step / 2),
            ("next to nothing", step / 100),
        )
        for name, left in neighbours:
            idle = host.gpu.memory[-1][1]  # a server that ran out of memory keeps some of it
            held = left if name == "half of the card" else total - idle - left
            room = total - idle - held
            with ballast(int(held)):
                job = host.submit(MODEL, 6, checkpoint_every=2)
                with suppress(StackError):  # one that did not end in time is a result, too
                    host.ended(job, max(40, min(150, self.left())))
            self._note_memory(host, job, "oom", name=name, room_bytes=room, step_bytes=step)
            if self.left() < 60:
                return

    def _note_memory(self, host: Host, job: str, kind: str, **fields: object) -> None:
        ended = host.client.jobs.retrieve(job)
        steps = list(host.client.jobs.steps(job))
        times = [step.time.ToNanoseconds() / 1e9 for step in steps]
        self.note(
            kind,
            **fields,
            servers=host.tuft.acceleration(),
            state=tr.JobState.Name(ended.state),
            code=ended.error.code,
            error=ended.error.message,
            hint=ended.error.hint,
            attempts=ended.attempt,
            steps=[step.step for step in steps],
            seconds_of_steps=[round(after - before, 3) for before, after in itertools.pairwise(times)],
            memory_peak=max(used for _, used in host.gpu.memory),
            events=[f"{one.attempt} {one.type}: {one.message}"[:260] for one in host.client.jobs.events(job)],
        )
