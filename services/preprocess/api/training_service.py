"""FineTuningService: validate, queue, control and watch jobs. Their state lives in Redis."""
# ruff: noqa: N802  # methods carry the names of their RPCs

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import grpc

from services.preprocess.api.backing import Backing
from services.preprocess.api.rpc import Call, CallType, Rpc
from services.preprocess.api.sweep_service import SweepRpcs
from services.preprocess.domain import limits
from services.preprocess.domain.refusals import ClientLeft, WrongState
from services.preprocess.jobs.adapters import adapter_files, adapter_folder
from services.preprocess.jobs.diagnosis import diagnose
from services.preprocess.jobs.enqueue import queued
from services.preprocess.jobs.estimate import Cost
from services.preprocess.jobs.move import move
from services.preprocess.jobs.replies import MOST_STEPS, readable, replies
from services.preprocess.jobs.sampling import Sampler
from services.preprocess.jobs.validate import Checked, check
from services.preprocess.models.registry import Registry
from services.preprocess.wire import job as job_wire
from services.preprocess.wire import sample as sample_wire
from services.preprocess.wire.job_request import content_hash, draft, states
from services.store.errors import RedisUnavailable, StoreUnavailable, TicketTimeout
from services.store.events import Entry
from services.store.pool.placing import in_order, why_not_begun
from services.store.records import CheckpointRecord, EventRecord, JobNotice, JobRecord, JobState, StepRecord
from turnloom.v1 import training_pb2 as pb
from turnloom.v1.training_pb2_grpc import FineTuningServiceServicer

LOG = logging.getLogger("turnloom.api")
NAME = "FineTuningService"
STEPS_DEFAULT = 1_000  #: page of ListSteps
STEPS_MAX = 10_000
SAMPLE_SECONDS = 60.0  #: deadline of Sample where its caller names none
ANSWER_SECONDS = 2.0  #: of a caller's deadline in which its prompt is withdrawn and the answer travels


