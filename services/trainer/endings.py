"""End an attempt: settle the job, its checkpoints, and what it holds on the server.

ENDINGS maps each exception that may leave the training to its way out. Each finishes the job, releases it for the next
attempt, or, fenced or without Redis, leaves it to the supervisor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from services.store.errors import (
    Fenced,
    NotFound,
    RedisUnavailable,
    StoreError,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from services.store.jobs import MAX_IDLE_ATTEMPTS
from services.store.records import CheckpointRecord, Control, ErrorRecord, JobRecord, JobState
from services.store.retries import retry_copy, retry_redis
from services.store.store import Store
from services.trainer.aside import Aside, Outage
from services.trainer.backend import Adapter, Backend
from services.trainer.checkpoints import ServerFolder
from services.trainer.errors import BackendError, CallOutOfMemory, Code, StopRun
from services.trainer.journal import LedgerGap, LedgerJournal, RedisLost
from services.trainer.keeping import Keeper
from services.trainer.lease import Lease
from services.trainer.mirroring import Mirror

Result = TypeVar("Result")

STORE_HINTS: Final[Mapping[type[StoreUnavailable], str]] = {
    StoreFull: "Make room in the object store, then resume the job.",
    StoreRefused: "Give the worker a key of the object store that may write there, then resume the job.",
    StoreUnavailable: "See that the object store answers (turnloom doctor), then resume the job.",
}
FOLDER_HINT: Final = "Check TURNLOOM_STORE_URL and that TURNLOOM_TUFT_CHECKPOINT_DIR is the TuFT server's own folder."
LAST_WRITES: Final = 10.0  #: seconds that an attempt which another one follows waits for its last writes
LOG_HINT: Final = "See the worker's log."

log = logging.getLogger(__name__)


class Leave(Exception):
    """The attempt must leave before it trained anything."""

    def __init__(self, asked: Control) -> None:
        super().__init__(asked.value)
        self.asked = asked


@dataclass(slots=True)
class Endings:
    """The ways to end an attempt: each method finishes the job or hands it to the next attempt."""

    store: Store
    job: JobRecord  #: as it was claimed
    adapter: Adapter
    lease: Lease
    journal: LedgerJournal
    keeper: Keeper
    mirror: Mirror | None  #: None: nothing is copied while the job trains
    outage: Outage
    aside: Aside
    folder: ServerFolder
    patience: float  #: seconds that Redis or the object store may be away
    runs: list[str] = field(default_factory=list)  #: runs that this attempt made on the server

    def end(self, error: Exception) -> None:
        """End the attempt as ENDINGS says for the class of `error`, or for its nearest base class."""
        ENDINGS[next(kind for kind in type(error).__mro__ if kind in ENDINGS)](self, error)

    def succeed(self, backend: Backend) -> None:
        """Move the adapter and the kept checkpoints to the store, mark the job done, and free the server."""
        name = f"{self.job.id}-a{self.job.attempt}-adapter"
        path = backend.save_adapter(name).result()
        try:
            folder = self.folder.adapter(path, self.adapter)
            stored = self.patiently(lambda: self.store.objects.put_folder(self.job.id, "final", folder))
        finally:
            self.keeper.discard(path)
        self._keep_all()
        self.journal.event("info", "ADAPTER_STORED", f"The adapter is in the store: {stored.uri}", sha256=stored.sha256)
        self._finish(JobState.SUCCEEDED, adapter=(stored.uri, stored.sha256))
        self._free()

    def leave(self, asked: Control) -> None:
        """Give the job back as asked, after everything was saved."""
        if asked is Control.PREEMPT:
            self._preempted()
            return
        self._keep_all()
        self._finish(JobState.PAUSED if asked is Control.PAUSE else JobState.CANCELLED)
        self._free()

    def backend_failed(self, error: BackendError) -> None:
        """Release the job if another attempt may succeed, else fail it."""
        log.error("the training server failed: %s", error)
        self._store_quietly(lambda: self.store.jobs.count("retries", error.code.value))
        record = ErrorRecord(error.code.value, error.sentence, hint=error.hint)
        if error.retryable:
            self.release(
                error.code.value.lower(), f"{error.sentence} The job goes on from its last checkpoint.", record
            )
        else:
            self.fail(record)

    def fenced(self, error: Fenced) -> None:
        """Leave the job to the attempt that holds it. Nobody else knows the runs of this one without a checkpoint."""
        log.warning("the attempt ends: %s", error)
        self._free_unsaved()

    def out_of_memory(self, error: CallOutOfMemory) -> None:
        """Halve the calls for the rest of the job; gradients add up, so the steps stay the same."""
        record = ErrorRecord(Code.OUT_OF_MEMORY.value, str(error), hint=error.error.hint)
        checkpoint = retry_redis(self._last_checkpoint, self.patience)
        lowered = error.budget // 2
        if error.rows == 1 or lowered < 1 or checkpoint is None:
            self.fail(record)
            return
        self._store_quietly(
            lambda: self.store.ledger.update_checkpoint(
                self.job.id, self.job.attempt, checkpoint.id, max_tokens_per_call=lowered, packed=error.packed
            )
        )
        message = f"{error}. Calls are halved to {lowered} {error.unit}; the job goes on from step {checkpoint.step}."
        self.release("out_of_memory", message, record)

    def fail(self, error: ErrorRecord) -> None:
        """Fail the job, and keep its checkpoints to resume from: in the store, else on the server."""
        log.error("the job has failed: %s: %s", error.code, error.message)
        safe = self._copied_out()
        self.aside.close(LAST_WRITES)
        self._finish(JobState.FAILED, error)
        if safe:
            self._free()

    def release(self, reason: str, message: str, error: ErrorRecord | None = None) -> None:
        """Hand the job to the next attempt. If this does not arrive, the supervisor does it when the lease expires.

        The third attempt in a row without a step ends the job instead. So does a wish to pause or cancel. What it holds
        on the server then goes as at any other end.
        """
        self.aside.close(LAST_WRITES)
        self._free_unsaved()
        safe = self._ends_the_job() and self._copied_out()
        self.lease.ending = True
        try:
            job = retry_redis(
                lambda: self.store.jobs.release(self.job.id, self.job.attempt, reason, message, error=error),
                self.patience,
            )
            log.warning("the attempt ends (%s): the job is %s", reason, job.state.name)
            if reason != "ledger_gap":  # what Redis lost may come back with it
                self._discard_unrecorded()
            if job.state is JobState.QUEUED and job.host:
                self.store.tickets.enqueue(job, front=True)
            elif safe:
                self._free()
        except StoreError as problem:
            log.error("the job is left to the supervisor: %s", problem)

    # What the ways out share.

    def _ends_the_job(self) -> bool:
        """Return whether releasing now may end the job; the job may also go on."""
        return self.job.failed_attempts + 1 >= MAX_IDLE_ATTEMPTS or self.lease.control in (
            Control.PAUSE,
            Control.CANCEL,
        )

    def _copied_out(self) -> bool:
        """Try once to copy the kept checkpoints to the store; on failure the server has to keep them."""
        try:
            if self.mirror is not None:
                self.mirror.close(self.patience)
            self.keeper.copy_out()
        except (StoreError, StopRun, OSError) as problem:
            log.warning("the kept checkpoints stay on the server: %s", problem)
            return False
        return True

    def _free_unsaved(self) -> None:
        """Release runs of this attempt without a checkpoint: the next attempt makes its own and needs the room."""
        try:
            saved = {self.folder.run_of(one.path) for one in self.store.ledger.checkpoints(self.job.id)}
        except RedisUnavailable as error:
            log.warning("nothing was released on the server: %s", error)
            return
        self.keeper.release([run for run in self.runs if run not in saved])

    def _discard_unrecorded(self) -> None:
        """Remove what this attempt saved and the ledger has not; the attempt is over, so it takes nothing any more."""
        try:
            kept = {one.path for one in self.store.ledger.checkpoints(self.job.id)}
            for path in [path for run in self.runs for path in self.folder.saved(run)]:
                if path not in kept:
                    self.keeper.discard(path)
        except (RedisUnavailable, OSError) as error:
            log.warning("what the attempt saved in vain stays on the server: %s", error)

    def _finish(self, state: JobState, error: ErrorRecord | None = None, adapter: tuple[str, str] = ("", "")) -> None:
        self.lease.ending = True
        ended = retry_redis(
            lambda: self.store.jobs.finish(
                self.job.id, self.job.attempt, state, error, adapter_uri=adapter[0], adapter_sha256=adapter[1]
            ),
            self.patience,
        )
        log.info("the job is %s", ended.state.name)
        self._discard_unrecorded()

    def _free(self) -> None:
        """Release what the job holds on the server, once everything kept is in the store."""
        try:
            runs = [self.folder.run_of(one.path) for one in self.store.ledger.checkpoints(self.job.id)]
        except RedisUnavailable as error:
            log.warning("nothing was released on the server: %s", error)
            return
        if not any([*runs, *self.runs]):
            return
        freed = self.keeper.release([*runs, *self.runs])
        message = f"Freed {len(freed)} run{'' if len(freed) == 1 else 's'} on the server."
        # The job is over: it may be deleted by now.
        self._store_quietly(lambda: self.journal.event("info", "ADAPTER_RELEASED", message, runs=" ".join(freed)))

    def _last_checkpoint(self) -> CheckpointRecord | None:
        try:
            return self.store.ledger.checkpoint(self.job.id)
        except NotFound:
            return None

    def _preempted(self) -> None:
        """Release a job to the next attempt: elsewhere if a person moved it and its checkpoint is in the store."""
        try:
            to = self.store.jobs.get(self.job.id).move_to
            if to:
                self._keep_all()
        except (StoreError, StopRun) as problem:
            log.warning("the job is not moved: %s", problem)
            self.release("preempted", f"The worker had to leave, and the job could not be moved: {problem}")
            return
        if not to:
            self.release("preempted", "The worker had to leave; the job waits at the front of its queue.")
            return
        self.release("moved", "The job was moved by request." if to == "*" else f"The job was moved to host {to}.")
        self._free()

    def _keep_all(self) -> None:
        """Copy every kept checkpoint to the store, after any copy under way."""
        if self.mirror is not None:
            self.mirror.close(self.patience)
        self.patiently(self.keeper.copy_out)
        self._store_quietly(self.keeper.thin_out)  # what stayed until a newer one was in the store
        self.aside.close(self.patience)

    def patiently(self, call: Callable[[], Result], check: Callable[[], None] | None = None) -> Result:
        """Read from or copy to the object store, which may be full or away for `patience` seconds.

        Args:
            call: safe to repeat.
            check: called before each repetition, and may raise; None: the lease's, which raises Fenced.
        """

        def retry(error: StoreError) -> None:
            if isinstance(error, StoreUnavailable):
                self.outage.failed("waited for", error)
            (check or self.lease.check)()

        result = retry_copy(call, self.patience, on_retry=retry)
        self.outage.went_through("waited for")
        return result

    def _store_quietly(self, write: Callable[[], object]) -> None:
        """Write to the store, and log a failure: this write is not worth failing a job."""
        try:
            write()
        except StoreError as error:
            log.warning("not written: %s", error)


def _without_redis(_endings: Endings, error: RedisLost) -> None:
    log.error("leaving without Redis; the supervisor goes on from the last checkpoint: %s", error)


def _store_refused(endings: Endings, error: StoreError) -> None:
    log.error("the store refused", exc_info=error)
    endings.release("store_error", str(error), ErrorRecord("STORE_FAILED", str(error), hint=FOLDER_HINT))


def _unforeseen(endings: Endings, error: Exception) -> None:
    log.error("unforeseen", exc_info=error)
    message = f"{type(error).__name__}: {error}"
    endings.release("unforeseen", message, ErrorRecord("UNKNOWN", message, hint=LOG_HINT))


#: What an exception does to the job; the nearest class above an exception's own counts.
ENDINGS: Final[Mapping[type[Exception], Callable[[Endings, Any], None]]] = {
    Leave: lambda endings, error: endings.leave(error.asked),
    Fenced: Endings.fenced,
    RedisLost: _without_redis,
    LedgerGap: lambda endings, error: endings.release("ledger_gap", str(error)),
    CallOutOfMemory: Endings.out_of_memory,
    BackendError: Endings.backend_failed,
    StopRun: lambda endings, error: endings.fail(ErrorRecord(error.code, str(error), hint=error.hint)),
    StoreUnavailable: lambda endings, error: endings.fail(
        ErrorRecord("STORE_FAILED", str(error), hint=STORE_HINTS[type(error)])
    ),
    StoreError: _store_refused,
    Exception: _unforeseen,
}
