"""The four RPCs of sweeps: check a grid as a whole, then create one job per cell.

All or nothing: no job is created before every cell has passed its check. None is queued before all are created. A
server that dies in between leaves cells VALIDATING. The same request, sent again, finishes them; otherwise the
supervisor ends them as VALIDATION_LOST.

Cells wait in the pool in row-major order. They get hosts as any job does: by priority, their owner's fair share, and
age.
With successive halving a cell releases its place at each rung; the supervisor compares and queues (docs/decisions.md).
"""
# ruff: noqa: N802  # methods carry the names of their RPCs

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import grpc

from services.preprocess.api.backing import Backing
from services.preprocess.api.rpc import Call, Rpc
from services.preprocess.domain import limits
from services.preprocess.jobs.enqueue import queued
from services.preprocess.jobs.validate import Checked, check
from services.preprocess.models.registry import Registry
from services.preprocess.wire import sweep as sweep_wire
from services.preprocess.wire.rungs import rungs
from services.store.errors import IllegalEdge, NotFound, RedisUnavailable, StoreError
from services.store.ids import new_id
from services.store.records import TERMINAL, ErrorRecord, JobRecord, JobState, SweepRecord
from services.store.store import Store
from turnloom.v1 import training_pb2 as pb

NAME = "FineTuningService"


class SweepRpcs:
    """The sweep RPCs of FineTuningService."""

    _rpc: Rpc
    _backing: Backing
    _registry: Registry

    def CreateSweep(self, request: pb.CreateSweepRequest, context: grpc.ServicerContext) -> pb.CreateSweepResponse:
        """Check every cell, create every job, then queue them."""
        with self._rpc.unary(context, NAME, "CreateSweep") as call:
            drafts = sweep_wire.cells(request)
            store = self._backing.store()
            owner, content = call.caller.name, sweep_wire.content_hash(request)
            known = store.sweeps.find_request(owner, request.request_id, content) if request.request_id else None
            if known is not None and _settled(store, known):
                return pb.CreateSweepResponse(sweep=_shown(store, known), deduplicated=True)
            checked = [check(one, self._registry, store, call.caller) for one in drafts]
            if known is None:
                store.jobs.check_room(owner, len(checked))
            stops = rungs(request, [one.hyperparameters for one in drafts], [one.cost.steps for one in checked])
            record = SweepRecord(
                id=new_id("sweep"),
                axes=sweep_wire.axes(request),
                display_name=request.display_name,
                owner=owner,
                rungs=stops,
                cells=len(checked),
            )
            created = store.sweeps.create(record, request_id=request.request_id, content_hash=content)
            call.notes["sweep"] = created.sweep.id
            _queue(store, _make(store, created.sweep, checked), checked)
            made = store.sweeps.get(created.sweep.id)
            return pb.CreateSweepResponse(sweep=_shown(store, made), deduplicated=created.deduplicated)

    def GetSweep(self, request: pb.GetSweepRequest, context: grpc.ServicerContext) -> pb.GetSweepResponse:
        """Return one sweep with its jobs."""
        with self._rpc.unary(context, NAME, "GetSweep") as call:
            store = self._backing.store()
            return pb.GetSweepResponse(sweep=_shown(store, _seen(call, store.sweeps.get(request.id))))

    def ListSweeps(self, request: pb.ListSweepsRequest, context: grpc.ServicerContext) -> pb.ListSweepsResponse:
        """Return a page of sweeps, newest first, without those that the caller may not see."""
        with self._rpc.unary(context, NAME, "ListSweeps") as call:
            store = self._backing.store()
            size = limits.page_size(request.page_size)
            page = store.sweeps.list(page_size=size, page_token=request.page_token, owner=call.caller.only)
            seen = [item for item in page.items if call.caller.only in (None, item.owner)]
            names = [name for item in seen for name in item.jobs]
            jobs = {job.id: job for job in store.jobs.get_many(names)}  # of all sweeps in one round trip
            return pb.ListSweepsResponse(
                sweeps=[sweep_wire.sweep(item, [jobs[name] for name in item.jobs if name in jobs]) for item in seen],
                next_page_token=page.next_page_token,
            )

    def CancelSweep(self, request: pb.CancelSweepRequest, context: grpc.ServicerContext) -> pb.CancelSweepResponse:
        """Cancel the jobs that have not ended; jobs that a worker holds save first."""
        with self._rpc.unary(context, NAME, "CancelSweep") as call:
            store = self._backing.store()
            record = store.sweeps.get(request.id)
            call.caller.check_change(f"Sweep {record.id!r}", record.owner)
            for job in reversed(_jobs(store, record)):  # from the end of the queue, so that none starts meanwhile
                _cancel(store, job)
            return pb.CancelSweepResponse(sweep=_shown(store, record))


def _make(store: Store, record: SweepRecord, checked: Sequence[Checked]) -> list[JobRecord]:
    """Create a VALIDATING job per cell, or find by request_id those that an earlier try created.

    Raises:
        StoreError: a job could not be created; those before it are FAILED then.
    """
    made: list[JobRecord] = []
    try:
        for position, one in enumerate(checked):
            cell = f"{record.id}:{position}"
            spec = replace(one.spec, sweep=record.id, rungs=tuple(rung.step for rung in record.rungs))
            created = store.jobs.create(spec, request_id=cell, content_hash=cell, planned_steps=one.cost.steps)
            store.sweeps.add_job(record.id, created.job.id)
            made.append(created.job)
    except RedisUnavailable:  # the caller's next try goes on here
        raise
    except StoreError as error:  # a dataset was deleted since the check
        for job in made:
            _reject(store, job, "SWEEP_NOT_MADE", f"Another cell of {record.id} could not be made: {error}")
        raise
    return made


def _queue(store: Store, jobs: Sequence[JobRecord], checked: Sequence[Checked]) -> None:
    """Queue every cell, in order."""
    for job, one in zip(jobs, checked, strict=True):
        queued(store, job, one)


def _settled(store: Store, record: SweepRecord) -> bool:
    """Return whether all cells were created and have left VALIDATING."""
    jobs = _jobs(store, record)
    return len(record.jobs) == record.cells and all(job.state is not JobState.VALIDATING for job in jobs)


def _cancel(store: Store, job: JobRecord) -> None:
    if job.state in TERMINAL:
        return
    if job.state is JobState.VALIDATING:
        _reject(store, job, "SWEEP_CANCELLED", "The sweep was cancelled before this cell was queued.")
        return
    try:
        cancelled = store.jobs.cancel(job.id)
    except (IllegalEdge, NotFound):  # it ended, or was deleted, meanwhile
        return
    if cancelled.state is JobState.CANCELLED and cancelled.host:
        store.tickets.drop(cancelled)


def _reject(store: Store, job: JobRecord, code: str, message: str) -> None:
    try:
        store.jobs.reject(job.id, ErrorRecord(code, message, hint="Create the sweep again."))
    except (IllegalEdge, NotFound):  # queued by the same request on another server, or gone
        return


def _seen(call: Call, record: SweepRecord) -> SweepRecord:
    call.caller.check_look(f"Sweep {record.id!r}", record.owner)
    return record


def _jobs(store: Store, record: SweepRecord) -> Sequence[JobRecord]:
    """Return the jobs that are still kept, in order of cells."""
    return store.jobs.get_many(record.jobs)


def _shown(store: Store, record: SweepRecord) -> pb.Sweep:
    return sweep_wire.sweep(record, _jobs(store, record))
