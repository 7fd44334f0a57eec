"""Supervise all jobs: lost workers, tickets and hosts; cells at rungs; finished ledgers.

Every act is one atomic script that looks again before it acts. So a second supervisor by accident does no harm.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import cast

from services.outages import OutageLog
from services.store import keys
from services.store.archive import archive_ledger
from services.store.blobs.files import remove
from services.store.connection import redis_time
from services.store.errors import IllegalEdge, NoHost, NotFound, RedisUnavailable, StoreUnavailable
from services.store.jobs import VALIDATION_LEASE
from services.store.pages import index_owned
from services.store.pool.moving import start_elsewhere
from services.store.pool.placing import Waiting, choose
from services.store.queueing.queues import ticket_id
from services.store.queueing.singleton import Singleton
from services.store.queueing.unwanted import remove_unwanted
from services.store.records import JobRecord, JobState
from services.store.retries import retry_redis
from services.store.store import Store, open_store
from services.trainer.supervision.halving import settle_rungs

log = logging.getLogger("turnloom.supervisor")

DAY = 86400.0
#: Seconds that Redis's clock may gain on ours between two rounds. A renewed lease lasts longer.
_JUMP = 5.0
#: Seconds that the API has to remove the objects of a job that it deletes.
_DELETING = 60.0
#: Seconds that a ledger being archived may take when the process has to leave.
_LAST_LEDGER = 10.0


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """When the supervisor acts; all times in seconds."""

    redis_url: str
    store_url: str = ""  #: where ledgers are archived; empty: they stay in Redis
    lease_ttl: float = 15.0  #: that of the workers
    interval: float = 1.0  #: between two rounds
    ticket_grace: float = 15.0  #: a queued job may be without a ticket: a worker has it and is about to claim
    host_lost: float = 120.0  #: of silence after which a host counts as lost
    quota_running: int = 0  #: jobs of one owner on hosts at most; 0: any number
    retention: float = 7 * DAY  #: of an archived ledger's keys, while its job can be resumed
    retention_done: float = 3600.0  #: the same of a job that succeeded: everything reads its archive then
    file_grace: float = 600.0  #: that the file of a deleted dataset stays; longer than its maker needs to register it
    singleton_ttl: float = 5.0  #: after which another supervisor takes over
    reap_interval: float = 30.0  #: between two looks at RQ's registries
    archive_after: float = 0.0  #: that a job has ended: what its worker still says is archived as well
    archive_retry: float = 60.0  #: before a ledger that couldn't be archived is tried again


class Supervisor:
    """`round` looks after unfinished jobs, `archive` after finished ones, `tidy_files` after deleted ones."""

    def __init__(self, store: Store, settings: SupervisorSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._missing: dict[str, float] = {}  # ticket id: when it was first not on its queue
        self._retry: dict[str, float] = {}  # job id: when its ledger may be archived again
        self._reaped = float("-inf")
        self._outage_ended = float("-inf")
        self._ahead: float | None = None  #: of Redis's clock to ours, in the last round

    def outage(self) -> None:
        """Note that Redis was away: workers could not renew either, so leases are judged later."""
        self._outage_ended = self._clock()

    def round(self) -> None:
        """Look at every job once. Raises RedisUnavailable; what was done until then holds."""
        self._look_at_clocks()
        self._store.jobs.index()
        index_owned(self._store.redis)
        self._lost_workers()
        waiting = self._store.pool.waiting()
        placed = self._queued_at_hosts()
        self._lost_tickets(placed)
        self._lost_hosts(placed, waiting)
        if is_time := self._clock() - self._reaped >= self._settings.reap_interval:
            self._store.jobs.index_rungs()
        settle_rungs(self._store)
        self._place()
        if is_time:
            self._reaped = self._clock()
            for queue in self._store.tickets.queues():
                self._store.tickets.reap(queue)

    def _look_at_clocks(self) -> None:
        """Take it as an outage where Redis's clock leapt: it was set, or its machine slept, and leases ran out."""
        before, self._ahead = self._ahead, redis_time(self._store.redis) - self._clock()
        if before is not None and self._ahead - before > _JUMP:
            log.warning(
                "the clock of Redis leapt by %.0f s: workers and hosts get time to report", self._ahead - before
            )
            self.outage()

    def _quiet(self) -> float:
        """Return the seconds in which workers and hosts could report: Redis was there, and no clock leapt."""
        server = cast(dict[str, int], self._store.redis.info("server"))
        return min(float(server["uptime_in_seconds"]), self._clock() - self._outage_ended)

    def _place(self) -> None:
        """Give free workers to waiting jobs (placing.py)."""
        self._store.pool.say_quota(self._settings.quota_running)
        load = self._store.pool.load(self._settings.quota_running)
        choices = choose(self._store.pool.waiting(), load) if load.has_room() else []
        for job in self._store.jobs.get_many(self._store.pool.assign(choices)):
            self._store.tickets.enqueue(job)

    def _queued_at_hosts(self) -> Sequence[JobRecord]:
        """Return jobs that have a host and that no worker has claimed yet."""
        names = list(self._store.pool.placed())
        return [job for job in self._store.jobs.get_many(names) if job.state is JobState.QUEUED and job.host]

    def _lost_workers(self) -> None:
        """End attempts and validations with an expired lease, and enqueue the next attempt."""
        unheld = self._store.jobs.unheld()
        if not unheld:
            return
        # A lease also runs out while Redis is away or starts; then its holder gets the time to renew it first.
        quiet = self._quiet()
        for job in unheld:
            ttl = VALIDATION_LEASE if job.state is JobState.VALIDATING else self._settings.lease_ttl
            if quiet < ttl or not self._store.jobs.expire(job.id):
                continue
            now = self._store.jobs.get(job.id)
            log.warning("job %s attempt %d: nobody renewed its lease; it is %s", job.id, job.attempt, now.state.name)
            if now.state is JobState.QUEUED and now.host:
                self._store.tickets.enqueue(now)

    def _lost_tickets(self, queued: Sequence[JobRecord]) -> None:
        """Enqueue missing tickets: the push was lost, or the worker that took the ticket died."""
        waiting = {host: set(self._store.tickets.waiting(host)) for host in {job.host for job in queued}}
        missing = {
            ticket: job for job in queued if (ticket := ticket_id(job.id, job.attempt + 1)) not in waiting[job.host]
        }
        self._missing = {ticket: self._missing.get(ticket, self._clock()) for ticket in missing}
        for ticket, job in missing.items():
            if self._clock() - self._missing[ticket] < self._settings.ticket_grace:
                continue
            now = self._store.jobs.get(job.id)
            if now.state is JobState.QUEUED and now.attempt == job.attempt:
                message = "Its ticket was lost; it is on the queue again."
                self._store.events.append(job.id, "warning", "TICKET_RENEWED", message, job.attempt)
                self._store.tickets.enqueue(now)
            del self._missing[ticket]

    def _lost_hosts(self, placed: Sequence[JobRecord], waiting: Sequence[Waiting]) -> None:
        """Take jobs back from lost hosts; record an event for those that must wait for their host."""
        now = redis_time(self._store.redis)
        since = {job.id: job.queue_time for job in placed} | {one.job: one.time for one in waiting}
        hosts = {job.id: job.host for job in placed} | {one.job: one.host for one in waiting if one.host}
        silent = {host: self._store.hosts.silent(host) for host in set(hosts.values())}
        lost = {job for job, host in hosts.items() if min(silent[host], now - since[job]) >= self._settings.host_lost}
        if lost and self._quiet() < self._settings.host_lost:
            return
        for job in placed:
            if job.id in lost:
                self._leave_host(job)
        for one in waiting:
            if one.job in lost:
                self._store.jobs.host_lost(one.job, one.host, f"{self._said(one.host)}; the job asks for that host.")

    def _leave_host(self, job: JobRecord) -> None:
        """Put a job of a lost host into the pool, to go on from the newest checkpoint in the store."""
        try:
            if job.spec.host:
                raise NoHost("the job asks for that host")
            checkpoint = start_elsewhere(self._store.ledger, job)
            self._store.hosts.place(job.spec.tuft_model, job.spec.hyperparameters.lora_rank)
        except NoHost as error:
            self._store.jobs.host_lost(job.id, job.host, f"{self._said(job.host)}; {error}.")
            return
        whence = f"from the stored checkpoint {checkpoint}" if checkpoint else "from its beginning"
        message = f"{self._said(job.host)}; the job goes on at another host, {whence}."
        if self._store.jobs.move(job.id, job.host, "", message, checkpoint=checkpoint, lost=True):
            self._store.tickets.drop(job)

    def _said(self, host: str) -> str:
        return f"Host {host} has been silent for {self._settings.host_lost:g} s"

    def archive(self) -> None:
        """Copy finished ledgers to the store, then let their keys expire. May take long, so it has its own thread."""
        if not self._settings.store_url:
            return
        now = redis_time(self._store.redis)
        for job in self._store.jobs.unarchived():
            if now - job.finish_time < self._settings.archive_after:
                continue
            if self._clock() < self._retry.get(job.id, float("-inf")):
                continue
            try:
                uri = archive_ledger(self._store.ledger, self._store.events, job, self._settings.store_url)
            except (StoreUnavailable, NotFound) as error:
                log.warning("job %s: its ledger stays in Redis for now: %s", job.id, error)
                self._retry[job.id] = self._clock() + self._settings.archive_retry
                continue
            self._retry.pop(job.id, None)
            kept = self._settings.retention_done if job.state is JobState.SUCCEEDED else self._settings.retention
            if not self._store.jobs.archived(job, uri, kept) and not self._store.redis.exists(keys.job(job.id)):
                remove(uri)  # it was deleted meanwhile

    def tidy_files(self) -> None:
        """Remove files of deleted datasets and jobs; if a store is away, leave them for the next round."""
        try:
            remove_unwanted(self._store.unwanted, self._settings.file_grace)
            if self._settings.store_url:
                for job in self._store.jobs.with_objects_left(_DELETING):
                    self._store.objects.delete_job(job)
                    self._store.jobs.objects_removed(job)
        except StoreUnavailable as error:
            log.warning("files of deleted datasets and jobs stay for now: %s", error)


