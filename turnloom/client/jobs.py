"""`client.jobs`: create, steer and watch jobs, and fetch their results."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, Unpack

from turnloom import errors
from turnloom.client.resource import CALL_SECONDS, TRANSFER_SECONDS, WORK_SECONDS, Renamed, Resource, pages
from turnloom.foreign.json_text import JSON
from turnloom.transport.calls import Connection
from turnloom.transport.downloads import SavedFile, save_files
from turnloom.transport.uploads import as_messages
from turnloom.transport.watching import PATIENCE_SECONDS, STREAM_SECONDS, follow
from turnloom.v1 import training_pb2 as tr
from turnloom.v1 import types_pb2 as ty
from turnloom.v1.training_pb2_grpc import FineTuningServiceStub
from turnloom.wire.options import HyperparameterFields, hyperparameters

if TYPE_CHECKING:
    from turnloom.wire.evaluations import Evaluation

TERMINAL: Final = (tr.JOB_STATE_SUCCEEDED, tr.JOB_STATE_FAILED, tr.JOB_STATE_CANCELLED)
CheckpointList: TypeAlias = list[tr.Checkpoint]
FileList: TypeAlias = list[SavedFile]


class JobFields(HyperparameterFields, total=False):
    """Fields of a job, beside its model and training data: those of Hyperparameters, and these."""

    test_dataset: str  #: dataset id; absent: no evaluation
    metadata: Mapping[str, str]  #: free labels
    host: str  #: GPU host; absent: one that serves the model and rank
    start_from: tr.StartFrom | None  #: begin from a job's checkpoint
    sample_prompts: Iterable[ty.Conversation | Mapping[str, JSON]]  #: answered while it trains, at most 16
    sample_every: int  #: steps between these replies; absent: only at the end
    sample_max_tokens: int  #: of such a reply; absent: 128
    priority: int  #: -100 to 100; above 0 needs the scope admin; absent: 0
    mix: Mapping[str, float]  #: dataset id -> weight: 2 to 16 datasets to train on, instead of training_dataset


class Jobs(Resource):
    """The server's jobs."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._service = FineTuningServiceStub(connection.channel)

    def create(
        self, *, model: str, training_dataset: str = "", request_id: str = "", **fields: Unpack[JobFields]
    ) -> tr.Job:
        """Queue a job.

        Args:
            model: name from client.models.list().
            training_dataset: dataset id, READY; "" with `mix`.
            request_id: the same id again gives the same job. Empty: a new one is generated, so that a repeated call
                after a broken connection makes no second job.
            fields: see JobFields.
        """
        request = job_request(model, training_dataset, fields)
        request.request_id = request_id or str(uuid.uuid4())
        return self._connection.ask(self._service.CreateJob, request, CALL_SECONDS).job

    def validate(self, *, model: str, training_dataset: str = "", **fields: Unpack[JobFields]) -> tr.CreateJobResponse:
        """Return the job that create() would make, and its cost, without creating it."""
        request = job_request(model, training_dataset, fields)
        request.validate_only = True
        return self._connection.ask(self._service.CreateJob, request, CALL_SECONDS)

    def retrieve(self, job: str) -> tr.Job:
        """Return one job by id."""
        return self._connection.ask(self._service.GetJob, tr.GetJobRequest(id=job), CALL_SECONDS).job

    def list(
        self, states: Sequence[tr.JobState.ValueType] = (), metadata: Mapping[str, str] | None = None
    ) -> Iterator[tr.Job]:
        """Yield jobs, newest first, in any of these states and with all of these labels."""

        def page(token: str) -> tuple[Iterable[tr.Job], str]:
            request = tr.ListJobsRequest(page_token=token, states=states, metadata=metadata or {})
            answer = self._connection.ask(self._service.ListJobs, request, CALL_SECONDS)
            return answer.jobs, answer.next_page_token

        return pages(page)

    def cancel(self, job: str) -> tr.Job:
        """Stop a job; a running one saves a checkpoint first."""
        return self._connection.ask(self._service.CancelJob, tr.CancelJobRequest(id=job), CALL_SECONDS).job

    def pause(self, job: str) -> tr.Job:
        """Save a checkpoint and give the GPU to others."""
        return self._connection.ask(self._service.PauseJob, tr.PauseJobRequest(id=job), CALL_SECONDS).job

    def resume(self, job: str, checkpoint: str = "") -> tr.Job:
        """Queue a paused, failed or cancelled job again; checkpoint "": from the last one."""
        request = tr.ResumeJobRequest(id=job, checkpoint=checkpoint)
        return self._connection.ask(self._service.ResumeJob, request, CALL_SECONDS).job

    def move(self, job: str, host: str = "") -> tr.Job:
        """Move a queued or running job to another host; host "": to any other that serves its model."""
        request = tr.MoveJobRequest(id=job, host=host)
        return self._connection.ask(self._service.MoveJob, request, CALL_SECONDS).job

    def queue(self, limit: int = 100) -> tr.ListQueueResponse:
        """Return the jobs that wait for a host, in order, each with the reason."""
        return self._connection.ask(self._service.ListQueue, tr.ListQueueRequest(page_size=limit), CALL_SECONDS)

    def delete(self, job: str) -> None:
        """Remove a finished job, its records and its adapters."""
        self._connection.ask(self._service.DeleteJob, tr.DeleteJobRequest(id=job), CALL_SECONDS)

    def watch(
        self,
        job: str,
        start_event_id: str = "",
        *,
        patience: float = PATIENCE_SECONDS,
        on_trouble: Callable[[errors.TurnloomError], None] = lambda error: None,
    ) -> Iterator[tr.WatchJobResponse]:
        """Yield everything that happens in a job, each event once, until it is in a terminal state.

        Reopens broken connections where they broke off.

        Args:
            job: job id.
            start_event_id: event_id after which to begin; "" for the beginning.
            patience: seconds without any answer after which to give up.
            on_trouble: called with the error of each failed attempt.

        Raises:
            NotFound: at once.
            OutOfRange: what comes after start_event_id is no longer kept.
        """
        self.retrieve(job)

        def start(after: str) -> Iterator[tr.WatchJobResponse]:
            request = tr.WatchJobRequest(id=job, start_event_id=after)
            return self._connection.listen(self._service.WatchJob, request, STREAM_SECONDS)

        return follow(
            start,
            lambda: self.retrieve(job).state in TERMINAL,
            lambda update: update.event_id,
            after=start_event_id,
            patience=patience,
            on_trouble=on_trouble,
        )

    def events(self, job: str) -> Iterator[tr.Event]:
        """Yield events, oldest first."""

        def page(token: str) -> tuple[Iterable[tr.Event], str]:
            request = tr.ListEventsRequest(job=job, page_token=token)
            answer = self._connection.ask(self._service.ListEvents, request, CALL_SECONDS)
            return answer.events, answer.next_page_token

        return pages(page)

    def steps(self, job: str, start_step: int = 0) -> Iterator[tr.Step]:
        """Yield the effective series, each step once. From 0: first the evaluation before training, if any.

        Raises:
            InvalidInput: start_step is negative.
        """
        if start_step < 0:
            raise errors.InvalidInput(f"start_step is {start_step}.", hint="Give 0 or more.", field="start_step")

        def page(token: str) -> tuple[Iterable[tr.Step], str]:
            request = tr.ListStepsRequest(job=job, start_step=start_step, page_token=token)
            answer = self._connection.ask(self._service.ListSteps, request, CALL_SECONDS)
            initial = [answer.initial] if answer.HasField("initial") and not token and not start_step else []
            return [*initial, *answer.steps], answer.next_page_token

        return pages(page)

    def evaluation(self, job: str, step: int | None = None) -> Evaluation:
        """Return each test example's loss after a step (None: at the last evaluation).

        Raises:
            NotFound: nothing was recorded; the job is older than that, or the object store was away.
        """
        from turnloom.wire.evaluations import Evaluation as Losses  # noqa: PLC0415  # needs numpy

        request = tr.GetEvaluationRequest(job=job, step=step)
        return Losses.read(self._connection.ask(self._service.GetEvaluation, request, CALL_SECONDS))

    def replies(self, job: str, step: int | None = None) -> Iterator[tr.Reply]:
        """Yield what the adapter said to its sample_prompts while it trained, in order of steps and prompts.

        Args:
            job: job id.
            step: only after this step; None: after all.

        Raises:
            NotFound: there are none of that step.
        """

        def page(token: str) -> tuple[Iterable[tr.Reply], str]:
            request = tr.ListRepliesRequest(job=job, step=step, page_token=token)
            answer = self._connection.ask(self._service.ListReplies, request, CALL_SECONDS)
            return answer.replies, answer.next_page_token

        return pages(page)

    def checkpoints(self, job: str) -> CheckpointList:
        """Return the kept checkpoints, oldest first."""
        request = tr.ListCheckpointsRequest(job=job)
        return [*self._connection.ask(self._service.ListCheckpoints, request, CALL_SECONDS).checkpoints]

    def download_adapter(self, job: str, folder: Path, checkpoint: str = "") -> FileList:
        """Write the adapter's files (PEFT) to a folder; checkpoint "": the final one.

        Raises:
            DamagedDownload: a file's sha256 differs from the promised one; the file is not kept.
        """
        request = tr.DownloadAdapterRequest(job=job, checkpoint=checkpoint)
        return save_files(self._connection.listen(self._service.DownloadAdapter, request, TRANSFER_SECONDS), folder)

    def sample(
        self,
        job: str,
        conversation: ty.Conversation | Mapping[str, JSON],
        *,
        checkpoint: str = "",
        max_tokens: int = 0,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        base: bool = False,
    ) -> tr.SampleResponse:
        """Return a reply by a job's adapter, where its host samples.

        Args:
            job: job id.
            conversation: whose last message is to be answered.
            checkpoint: checkpoint id; "": the last one.
            max_tokens: of the reply; 0: 256.
            temperature: 0 takes the likeliest token each time; None: 1.
            top_p: draws from the likeliest tokens that together have this probability; None: 1.
            seed: the same one draws the same reply; None: another each time.
            base: the base model answers, without the adapter.

        Raises:
            FailedPrecondition: the server trains only, or the job has no checkpoint yet.
            Unavailable: every worker of the host trains, or its TuFT server does not answer.
            DeadlineExceeded: no worker answered within 50 s; none will do so later.
        """
        request = tr.SampleRequest(
            job=job,
            checkpoint=checkpoint,
            conversation=next(as_messages([conversation])),
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            base=base,
        )
        return self._connection.ask(self._service.Sample, request, WORK_SECONDS)

    __call__ = Renamed("", list)


def job_request(model: str, training_dataset: str, fields: JobFields) -> tr.CreateJobRequest:
    """Build the request for one job, or for the cells of a sweep, with an empty request_id."""
    own = {
        *("test_dataset", "metadata", "host", "start_from", "priority", "mix"),
        *("sample_prompts", "sample_every", "sample_max_tokens"),
    }
    return tr.CreateJobRequest(
        model=model,
        training_dataset=training_dataset,
        test_dataset=fields.get("test_dataset", ""),
        hyperparameters=hyperparameters({name: value for name, value in fields.items() if name not in own}),
        metadata=fields.get("metadata") or {},
        host=fields.get("host", ""),
        start_from=fields.get("start_from"),
        priority=fields.get("priority", 0),
        sample_prompts=as_messages(fields.get("sample_prompts", ())),
        sample_every=fields.get("sample_every", 0),
        sample_max_tokens=fields.get("sample_max_tokens", 0),
        mix=[tr.MixPart(dataset=name, weight=weight) for name, weight in (fields.get("mix") or {}).items()],
    )
