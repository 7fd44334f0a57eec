"""The connection with its resources, and the calls that process conversations without keeping anything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, Unpack

from turnloom.client.datasets import Datasets
from turnloom.client.hosts import Hosts
from turnloom.client.jobs import Jobs
from turnloom.client.models import Models
from turnloom.client.resource import CALL_SECONDS, TRANSFER_SECONDS, WORK_SECONDS, Conversations, Renamed, batch_of
from turnloom.client.sweeps import Sweeps
from turnloom.foreign.json_text import JSON
from turnloom.transport.calls import Connection, Tls
from turnloom.transport.uploads import as_messages, chunks
from turnloom.v1 import preprocess_pb2 as pp
from turnloom.v1 import types_pb2 as ty
from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceStub
from turnloom.wire.options import PreprocessFields, preprocess_options

if TYPE_CHECKING:
    from turnloom.wire.batches import Batch

ADDRESS: Final = "127.0.0.1:50051"


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """Result of preprocessing some conversations."""

    batch: Batch
    issues: Sequence[ty.Issue]  #: one per conversation that gave no example
    warnings: Sequence[ty.Warning]
    date: str  #: ISO date that templates saw
    unchecked_examples: int = 0  #: whose ids were not compared with the text


class TurnloomClient:
    """One thread-safe connection to a Turnloom server; close it, or use it in a with statement."""

    def __init__(self, address: str | None = None, token: str | None = None, *, tls: Tls | None = None) -> None:
        """Prepare a connection; the first call opens it.

        Args:
            address: host:port; None: TURNLOOM_ADDRESS, else 127.0.0.1:50051.
            token: bearer token; None: TURNLOOM_TOKEN, else none.
            tls: encryption; None: plain text, for loopback and trusted networks.
        """
        self.address = address or os.environ.get("TURNLOOM_ADDRESS") or ADDRESS
        self._connection = Connection(self.address, token or os.environ.get("TURNLOOM_TOKEN"), tls)
        self._service = PreprocessServiceStub(self._connection.channel)
        self.models = Models(self._connection)
        self.datasets = Datasets(self._connection)
        self.jobs = Jobs(self._connection)
        self.sweeps = Sweeps(self._connection)
        self.hosts = Hosts(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every call and the connection."""
        self._connection.close()

    def server_info(self) -> pp.GetServerInfoResponse:
        """Return the server's version and limits."""
        return self._connection.ask(self._service.GetServerInfo, pp.GetServerInfoRequest(), CALL_SECONDS)

    def preprocess(
        self, conversations: Conversations, *, model: str, skip_bad: bool = False, **options: Unpack[PreprocessFields]
    ) -> Preprocessed:
        """Tokenize one batch, at most server_info().max_batch_conversations.

        Raises:
            InvalidArgument: without skip_bad, the first bad conversation.
        """
        request = pp.PreprocessRequest(
            options=preprocess_options(model, options), conversations=as_messages(conversations), skip_bad=skip_bad
        )
        answer = self._connection.ask(self._service.Preprocess, request, WORK_SECONDS)
        return _preprocessed(answer)

    def stream_preprocess(
        self, conversations: Conversations, *, model: str, **options: Unpack[PreprocessFields]
    ) -> Iterator[Preprocessed]:
        """Tokenize any number of conversations, a chunk at a time, in order; bad ones come as issues."""

        def requests() -> Iterator[pp.StreamPreprocessRequest]:
            yield pp.StreamPreprocessRequest(options=preprocess_options(model, options))
            for chunk in chunks(as_messages(conversations)):
                yield pp.StreamPreprocessRequest(chunk=pp.ConversationChunk(conversations=chunk))

        for answer in self._connection.converse(self._service.StreamPreprocess, requests(), TRANSFER_SECONDS):
            yield _preprocessed(answer)

    def preview(
        self, conversation: ty.Conversation | Mapping[str, JSON], *, model: str, **options: Unpack[PreprocessFields]
    ) -> pp.PreviewConversationResponse:
        """Return one conversation token by token, for inspection."""
        request = pp.PreviewConversationRequest(
            options=preprocess_options(model, options), conversation=next(as_messages([conversation]))
        )
        return self._connection.ask(self._service.PreviewConversation, request, WORK_SECONDS)

    def lint(
        self,
        conversations: Conversations,
        *,
        model: str,
        test: Conversations = (),
        max_offenders: int = 0,
        **options: Unpack[PreprocessFields],
    ) -> pp.LintConversationsResponse:
        """Count common mistakes. `test`: the test split, for overlaps. max_offenders 0: 5 per code."""

        def requests() -> Iterator[pp.LintConversationsRequest]:
            chosen = preprocess_options(model, options)
            yield pp.LintConversationsRequest(options=pp.LintOptions(options=chosen, max_offenders=max_offenders))
            for chunk in chunks(as_messages(conversations)):
                yield pp.LintConversationsRequest(chunk=pp.ConversationChunk(conversations=chunk))
            for chunk in chunks(as_messages(test)):
                yield pp.LintConversationsRequest(test_chunk=pp.ConversationChunk(conversations=chunk))

        return self._connection.tell(self._service.LintConversations, requests(), TRANSFER_SECONDS)

    # Names from release 0.1; its models(), datasets(), jobs(), sweeps() and hosts() are the resources' __call__.
    create_dataset = Renamed("datasets", Datasets.create)
    create_dataset_from_files = Renamed("datasets", Datasets.create_from_files)
    create_dataset_from = Renamed("datasets", Datasets.create_from_source)
    dataset = Renamed("datasets", Datasets.retrieve)
    delete_dataset = Renamed("datasets", Datasets.delete)
    cancel_dataset = Renamed("datasets", Datasets.cancel)
    download_dataset = Renamed("datasets", Datasets.download)
    watch_dataset = Renamed("datasets", Datasets.watch)
    create_job = Renamed("jobs", Jobs.create)
    validate_job = Renamed("jobs", Jobs.validate)
    job = Renamed("jobs", Jobs.retrieve)
    cancel_job = Renamed("jobs", Jobs.cancel)
    pause_job = Renamed("jobs", Jobs.pause)
    resume_job = Renamed("jobs", Jobs.resume)
    delete_job = Renamed("jobs", Jobs.delete)
    watch_job = Renamed("jobs", Jobs.watch)
    events = Renamed("jobs", Jobs.events)
    steps = Renamed("jobs", Jobs.steps)
    evaluation = Renamed("jobs", Jobs.evaluation)
    checkpoints = Renamed("jobs", Jobs.checkpoints)
    download_adapter = Renamed("jobs", Jobs.download_adapter)
    sample = Renamed("jobs", Jobs.sample)
    create_sweep = Renamed("sweeps", Sweeps.create)
    sweep = Renamed("sweeps", Sweeps.retrieve)
    cancel_sweep = Renamed("sweeps", Sweeps.cancel)
    diagnose = Renamed("hosts", Hosts.diagnose)


def _preprocessed(answer: pp.PreprocessResponse | pp.StreamPreprocessResponse) -> Preprocessed:
    return Preprocessed(batch_of(answer.batch), answer.issues, answer.warnings, answer.date, answer.unchecked_examples)