def supervise(settings: SupervisorSettings, stop: threading.Event) -> None:
    """Run rounds until `stop` is set. Survives outages of Redis; waits while another supervisor is active."""
    away = OutageLog(log, "Redis can't be used")
    try:
        store = retry_redis(
            lambda: open_store(settings.redis_url, settings.store_url, settings.lease_ttl),
            stop=stop,
            on_retry=away.failed,
        )
    except RedisUnavailable:
        if stop.is_set():
            return
        raise
    away.went_through()
    singleton = Singleton(store.redis, keys.SUPERVISOR, settings.singleton_ttl)
    supervisor = Supervisor(store, settings)

    def recover() -> None:
        try:
            if singleton.hold():
                supervisor.round()
        except RedisUnavailable:
            supervisor.outage()
            raise

    def archive() -> None:
        if singleton.held:
            supervisor.archive()
            supervisor.tidy_files()

    # A large ledger takes longer to archive than a lost worker may stay unnoticed.
    archiver = threading.Thread(target=_repeat, args=("archive", archive, settings.interval, stop), daemon=True)
    archiver.start()
    try:
        _repeat("recover jobs", recover, settings.interval, stop)
        archiver.join(_LAST_LEDGER)
        singleton.give_up()
    except RedisUnavailable as error:
        log.warning("ended without giving up the lease: %s", error)
    finally:
        store.close()


def _repeat(what: str, act: Callable[[], None], interval: float, stop: threading.Event) -> None:
    """Call `act` until `stop` is set; a failed call is repeated after `interval` seconds."""
    away = OutageLog(log, f"Redis can't be used to {what}")
    while not stop.is_set():
        try:
            act()
            away.went_through()
        except RedisUnavailable as error:
            away.failed(error)
        except (IllegalEdge, NotFound) as error:  # a job changed or was deleted in the middle of the round
            log.info("%s", error)
        except Exception:  # one broken record must not end the recovery of all others
            log.exception("a round ended early")
        stop.wait(interval)


def run(settings: SupervisorSettings) -> None:
    """Supervise until SIGTERM or SIGINT."""
    stop = threading.Event()

    def leave(number: int, frame: FrameType | None) -> None:
        log.info("signal %d: leaving", number)
        stop.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    supervise(settings, stop)
