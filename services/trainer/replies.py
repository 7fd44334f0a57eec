"""Sample a job's prompts while it trains, in a thread of its own. Training never waits for it, and never fails by it.

One set of replies is under way at most, and one waits; a newer one takes its place. Each set is written to the object
store first. Then it is told as events, once (lua/reply.lua), however often its step is trained.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from services.store.blobs.replies import Reply, ReplyPrompts, StepReplies
from services.store.errors import Fenced, StoreError
from services.store.events import Told
from services.store.records import ReplySpec
from services.store.store import Store
from services.trainer.backend import Sampled, Sampling
from services.trainer.errors import BackendError, StopRun
from services.trainer.sample import NUMBERS
from turnloom.plural import counted

SECONDS: Final = 120.0  #: for the replies of one step
CLOSE_SECONDS: Final = 3.0  #: for the reply under way to end and its adapter to be removed
GLANCE: Final = 0.25  #: seconds between looks at whether the attempt has to leave
EVENT_TOKENS: Final = 64  #: of a reply that its event holds; the object store has all
REPLY: Final = "REPLY"  #: type of the event; the API puts text in place of its ids

#: Draws replies with a saved adapter: path, prompts, seconds, what ends the wait by raising.
Draw = Callable[[str, Sequence[tuple[Sequence[int], Sampling]], float, Callable[[], None]], list[Sampled]]

log = logging.getLogger(__name__)


class Leaving(Exception):
    """The attempt ends before its replies are there."""


@dataclass(frozen=True, slots=True)
class Live:
    """An adapter as it was after a step."""

    step: int
    path: str  #: TuFT's path, saved for these replies alone


class Replier:
    """Samples the adapter that was last given to `offer`."""

    def __init__(
        self,
        store: Store,
        job: str,
        attempt: int,
        spec: ReplySpec,
        draw: Draw,
        room: int,
        told: int,
        remove: Callable[[str], None],
    ) -> None:
        """Prepare; the thread starts with the first offer.

        Args:
            store: takes the replies.
            job: its id.
            attempt: of this process.
            spec: what the job asks for.
            draw: asks the host's sampler.
            room: tokens of prompt and reply together; 0: any number.
            told: step whose replies, and those before it, an earlier attempt told.
            remove: deletes an adapter that was saved for replies, by its path; raises nothing.
        """
        self._store = store
        self._job = job
        self._attempt = attempt
        self._spec = spec
        self._draw = draw
        self._room = room
        self._told = told
        self._remove = remove
        self._change = threading.Condition()
        self._next: Live | None = None
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def due(self, step: int) -> bool:
        """Return whether replies are wanted after a step; those at the end are asked for by themselves."""
        return self._spec.every > 0 and step % self._spec.every == 0 and self.untold(step)

    def untold(self, step: int) -> bool:
        """Return whether no earlier attempt told the replies after a step."""
        return step > self._told

    def offer(self, step: int, path: str) -> None:
        """Sample this adapter next, in place of any that waits."""
        with self._change:
            passed, self._next = self._next, Live(step, path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="replies", daemon=True)
                self._thread.start()
            self._change.notify_all()
        if passed is not None:
            self._quietly(partial(self._tell_trouble, passed.step, "the steps were faster than the replies"))
            self._remove(passed.path)

    def finish(self, seconds: float, leave: Callable[[], bool]) -> None:
        """Wait until every reply is there, `seconds` at most, or until `leave` says so; then stop."""
        until = time.monotonic() + seconds
        while not self._idle(GLANCE):
            if time.monotonic() > until or leave():
                log.warning("%s: the last replies are not waited for any more", self._job)
                break
        self.close()

    def _idle(self, seconds: float) -> bool:
        """Wait a little, and return whether nothing is left to sample."""
        with self._change:
            return self._change.wait_for(lambda: self._next is None and not self._busy, timeout=seconds)

    def close(self) -> None:
        """Stop: no other reply is begun, and the one under way ends without being told. May be repeated.

        The adapters that were saved for them go.
        """
        with self._change:
            passed, self._next = self._next, None
            self._closed = True
            self._change.notify_all()
        if passed is not None:
            self._remove(passed.path)
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _work(self) -> None:
        prompts: ReplyPrompts | None = None
        while (live := self._take()) is not None:
            try:
                if prompts is None:
                    prompts = self._store.replies.prompts(self._job)
                self._sample(live, prompts)
            except (Leaving, Fenced):
                return
            except StoreError as error:
                log.warning("step %d: its replies are not kept: %s", live.step, error)
                self._quietly(partial(self._tell_trouble, live.step, str(error)))
            finally:
                self._remove(live.path)
                with self._change:
                    self._busy = False
                    self._change.notify_all()

    def _take(self) -> Live | None:
        with self._change:
            self._change.wait_for(lambda: self._closed or self._next is not None)
            taken, self._next = self._next, None
            self._busy = taken is not None
            return taken

    def _sample(self, live: Live, prompts: ReplyPrompts) -> None:
        asked = [(one.token_ids, self._how(len(one.token_ids), one.stop_ids)) for one in prompts.prompts]
        try:
            drawn = self._draw(live.path, asked, SECONDS, self._leave)
        except (BackendError, StopRun) as error:
            sentence = error.sentence if isinstance(error, BackendError) else str(error)
            self._tell_trouble(live.step, NUMBERS.sub("[...]", sentence))
            return
        replies = tuple(Reply(one.token_ids, one.finish_reason) for one in drawn)
        self._store.replies.put(self._job, StepReplies(live.step, self._attempt, time.time(), replies))
        told = [_told(live.step, place, reply) for place, reply in enumerate(replies, start=1)]
        self._store.events.reply(self._job, self._attempt, live.step, told)

    def _how(self, length: int, stop: tuple[int, ...]) -> Sampling:
        most = self._spec.max_tokens
        if self._room:
            most = max(1, min(most, self._room - length))
        return Sampling(most, temperature=0.0, top_p=1.0, seed=None, stop=stop)

    def _leave(self) -> None:
        if self._closed:
            raise Leaving

    def _tell_trouble(self, step: int, why: str) -> None:
        message = f"Step {step} has no replies: {why}. The job goes on."
        self._store.events.append(
            self._job, "warning", "REPLIES_MISSING", message, self._attempt, fields={"step": str(step)}
        )

    def _quietly(self, work: Callable[[], object]) -> None:
        try:
            work()
        except StoreError as error:
            log.warning("of replies of %s: %s", self._job, error)


def _told(step: int, place: int, reply: Reply) -> Told:
    shown = reply.token_ids[:-1] if reply.finish_reason == "stop" else reply.token_ids
    fields = {
        "step": str(step),
        "prompt": str(place),
        "tokens": str(len(reply.token_ids)),
        "finish_reason": reply.finish_reason,
        "token_ids": " ".join(map(str, shown[:EVENT_TOKENS])),
    }
    if len(shown) > EVENT_TOKENS:
        fields["cut"] = "1"
    return Told(
        "info", REPLY, f"Step {step}, prompt {place}: a reply of {counted(len(reply.token_ids), 'token')}.", fields
    )
