"""Every RPC of the contract as a method: keyword arguments in, the contract's messages and numpy views out.

    with TurnloomClient("127.0.0.1:50051") as client:
        dataset = client.create_dataset(read("chats.jsonl"), model="qwen3", max_length=1024)
        job = client.create_job(model="qwen3", training_dataset=dataset.id, lora_rank=16)
        for update in client.watch_job(job.id): ...

Every call has a deadline and raises the classes of turnloom.errors. Knows no files and no terminal.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar, Unpack

from turnloom import errors
from turnloom.batches import Batch
from turnloom.calls import Connection, Tls
from turnloom.conversations import JSON
from turnloom.downloads import SavedFile, save_files
from turnloom.evaluations import Evaluation
from turnloom.local_sources import LocalPart
from turnloom.options import HyperparameterFields, PreprocessFields, hyperparameters, preprocess_options
from turnloom.uploads import as_messages, chunks, numbered_chunks
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import preprocess_pb2 as pp
from turnloom.v1 import training_pb2 as tr
from turnloom.v1 import types_pb2 as ty
from turnloom.v1.datasets_pb2_grpc import DatasetServiceStub
from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceStub
from turnloom.v1.training_pb2_grpc import FineTuningServiceStub
from turnloom.watching import PATIENCE_SECONDS, STREAM_SECONDS, follow

ADDRESS: Final = "127.0.0.1:50051"
CALL_SECONDS: Final = 30.0  #: deadline of a question with a short answer
WORK_SECONDS: Final = 120.0  #: deadline of a call that computes, or that a GPU host answers (it gets 60 s itself)
TRANSFER_SECONDS: Final = 3600.0  #: deadline of a stream of data
MADE: Final = (ds.DATASET_STATE_READY, ds.DATASET_STATE_FAILED, ds.DATASET_STATE_CANCELLED)
TERMINAL: Final = (tr.JOB_STATE_SUCCEEDED, tr.JOB_STATE_FAILED, tr.JOB_STATE_CANCELLED)

Conversations: TypeAlias = Iterable[ty.Conversation | Mapping[str, JSON]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """What came of some conversations."""

    batch: Batch
    issues: Sequence[ty.Issue]  #: one per conversation that gave no example
    warnings: Sequence[ty.Warning]
    date: str  #: ISO date that templates saw


class TurnloomClient:
    """One connection to a Turnloom server. Safe for several threads; close it, or use it in a with statement."""

    def __init__(self, address: str | None = None, token: str | None = None, *, tls: Tls | None = None) -> None:
        """Opens nothing yet.

        Args:
            address: host:port; None: TURNLOOM_ADDRESS, else 127.0.0.1:50051.
            token: bearer token; None: TURNLOOM_TOKEN, else none.
            tls: encryption; None: plain text, for loopback and trusted networks.
        """
        self.address = address or os.environ.get("TURNLOOM_ADDRESS") or ADDRESS
        self._connection = Connection(self.address, token or os.environ.get("TURNLOOM_TOKEN"), tls)
        self._preprocess = PreprocessServiceStub(self._connection.channel)
        self._datasets = DatasetServiceStub(self._connection.channel)
        self._training = FineTuningServiceStub(self._connection.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call and the connection."""
        self._connection.close()

    # Preprocessing

    def server_info(self) -> pp.GetServerInfoResponse:
        """Version and limits of the server."""
        return self._connection.ask(self._preprocess.GetServerInfo, pp.GetServerInfoRequest(), CALL_SECONDS)

    def models(self) -> list[pp.Model]:
        """Models that the server can preprocess for, by name."""

        def page(token: str) -> tuple[Iterable[pp.Model], str]:
            request = pp.ListModelsRequest(page_token=token)
            answer = self._connection.ask(self._preprocess.ListModels, request, CALL_SECONDS)
            return answer.models, answer.next_page_token

        return list(_pages(page))

    def preprocess(
        self, conversations: Conversations, *, model: str, skip_bad: bool = False, **options: Unpack[PreprocessFields]
    ) -> Preprocessed:
        """One batch, at most server_info().max_batch_conversations.

        Raises:
            InvalidArgument: without skip_bad, the first bad conversation.
        """
        request = pp.PreprocessRequest(
            options=preprocess_options(model, options), conversations=as_messages(conversations), skip_bad=skip_bad
        )
        answer = self._connection.ask(self._preprocess.Preprocess, request, WORK_SECONDS)
        return Preprocessed(Batch(answer.batch), answer.issues, answer.warnings, answer.date)

    def stream_preprocess(
        self, conversations: Conversations, *, model: str, **options: Unpack[PreprocessFields]
    ) -> Iterator[Preprocessed]:
        """Any number of conversations, a chunk at a time, in order; bad ones come as issues."""

        def requests() -> Iterator[pp.StreamPreprocessRequest]:
            yield pp.StreamPreprocessRequest(options=preprocess_options(model, options))
            for chunk in chunks(as_messages(conversations)):
                yield pp.StreamPreprocessRequest(chunk=pp.ConversationChunk(conversations=chunk))

        for answer in self._connection.converse(self._preprocess.StreamPreprocess, requests(), TRANSFER_SECONDS):
            yield Preprocessed(Batch(answer.batch), answer.issues, answer.warnings, answer.date)

    def preview(
        self, conversation: ty.Conversation | Mapping[str, JSON], *, model: str, **options: Unpack[PreprocessFields]
    ) -> pp.PreviewConversationResponse:
        """One conversation token by token, to look at."""
        request = pp.PreviewConversationRequest(
            options=preprocess_options(model, options), conversation=next(as_messages([conversation]))
        )
        return self._connection.ask(self._preprocess.PreviewConversation, request, WORK_SECONDS)

    def lint(
        self,
        conversations: Conversations,
        *,
        model: str,
        test: Conversations = (),
        max_offenders: int = 0,
        **options: Unpack[PreprocessFields],
    ) -> pp.LintConversationsResponse:
        """What usually goes wrong, counted. `test`: the test split, for overlaps. max_offenders 0: 5 per code."""

        def requests() -> Iterator[pp.LintConversationsRequest]:
            chosen = preprocess_options(model, options)
            yield pp.LintConversationsRequest(options=pp.LintOptions(options=chosen, max_offenders=max_offenders))
            for chunk in chunks(as_messages(conversations)):
                yield pp.LintConversationsRequest(chunk=pp.ConversationChunk(conversations=chunk))
            for chunk in chunks(as_messages(test)):
                yield pp.LintConversationsRequest(test_chunk=pp.ConversationChunk(conversations=chunk))

        return self._connection.tell(self._preprocess.LintConversations, requests(), TRANSFER_SECONDS)

    # Datasets

    def create_dataset(
        self,
        conversations: Conversations,
        *,
        model: str,
        display_name: str = "",
        skip_bad: bool = False,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[PreprocessFields],
    ) -> ds.Dataset:
        """Sends conversations and returns the dataset, READY.

        Args:
            conversations: messages of the contract, or dictionaries as in a JSONL file; read once.
            model: name from models().
            display_name: for people.
            skip_bad: leave bad conversations out and list them in `issues`, instead of failing at the first.
            request_id: the same id again gives the same dataset. Empty: a new one is made up.
            metadata: free labels.
            options: fields of PreprocessOptions.
        """
        header = _header(
            model=model,
            display_name=display_name,
            skip_bad=skip_bad,
            request_id=request_id,
            metadata=metadata,
            options=options,
        )

        numbered = enumerate(as_messages(conversations))
        return self._send_dataset(header, numbered, ds.LeftOut)

    def create_dataset_from_files(
        self,
        part: LocalPart,
        *,
        model: str,
        display_name: str = "",
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        on_sent: Callable[[int], None] = lambda _sent: None,
        **options: Unpack[PreprocessFields],
    ) -> ds.Dataset:
        """Sends a part of local files, in bounded memory, and returns the dataset, READY; it knows what was left out.

        Args:
            part: of LocalSource.parts(); its `skip_bad` says what happens to bad rows, here and at the server.
            model: name from models().
            display_name: for people.
            request_id: the same id again gives the same dataset. Empty: a new one is made up.
            metadata: free labels.
            on_sent: told after every chunk how many conversations were sent.
            options: fields of PreprocessOptions.
        """
        header = _header(
            model=model,
            display_name=display_name,
            skip_bad=part.skip_bad,
            request_id=request_id,
            metadata=metadata,
            options=options,
        )
        header.sent_from.CopyFrom(part.description())
        return self._send_dataset(header, part.numbered(), lambda: part.counts, on_sent)

    def _send_dataset(
        self,
        header: ds.CreateDatasetHeader,
        numbered: Iterable[tuple[int, ty.Conversation]],
        left_out: Callable[[], ds.LeftOut],
        on_sent: Callable[[int], None] = lambda _sent: None,
    ) -> ds.Dataset:
        def requests() -> Iterator[ds.CreateDatasetRequest]:
            yield ds.CreateDatasetRequest(header=header)
            sent = due = 0
            for first, chunk in numbered_chunks(numbered):
                gap = {"first": first} if first != due else {}
                yield ds.CreateDatasetRequest(chunk=ds.DatasetChunk(conversations=chunk, **gap))
                sent, due = sent + len(chunk), first + len(chunk)
                on_sent(sent)
            yield ds.CreateDatasetRequest(end=ds.DatasetEnd(conversations=sent, left_out=left_out()))

        return self._connection.tell(self._datasets.CreateDataset, requests(), TRANSFER_SECONDS).dataset

    def create_dataset_from(
        self,
        source: ds.DatasetSource,
        *,
        model: str,
        display_name: str = "",
        skip_bad: bool = False,
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[PreprocessFields],
    ) -> ds.Dataset:
        """Has the server read a hub dataset, file or URL; returns at once, CREATING. See watch_dataset()."""
        header = _header(
            model=model,
            display_name=display_name,
            skip_bad=skip_bad,
            request_id=request_id,
            metadata=metadata,
            options=options,
        )
        header.source.CopyFrom(source)
        requests = [ds.CreateDatasetRequest(header=header)]
        return self._connection.tell(self._datasets.CreateDataset, requests, CALL_SECONDS).dataset

    def dataset(self, dataset: str) -> ds.Dataset:
        """One dataset by id."""
        request = ds.GetDatasetRequest(id=dataset)
        return self._connection.ask(self._datasets.GetDataset, request, CALL_SECONDS).dataset

    def datasets(self, state: ds.DatasetState.ValueType = ds.DATASET_STATE_UNSPECIFIED) -> Iterator[ds.Dataset]:
        """Newest first; UNSPECIFIED: in any state."""

        def page(token: str) -> tuple[Iterable[ds.Dataset], str]:
            request = ds.ListDatasetsRequest(page_token=token, state=state)
            answer = self._connection.ask(self._datasets.ListDatasets, request, CALL_SECONDS)
            return answer.datasets, answer.next_page_token

        return _pages(page)

    def delete_dataset(self, dataset: str) -> None:
        """Removes a dataset that no unfinished job uses."""
        self._connection.ask(self._datasets.DeleteDataset, ds.DeleteDatasetRequest(id=dataset), CALL_SECONDS)

    def cancel_dataset(self, dataset: str) -> ds.Dataset:
        """Stops making a dataset."""
        request = ds.CancelDatasetRequest(id=dataset)
        return self._connection.ask(self._datasets.CancelDataset, request, CALL_SECONDS).dataset

    def download_dataset(self, dataset: str, start_row: int = 0) -> Iterator[Batch]:
        """The rows in order, about 1 MiB at a time."""
        request = ds.DownloadDatasetRequest(id=dataset, start_row=start_row)
        for answer in self._connection.listen(self._datasets.DownloadDataset, request, TRANSFER_SECONDS):
            yield Batch(answer.batch)

    def watch_dataset(
        self,
        dataset: str,
        *,
        patience: float = PATIENCE_SECONDS,
        on_trouble: Callable[[errors.TurnloomError], None] = lambda error: None,
    ) -> Iterator[ds.Dataset]:
        """The record now and whenever it changes, until it is READY, FAILED or CANCELLED; survives broken connections.

        Args:
            dataset: dataset id.
            patience: seconds without any answer after which to give up.
            on_trouble: told of each attempt that failed.

        Raises:
            NotFound: at once.
        """
        state: ds.Dataset | None = None

        def start(_: str) -> Iterator[ds.WatchDatasetResponse]:
            request = ds.WatchDatasetRequest(id=dataset)
            return self._connection.listen(self._datasets.WatchDataset, request, STREAM_SECONDS)

        for answer in follow(
            start,
            lambda: self.dataset(dataset).state in MADE,
            lambda _: "",  # every stream begins with the record as it is
            patience=patience,
            on_trouble=on_trouble,
        ):
            if answer.dataset != state:
                state = answer.dataset
                yield state
            if state.state in MADE:
                return

    # Jobs

    def create_job(
        self,
        *,
        model: str,
        training_dataset: str,
        test_dataset: str = "",
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        host: str = "",
        start_from: tr.StartFrom | None = None,
        **fields: Unpack[HyperparameterFields],
    ) -> tr.Job:
        """Queues a job.

        Args:
            model: name from models().
            training_dataset: dataset id, READY.
            test_dataset: dataset id; empty: no evaluation.
            request_id: the same id again gives the same job. Empty: a new one is made up, so that a repeated call
                after a broken connection makes no second job.
            metadata: free labels.
            host: GPU host; empty: one that serves the model and rank.
            start_from: begin from a job's checkpoint.
            fields: fields of Hyperparameters.
        """
        request = _job_request(
            model=model,
            training_dataset=training_dataset,
            test_dataset=test_dataset,
            metadata=metadata,
            host=host,
            start_from=start_from,
            fields=fields,
        )
        request.request_id = request_id or str(uuid.uuid4())
        return self._connection.ask(self._training.CreateJob, request, CALL_SECONDS).job

    def validate_job(
        self,
        *,
        model: str,
        training_dataset: str,
        test_dataset: str = "",
        metadata: Mapping[str, str] | None = None,
        host: str = "",
        start_from: tr.StartFrom | None = None,
        **fields: Unpack[HyperparameterFields],
    ) -> tr.CreateJobResponse:
        """What create_job() would make and what it would cost. Makes nothing."""
        request = _job_request(
            model=model,
            training_dataset=training_dataset,
            test_dataset=test_dataset,
            metadata=metadata,
            host=host,
            start_from=start_from,
            fields=fields,
        )
        request.validate_only = True
        return self._connection.ask(self._training.CreateJob, request, CALL_SECONDS)

    def job(self, job: str) -> tr.Job:
        """One job by id."""
        return self._connection.ask(self._training.GetJob, tr.GetJobRequest(id=job), CALL_SECONDS).job

    def jobs(
        self, states: Sequence[tr.JobState.ValueType] = (), metadata: Mapping[str, str] | None = None
    ) -> Iterator[tr.Job]:
        """Newest first; only in these states, and with all of these labels."""

        def page(token: str) -> tuple[Iterable[tr.Job], str]:
            request = tr.ListJobsRequest(page_token=token, states=states, metadata=metadata or {})
            answer = self._connection.ask(self._training.ListJobs, request, CALL_SECONDS)
            return answer.jobs, answer.next_page_token

        return _pages(page)

    def cancel_job(self, job: str) -> tr.Job:
        """Stops a job; a running one saves a checkpoint first."""
        return self._connection.ask(self._training.CancelJob, tr.CancelJobRequest(id=job), CALL_SECONDS).job

    def pause_job(self, job: str) -> tr.Job:
        """Saves a checkpoint and gives the GPU to others."""
        return self._connection.ask(self._training.PauseJob, tr.PauseJobRequest(id=job), CALL_SECONDS).job

    def resume_job(self, job: str, checkpoint: str = "") -> tr.Job:
        """Queues a paused, failed or cancelled job again; checkpoint "" is the last one."""
        request = tr.ResumeJobRequest(id=job, checkpoint=checkpoint)
        return self._connection.ask(self._training.ResumeJob, request, CALL_SECONDS).job

    def delete_job(self, job: str) -> None:
        """Removes a finished job, its records and its adapters."""
        self._connection.ask(self._training.DeleteJob, tr.DeleteJobRequest(id=job), CALL_SECONDS)

    def watch_job(
        self,
        job: str,
        start_event_id: str = "",
        *,
        patience: float = PATIENCE_SECONDS,
        on_trouble: Callable[[errors.TurnloomError], None] = lambda error: None,
    ) -> Iterator[tr.WatchJobResponse]:
        """Everything that happens in a job, each once, until it is in a terminal state; survives broken connections.

        Args:
            job: job id.
            start_event_id: event_id after which to begin; "" for the beginning.
            patience: seconds without any answer after which to give up.
            on_trouble: told of each attempt that failed.

        Raises:
            NotFound: at once.
            OutOfRange: what comes after start_event_id is no longer kept.
        """
        self.job(job)

        def start(after: str) -> Iterator[tr.WatchJobResponse]:
            request = tr.WatchJobRequest(id=job, start_event_id=after)
            return self._connection.listen(self._training.WatchJob, request, STREAM_SECONDS)

        return follow(
            start,
            lambda: self.job(job).state in TERMINAL,
            lambda update: update.event_id,
            after=start_event_id,
            patience=patience,
            on_trouble=on_trouble,
        )

    def events(self, job: str) -> Iterator[tr.Event]:
        """Events, oldest first."""

        def page(token: str) -> tuple[Iterable[tr.Event], str]:
            request = tr.ListEventsRequest(job=job, page_token=token)
            answer = self._connection.ask(self._training.ListEvents, request, CALL_SECONDS)
            return answer.events, answer.next_page_token

        return _pages(page)

    def steps(self, job: str, start_step: int = 0) -> Iterator[tr.Step]:
        """The effective series, each step once. From 0: first the evaluation before training, where there is one.

        Raises:
            InvalidInput: start_step is negative.
        """
        if start_step < 0:
            raise errors.InvalidInput(f"start_step is {start_step}.", hint="Give 0 or more.", field="start_step")

        def page(token: str) -> tuple[Iterable[tr.Step], str]:
            request = tr.ListStepsRequest(job=job, start_step=start_step, page_token=token)
            answer = self._connection.ask(self._training.ListSteps, request, CALL_SECONDS)
            initial = [answer.initial] if answer.HasField("initial") and not token and not start_step else []
            return [*initial, *answer.steps], answer.next_page_token

        return _pages(page)

    def evaluation(self, job: str, step: int | None = None) -> Evaluation:
        """What each example of the test dataset lost after a step (None: at the last evaluation).

        Raises:
            NotFound: nothing was recorded; the job is older than that, or the object store was away.
        """
        request = tr.GetEvaluationRequest(job=job, step=step)
        return Evaluation.read(self._connection.ask(self._training.GetEvaluation, request, CALL_SECONDS))

    def checkpoints(self, job: str) -> list[tr.Checkpoint]:
        """Checkpoints that are kept, oldest first."""
        request = tr.ListCheckpointsRequest(job=job)
        return list(self._connection.ask(self._training.ListCheckpoints, request, CALL_SECONDS).checkpoints)

    def download_adapter(self, job: str, folder: Path, checkpoint: str = "") -> list[SavedFile]:
        """Writes the adapter's files (PEFT) to a folder; checkpoint "" is the final one.

        Raises:
            DamagedDownload: a file whose sha256 is not the promised one; it is not kept.
        """
        request = tr.DownloadAdapterRequest(job=job, checkpoint=checkpoint)
        return save_files(self._connection.listen(self._training.DownloadAdapter, request, TRANSFER_SECONDS), folder)

    # Sweeps

    def create_sweep(
        self,
        axes: Mapping[str, Sequence[float]],
        *,
        model: str,
        training_dataset: str,
        test_dataset: str = "",
        display_name: str = "",
        request_id: str = "",
        metadata: Mapping[str, str] | None = None,
        host: str = "",
        successive_halving: bool = False,
        halving_eta: int | None = None,
        halving_rungs: Sequence[int] = (),
        **fields: Unpack[HyperparameterFields],
    ) -> tr.Sweep:
        """A job for every combination of the axes, for example {"lora_rank": [8, 16], "learning_rate": [1e-4]}.

        With `successive_halving` one cell in `halving_eta` (2) goes on at each of `halving_rungs` (steps; as many as
        fit): those with the lowest test NLL.
        """
        request = tr.CreateSweepRequest(
            base=_job_request(
                model=model,
                training_dataset=training_dataset,
                test_dataset=test_dataset,
                metadata=metadata,
                host=host,
                start_from=None,
                fields=fields,
            ),
            axes=[tr.SweepAxis(hyperparameter=name, values=values) for name, values in axes.items()],
            request_id=request_id or str(uuid.uuid4()),
            display_name=display_name,
            successive_halving=successive_halving,
            halving_eta=halving_eta,
            halving_rungs=halving_rungs,
        )
        return self._connection.ask(self._training.CreateSweep, request, WORK_SECONDS).sweep

    def sweep(self, sweep: str) -> tr.Sweep:
        """One sweep with its jobs."""
        return self._connection.ask(self._training.GetSweep, tr.GetSweepRequest(id=sweep), CALL_SECONDS).sweep

    def sweeps(self) -> Iterator[tr.Sweep]:
        """Newest first."""

        def page(token: str) -> tuple[Iterable[tr.Sweep], str]:
            request = tr.ListSweepsRequest(page_token=token)
            answer = self._connection.ask(self._training.ListSweeps, request, CALL_SECONDS)
            return answer.sweeps, answer.next_page_token

        return _pages(page)

    def cancel_sweep(self, sweep: str) -> tr.Sweep:
        """Cancels every unfinished job of a sweep."""
        return self._connection.ask(self._training.CancelSweep, tr.CancelSweepRequest(id=sweep), WORK_SECONDS).sweep

    # Hosts

    def hosts(self) -> list[tr.Host]:
        """GPU hosts that are known."""
        return list(self._connection.ask(self._training.ListHosts, tr.ListHostsRequest(), CALL_SECONDS).hosts)

    def diagnose(self, host: str = "") -> list[tr.Check]:
        """Checks that only a GPU host can make; host "": all of them."""
        request = tr.DiagnoseRequest(host=host)
        return list(self._connection.ask(self._training.Diagnose, request, WORK_SECONDS).checks)

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
    ) -> tr.SampleResponse:
        """A reply by a job's adapter, where its TuFT server samples.

        Args:
            job: job id.
            conversation: whose last message is to be answered.
            checkpoint: checkpoint id; "": the last one.
            max_tokens: of the reply; 0: 256.
            temperature: 0 takes the likeliest token each time; None: 1.
            top_p: draws from the likeliest tokens that together have this probability; None: 1.
            seed: the same one draws the same reply; None: another each time.

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
        )
        return self._connection.ask(self._training.Sample, request, WORK_SECONDS)


def _pages(page: Callable[[str], tuple[Iterable[T], str]]) -> Iterator[T]:
    """Items of all pages; the next page is asked for when the one before is used up."""
    items, token = page("")
    yield from items
    while token:
        items, token = page(token)
        yield from items


def _header(
    *,
    model: str,
    display_name: str,
    skip_bad: bool,
    request_id: str,
    metadata: Mapping[str, str] | None,
    options: PreprocessFields,
) -> ds.CreateDatasetHeader:
    return ds.CreateDatasetHeader(
        display_name=display_name,
        options=preprocess_options(model, options),
        bad_rows=ds.BAD_ROWS_SKIP if skip_bad else ds.BAD_ROWS_FAIL,
        request_id=request_id or str(uuid.uuid4()),
        metadata=metadata or {},
    )


def _job_request(
    *,
    model: str,
    training_dataset: str,
    test_dataset: str,
    metadata: Mapping[str, str] | None,
    host: str,
    start_from: tr.StartFrom | None,
    fields: HyperparameterFields,
) -> tr.CreateJobRequest:
    return tr.CreateJobRequest(
        model=model,
        training_dataset=training_dataset,
        test_dataset=test_dataset,
        hyperparameters=hyperparameters(fields),
        metadata=metadata or {},
        host=host,
        start_from=start_from,
    )
