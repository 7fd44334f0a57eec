"""A ticket as a worker reads it: one function of a short list, called once. Knows no function and no service.

RQ would do more for whoever can write to a queue: import any function, call any function as a callback, post the
outcome to any URL, and begin again as often as asked. All of that is taken off a ticket before it is looked at.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Callable, Mapping
from typing import ClassVar, cast

from rq import Worker
from rq.job import Job

LOG = logging.getLogger("turnloom.worker")


class ForbiddenTicket(Exception):
    """A ticket names a function that is not on the list."""


class TicketFault(Exception):
    """A ticket's function met an error that nobody foresaw; the worker's log has its id."""


class TicketJob(Job):
    """A ticket; each kind of worker says what it may name."""

    allowed: ClassVar[frozenset[str]] = frozenset()  #: dotted names
    whose: ClassVar[str] = ""  #: the worker, for the sentence: "the trainer"

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Read RQ's record without what a ticket has no use for."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []
        self.retries_left = self.repeats_left = None

    @property
    def func(self) -> Callable[..., object]:
        """The function to call.

        Raises:
            ForbiddenTicket: before anything is imported.
        """
        if self.func_name not in self.allowed:
            raise ForbiddenTicket(f"{self.func_name} is not a function of {self.whose}; the ticket is refused")
        return cast(Callable[..., object], super().func)

    def perform(self) -> object:
        """Call the function. What goes wrong is kept in Redis, so only sentences of our own go there.

        Raises:
            Exception: one of ours as it is; TicketFault for any other, whose words may quote anything.
        """
        try:
            return super().perform()
        except Exception as error:
            if type(error).__module__.startswith("services."):
                raise error from None
            error_id, kind = secrets.token_hex(6), type(error).__name__
            frames = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in _frames(error)]
            LOG.error("ticket %s: unforeseen %s (error id %s) at %s", self.id, kind, error_id, " < ".join(frames[::-1]))
        raise TicketFault(f"{kind} (error id {error_id}); the log of {self.whose} says where it came from")


def _frames(error: Exception) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


class TicketWorker(Worker):
    """rq.Worker without RQ's own words on failed tickets, which hold arguments and whole tracebacks."""

    job_class = TicketJob

    def handle_exception(self, job: Job, *exc_info: object) -> None:
        """Say that a ticket failed; its result has the sentence."""
        kind = getattr(exc_info[0], "__name__", "")
        said = str(exc_info[1]) if isinstance(exc_info[1], ForbiddenTicket) else ""
        LOG.error("ticket %s failed: %s", job.id, said or kind)