class FineTuningService(SweepRpcs, FineTuningServiceServicer):
    """Serves jobs by reading and writing records; workers train."""

    def __init__(self, rpc: Rpc, backing: Backing, registry: Registry, store_url: str) -> None:
        self._rpc = rpc
        self._backing = backing
        self._registry = registry
        self._store_url = store_url

    def CreateJob(self, request: pb.CreateJobRequest, context: grpc.ServicerContext) -> pb.CreateJobResponse:
        """Check, estimate, then queue a job; a known request_id returns the job created before."""
        with self._rpc.unary(context, NAME, "CreateJob") as call:
            asked = draft(request)
            store = self._backing.store()
            content = content_hash(request)
            known = None
            if request.request_id and not request.validate_only:
                known = store.jobs.find_request(call.caller.name, request.request_id, content)
            if known is not None and known.state is not JobState.VALIDATING:
                return pb.CreateJobResponse(job=job_wire.job(known), deduplicated=True)
            checked = check(asked, self._registry, store, call.caller)
            if request.validate_only:
                return pb.CreateJobResponse(job=job_wire.job(_would_be(checked)), estimate=_estimate(checked.cost))
            created = store.jobs.create(
                checked.spec, request_id=request.request_id, content_hash=content, planned_steps=checked.cost.steps
            )
            call.notes["job"] = created.job.id
            return pb.CreateJobResponse(
                job=job_wire.job(queued(store, created.job, checked)),
                estimate=_estimate(checked.cost),
                deduplicated=created.deduplicated,
            )

    def GetJob(self, request: pb.GetJobRequest, context: grpc.ServicerContext) -> pb.GetJobResponse:
        """Return one job."""
        with self._rpc.unary(context, NAME, "GetJob") as call:
            return pb.GetJobResponse(job=job_wire.job(self._seen(call, request.id)))

    def ListJobs(self, request: pb.ListJobsRequest, context: grpc.ServicerContext) -> pb.ListJobsResponse:
        """Return a page of jobs, newest first."""
        with self._rpc.unary(context, NAME, "ListJobs") as call:
            size = limits.page_size(request.page_size)
            wanted = states(request)
            page = self._backing.store().jobs.list(
                page_size=size,
                page_token=request.page_token,
                states=wanted,
                metadata=dict(request.metadata),
                owner=call.caller.only,
            )
            return pb.ListJobsResponse(
                jobs=[job_wire.job(record) for record in page.items], next_page_token=page.next_page_token
            )

    def CancelJob(self, request: pb.CancelJobRequest, context: grpc.ServicerContext) -> pb.CancelJobResponse:
        """Cancel a job; a running one learns of it at its next commit and saves first."""
        with self._rpc.unary(context, NAME, "CancelJob") as call:
            store = self._backing.store()
            cancelled = store.jobs.cancel(self._owned(call, request.id).id)
            if cancelled.state is JobState.CANCELLED and cancelled.host:
                store.tickets.drop(cancelled)  # no worker would take it, but it would count as waiting
            return pb.CancelJobResponse(job=job_wire.job(cancelled))

    def PauseJob(self, request: pb.PauseJobRequest, context: grpc.ServicerContext) -> pb.PauseJobResponse:
        """Pause a job, which then waits for ResumeJob; a running one saves first, at its next commit."""
        with self._rpc.unary(context, NAME, "PauseJob") as call:
            owned = self._owned(call, request.id)
            return pb.PauseJobResponse(job=job_wire.job(self._backing.store().jobs.pause(owned.id)))

    def ResumeJob(self, request: pb.ResumeJobRequest, context: grpc.ServicerContext) -> pb.ResumeJobResponse:
        """Queue a paused job again; refuse where no live host can take it."""
        with self._rpc.unary(context, NAME, "ResumeJob") as call:
            store = self._backing.store()
            record = self._owned(call, request.id)
            checkpoint = store.ledger.checkpoint(record.id, request.checkpoint) if request.checkpoint else None
            last = checkpoint or (store.ledger.checkpoint(record.id) if record.last_checkpoint else None)
            only = record.host if last is not None and not last.stored else ""
            rank = record.spec.hyperparameters.lora_rank
            store.hosts.place(record.spec.tuft_model, rank, only or record.spec.host)
            resumed = store.jobs.resume(record.id, request.checkpoint, only)
            if only:
                store.tickets.enqueue(resumed)
            return pb.ResumeJobResponse(job=job_wire.job(resumed))

    def MoveJob(self, request: pb.MoveJobRequest, context: grpc.ServicerContext) -> pb.MoveJobResponse:
        """Move a job to another host; a running job saves and copies its checkpoint first."""
        with self._rpc.unary(context, NAME, "MoveJob") as call:
            record = self._owned(call, request.id)
            return pb.MoveJobResponse(job=job_wire.job(move(self._backing.store(), record, request.host)))

    def ListQueue(self, request: pb.ListQueueRequest, context: grpc.ServicerContext) -> pb.ListQueueResponse:
        """Return the jobs that wait for a host, in order, and why."""
        with self._rpc.unary(context, NAME, "ListQueue") as call:
            size = limits.page_size(request.page_size)
            store = self._backing.store()
            load = store.pool.load(store.pool.quota())
            ordered = in_order(store.pool.waiting(), load)
            names = [job for job, host in store.pool.placed().items() if host]
            held = [job for job in store.jobs.get_many(names) if job.state is JobState.QUEUED]
            shown = [job_wire.held_job(job, why_not_begun(job.host, load)) for job in held]
            shown += [job_wire.queued_job(one, place, load) for place, one in enumerate(ordered, start=1)]
            mine = [one for one in shown if call.caller.only in (None, one.owner)]
            return pb.ListQueueResponse(jobs=mine[:size], waiting=len(ordered))

    def DeleteJob(self, request: pb.DeleteJobRequest, context: grpc.ServicerContext) -> pb.DeleteJobResponse:
        """Delete a job, records first, so that no caller finds a job whose adapter is gone.

        Where the store is away the supervisor removes its objects later: a second call would find no job.
        """
        with self._rpc.unary(context, NAME, "DeleteJob") as call:
            store = self._backing.store()
            deleted = store.jobs.delete(self._owned(call, request.id).id)
            try:
                store.objects.delete_job(deleted.id)
                store.jobs.objects_removed(deleted.id)
            except (StoreUnavailable, RedisUnavailable) as error:
                LOG.warning("job %s is deleted, and its files in the store go later: %s", deleted.id, error)
            return pb.DeleteJobResponse()

    def WatchJob(self, request: pb.WatchJobRequest, context: grpc.ServicerContext) -> Iterator[pb.WatchJobResponse]:
        """Stream every event after start_event_id, each once, until the terminal state."""
        with (
            self._rpc.stream(context, CallType.SERVER_STREAM, NAME, "WatchJob") as call,
            self._rpc.stopping(context) as stop,
        ):
            store = self._backing.store()
            job = self._seen(call, request.id)
            call.notes["job"] = job.id
            for entry in store.events.watch(request.id, request.start_event_id, stop=stop):
                yield self._update(entry, job)
            self._rpc.refuse_draining()

    def ListEvents(self, request: pb.ListEventsRequest, context: grpc.ServicerContext) -> pb.ListEventsResponse:
        """Return a page of events, oldest first."""
        with self._rpc.unary(context, NAME, "ListEvents") as call:
            size = limits.page_size(request.page_size)
            job = self._seen(call, request.job)
            page = self._backing.store().events.list(job.id, page_size=size, page_token=request.page_token)
            return pb.ListEventsResponse(
                events=[job_wire.event(self._readable(record, job)) for record in page.items],
                next_page_token=page.next_page_token,
            )

    def ListSteps(self, request: pb.ListStepsRequest, context: grpc.ServicerContext) -> pb.ListStepsResponse:
        """Return a page of the effective series; the page token is the next step's number."""
        with self._rpc.unary(context, NAME, "ListSteps") as call:
            size = limits.page_size(request.page_size, STEPS_MAX, STEPS_DEFAULT)
            position = limits.page_step(request.page_token)
            first = position or max(request.start_step, 1)
            store = self._backing.store()
            self._seen(call, request.job)
            found = store.ledger.steps(request.job, first, size + 1)
            more = limits.page_token(str(found[size].step)) if len(found) > size else ""
            initial = None if position else store.ledger.initial(request.job)
            return pb.ListStepsResponse(
                steps=[job_wire.step(record) for record in found[:size]],
                next_page_token=more,
                initial=None if initial is None else job_wire.step(initial),
            )

    def ListReplies(self, request: pb.ListRepliesRequest, context: grpc.ServicerContext) -> pb.ListRepliesResponse:
        """Return a page of replies; the page token is the last step of the page before."""
        with self._rpc.unary(context, NAME, "ListReplies") as call:
            size = limits.page_size(request.page_size, MOST_STEPS, MOST_STEPS)
            position = limits.page_step(request.page_token)
            job = self._seen(call, request.job)
            step = request.step if request.HasField("step") else None
            page = replies(self._backing.store(), self._registry, job, step, position, size)
            return pb.ListRepliesResponse(
                replies=[job_wire.reply(one) for one in page.said],
                next_page_token=limits.page_token(str(page.last) if page.last else ""),
            )

    def GetEvaluation(
        self, request: pb.GetEvaluationRequest, context: grpc.ServicerContext
    ) -> pb.GetEvaluationResponse:
        """Return the losses of one evaluation by row; the last one where no step is named."""
        with self._rpc.unary(context, NAME, "GetEvaluation") as call:
            job = self._seen(call, request.job)
            if not request.HasField("step") and job.test_nll is None:
                raise WrongState(f"Job {job.id!r} has no evaluation yet.")
            step = request.step if request.HasField("step") else job.test_step
            return job_wire.evaluation(step, self._backing.store().evaluations.get(job.id, step))

    def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, context: grpc.ServicerContext
    ) -> pb.ListCheckpointsResponse:
        """Return all checkpoints of the effective run, oldest first."""
        with self._rpc.unary(context, NAME, "ListCheckpoints") as call:
            store = self._backing.store()
            best = self._seen(call, request.job).best_checkpoint
            found = store.ledger.checkpoints(request.job, superseded=False)
            return pb.ListCheckpointsResponse(checkpoints=[job_wire.checkpoint(record, best) for record in found])

    def DownloadAdapter(
        self, request: pb.DownloadAdapterRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadAdapterResponse]:
        """Stream the adapter file by file, in chunks, as stored."""
        with self._rpc.stream(context, CallType.SERVER_STREAM, NAME, "DownloadAdapter") as call:
            store = self._backing.store()
            folder = adapter_folder(store, self._seen(call, request.job).id, request.checkpoint)
            for file in adapter_files(store.objects, folder):
                call.notes["file"] = file.name
                for data in store.objects.open(folder, file.path):
                    yield pb.DownloadAdapterResponse(
                        file=file.name, data=data, file_bytes=file.bytes, file_sha256=file.sha256
                    )

    def ListHosts(self, request: pb.ListHostsRequest, context: grpc.ServicerContext) -> pb.ListHostsResponse:
        """Return the hosts that are known now."""
        with self._rpc.unary(context, NAME, "ListHosts"):
            found = sorted(self._backing.store().hosts.list(), key=lambda record: record.name)
            return pb.ListHostsResponse(hosts=[job_wire.host(record) for record in found])

    def Diagnose(self, request: pb.DiagnoseRequest, context: grpc.ServicerContext) -> pb.DiagnoseResponse:
        """Run the API's own checks, then those of each host."""
        with self._rpc.stream(context, CallType.UNARY, NAME, "Diagnose"):
            return pb.DiagnoseResponse(
                checks=[
                    pb.Check(name=item.name, outcome=item.outcome, message=item.message, hint=item.hint, host=item.host)
                    for item in diagnose(self._backing.store(), self._store_url, self._registry, request.host)
                ]
            )

    def Sample(self, request: pb.SampleRequest, context: grpc.ServicerContext) -> pb.SampleResponse:
        """Sample a reply; a worker of the job's host asks its TuFT server."""
        with self._rpc.stream(context, CallType.UNARY, NAME, "Sample") as call, self._rpc.stopping(context) as stop:
            asked = sample_wire.asked(request)
            job = self._seen(call, request.job)
            call.notes["job"] = job.id
            call.spend(1)
            left = context.time_remaining() or SAMPLE_SECONDS
            sampler = Sampler(self._backing.store(), self._registry, max(0.0, left - ANSWER_SECONDS), stop)
            try:
                reply = sampler.reply(job, asked)
            except TicketTimeout:
                self._rpc.refuse_draining()
                if stop.is_set():
                    raise ClientLeft from None
                raise
            call.notes |= {"prompt_tokens": reply.prompt_tokens, "tokens": reply.tokens}
            return sample_wire.response(reply)

    def _seen(self, call: Call, job_id: str) -> JobRecord:
        """Return the record, if the caller may read it."""
        record = self._backing.store().jobs.get(job_id)
        call.caller.check_look(f"Job {record.id!r}", record.spec.owner)
        return record

    def _owned(self, call: Call, job_id: str) -> JobRecord:
        """Return the record, if the caller may change it."""
        record = self._backing.store().jobs.get(job_id)
        call.caller.check_change(f"Job {record.id!r}", record.spec.owner)
        return record

    def _readable(self, event: EventRecord, job: JobRecord) -> EventRecord:
        return readable(event, job, self._registry)

    def _update(self, entry: Entry, job: JobRecord) -> pb.WatchJobResponse:
        """Return one entry of the job's stream.

        A notice shows the job as it is now, in the state that it had then.
        """
        match entry.value:
            case EventRecord() as event:
                return pb.WatchJobResponse(event_id=entry.id, event=job_wire.event(self._readable(event, job)))
            case StepRecord() as step:
                return pb.WatchJobResponse(event_id=entry.id, step=job_wire.step(step))
            case CheckpointRecord() as checkpoint:
                best = self._backing.store().jobs.get(job.id).best_checkpoint
                return pb.WatchJobResponse(event_id=entry.id, checkpoint=job_wire.checkpoint(checkpoint, best))
            case JobNotice() as notice:
                record = self._backing.store().jobs.get(job.id)
                then = replace(record, state=notice.state, attempt=notice.attempt, host=notice.host)
                return pb.WatchJobResponse(event_id=entry.id, job=job_wire.job(then))


def _would_be(checked: Checked) -> JobRecord:
    return JobRecord(
        id="",
        spec=checked.spec,
        state=JobState.VALIDATING,
        host=checked.host,
        planned_steps=checked.cost.steps,
        cut=checked.epoch.cut,
    )


def _estimate(cost: Cost) -> pb.Estimate:
    estimate = pb.Estimate(steps=cost.steps, tokens=cost.tokens, trained_tokens=cost.loss_tokens)
    if cost.time is not None:
        time = cost.time
        estimate.seconds, estimate.seconds_low, estimate.seconds_high = time.seconds, time.low, time.high
        estimate.rate_jobs = time.jobs
        if time.gpu:
            estimate.gpu_seconds = time.seconds
        if time.hour_price is not None:
            estimate.cost, estimate.currency = time.seconds * time.hour_price / 3600, time.currency
    return estimate
