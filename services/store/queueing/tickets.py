"""Tickets on RQ's queues: a function's name and JSON. The truth about a job stays in its record."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import cast

import redis
from rq import Queue
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job as RqJob
from rq.job import JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from services.store.connection import redis_errors
from services.store.errors import RedisUnavailable, TicketFailed, TicketTimeout
from services.store.ids import new_id
from services.store.queueing.queues import JOB_FUNCTION, queue_name, ticket_id
from services.store.records import JobRecord

#: Seconds that RQ keeps the record of a done or failed ticket; the truth is in the job's own record.
_KEEP = 60
#: The same for a ticket that nobody may read later, should its caller not be there to delete it.
_FORGET = 10


class Tickets:
    """The queues of one Redis. `client`: a connection of `connect_rq` with a socket timeout."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def enqueue(self, job: JobRecord, front: bool = False) -> str:
        """Put the ticket of a QUEUED job's next attempt on its host's queue; return RQ's id.

        Enqueuing an attempt twice leaves two tickets of which the claim drops one. RQ's own Retry is never used: it
        would repeat the attempt's number.
        """
        arguments: dict[str, object] = {"job_id": job.id, "attempt": job.attempt + 1}
        name = ticket_id(job.id, job.attempt + 1)
        return self._put(queue_name(job.host), JOB_FUNCTION, arguments, name, timeout=-1, keep=_KEEP, front=front)

    def call(
        self, queue: str, function: str, arguments: Mapping[str, object], *, timeout: float, result_ttl: int = 60
    ) -> str:
        """Enqueue any other call with JSON keyword arguments; return RQ's id. `timeout`: seconds that it may run."""
        name = new_id("call")
        return self._put(queue, function, dict(arguments), name, timeout=max(1, round(timeout)), keep=result_ttl)

    def ask(
        self,
        queue: str,
        function: str,
        arguments: Mapping[str, object],
        *,
        timeout: float,
        stop: threading.Event | None = None,
    ) -> object:
        """Make a call at the front of its queue, wait for its JSON result, and leave neither in Redis.

        The call expires by itself if the caller's process dies before a worker takes it. Raises as `result`.
        """
        name, seconds = new_id("call"), max(1, math.ceil(timeout))
        gone = seconds + _FORGET  # later than the caller gives up, who then sees a call and takes it back
        try:
            self._put(queue, function, dict(arguments), name, timeout=seconds, keep=_FORGET, front=True, expires=gone)
            return self.result(name, timeout, stop)
        finally:
            self._forget(name)

    def _forget(self, rq_id: str) -> None:
        """Delete a call unless a worker runs it: its result then expires."""
        with suppress(RedisUnavailable, NoSuchJobError, InvalidJobOperation), redis_errors():
            job = RqJob.fetch(rq_id, connection=self._client, serializer=JSONSerializer)
            if job.get_status(refresh=False) is not JobStatus.STARTED:
                job.delete()

    def result(self, rq_id: str, timeout: float, stop: threading.Event | None = None) -> object:
        """Wait for a call's JSON result; `stop` ends the wait early.

        Raises TicketFailed with the other side's last line, and TicketTimeout after `timeout` seconds. On a timeout
        the call is also taken back if no worker has started it.
        """
        end = time.monotonic() + timeout
        while True:
            with redis_errors():
                try:
                    job = RqJob.fetch(rq_id, connection=self._client, serializer=JSONSerializer)
                except NoSuchJobError:
                    raise TicketFailed(f"call {rq_id} is unknown or its result has expired") from None
                status = job.get_status(refresh=False)
                latest = job.latest_result(timeout=1)
            if latest is not None and status in (JobStatus.FINISHED, JobStatus.FAILED):
                if status is JobStatus.FINISHED:
                    return cast(object, latest.return_value)
                raise TicketFailed(_last_line(latest.exc_string) or f"call {rq_id} failed")
            if time.monotonic() >= end or (stop is not None and stop.is_set()):
                with redis_errors():
                    if status is JobStatus.QUEUED:
                        job.delete()
                raise TicketTimeout(
                    f"no worker answered on queue {job.origin} within {timeout:g} s; is one running there, and free?"
                )

    def waiting(self, host: str) -> list[str]:
        """Return the RQ ids on a host's queue, front first. Tickets that a worker has taken are absent."""
        with redis_errors():
            found = cast(list[bytes], self._client.lrange(f"rq:queue:{queue_name(host)}", 0, -1))
        return [item.decode() for item in found]

    def drop(self, job: JobRecord) -> None:
        """Remove the next attempt's ticket, and what RQ still keeps of it, after its job left the queue by itself."""
        ticket = ticket_id(job.id, job.attempt + 1)
        with redis_errors():
            # Whoever takes the id off the queue owns the ticket: a worker that was faster reads it still.
            if self._client.lrem(f"rq:queue:{queue_name(job.host)}", 0, ticket):
                with suppress(NoSuchJobError, InvalidJobOperation):  # its record is gone: it expired or was evicted
                    RqJob(ticket, connection=self._client, serializer=JSONSerializer).delete(remove_from_queue=False)

    def take_first(
        self, queue: str, function: str, wanted: Callable[[Mapping[str, object]], bool]
    ) -> Mapping[str, object] | None:
        """Take the first ticket off a queue in place of a worker, if it is a wanted call; return its arguments."""
        name = f"rq:queue:{queue}"
        with redis_errors():
            while (first := cast("bytes | None", self._client.lindex(name, 0))) is not None:
                try:
                    job = RqJob.fetch(first.decode(), connection=self._client, serializer=JSONSerializer)
                except NoSuchJobError:
                    if self._client.lindex(name, 0) == first:  # it expired, and a worker drops it
                        return None
                    continue
                if job.func_name != function or not wanted(job.kwargs):
                    return None
                # Whoever takes the id off the queue owns the ticket; else another one is first by now.
                if self._client.lrem(name, 1, first.decode()):
                    job.delete(remove_from_queue=False)
                    return cast("Mapping[str, object]", job.kwargs)
        return None

    def reap(self, queue: str) -> None:
        """Remove tickets of dead workers from RQ's registries; RQ itself does so only in idle workers."""
        with redis_errors():
            for registry in (StartedJobRegistry, FinishedJobRegistry, FailedJobRegistry):
                registry(queue, connection=self._client, serializer=JSONSerializer).cleanup()
            started = StartedJobRegistry(queue, connection=self._client, serializer=JSONSerializer)
            moving = IntermediateQueue(f"rq:queue:{queue}", self._client)
            for name in moving.get_job_ids():
                # Between taking over and starting lies a moment in which a worker may die; after a minute it has.
                if name not in started and not moving.set_first_seen(name) and moving.should_be_cleaned_up(name):
                    moving.remove(name)
                    self._client.delete(moving.get_first_seen_key(name))

    def queues(self) -> list[str]:
        """Return the names of all queues that were ever used."""
        with redis_errors():
            return sorted(queue.name for queue in Queue.all(connection=self._client, serializer=JSONSerializer))

    def depth(self, queue: str) -> int:
        """Return the number of waiting tickets."""
        with redis_errors():
            return self._client.llen(f"rq:queue:{queue}")

    def oldest_age(self, queue: str) -> float:
        """Return the age of the longest waiting ticket, seconds; 0: none waits."""
        with redis_errors():
            ids = cast(list[bytes], self._client.lrange(f"rq:queue:{queue}", 0, -1))
            pipe = self._client.pipeline(transaction=False)
            for item in ids:
                pipe.hget(f"rq:job:{item.decode()}", "enqueued_at")
            found = cast(list[bytes | None], pipe.execute())
        times = [datetime.fromisoformat(text.decode()) for text in found if text]
        return max((datetime.now(UTC) - moment).total_seconds() for moment in times) if times else 0.0

    def _put(
        self,
        queue: str,
        function: str,
        arguments: dict[str, object],
        name: str,
        *,
        timeout: int,
        keep: int,
        front: bool = False,
        expires: int | None = None,
    ) -> str:
        """Enqueue a call. `timeout`: seconds to run, -1 for any; `keep`: after its end; `expires`: in the queue."""
        with redis_errors():
            Queue(queue, connection=self._client, serializer=JSONSerializer).enqueue_call(
                function,
                kwargs=arguments,
                timeout=timeout,
                result_ttl=keep,
                failure_ttl=keep,
                ttl=expires,
                job_id=name,
                at_front=front,
            )
        return name


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1].split(": ", 1)[-1] if lines else ""
