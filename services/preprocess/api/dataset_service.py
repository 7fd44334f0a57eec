"""DatasetService: immutable sets of tokenized examples, created from a stream, listed and downloaded."""
# ruff: noqa: N802  # methods carry the names of their RPCs

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import grpc

from services.preprocess.api.backing import Backing
from services.preprocess.api.rpc import Call, CallType, Rpc
from services.preprocess.api.runner import Plan, Result, Runner
from services.preprocess.api.streams import (
    Part,
    check_batch,
    chunks,
    header,
    refuse_after_end,
    refuse_endless,
    refuse_lost,
)
from services.preprocess.datasets.build import DatasetBuild, finished
from services.preprocess.datasets.sources.dispatch import announce, begin
from services.preprocess.datasets.states import ready
from services.preprocess.domain import limits
from services.preprocess.domain.bad_rows import BadRows
from services.preprocess.domain.refusals import InvalidRequest, Violation
from services.preprocess.settings import ApiSettings
from services.preprocess.wire.batch import batches
from services.preprocess.wire.conversation import read_each
from services.preprocess.wire.dataset import bad_rows, dataset, issue_record, state_filter
from services.preprocess.wire.issues import violation
from services.preprocess.wire.options import options, options_to_json
from services.preprocess.wire.source import described, left_out_record, source
from services.store.dataset_work import DatasetWork
from services.store.ids import new_id
from services.store.records import DatasetRecord, DatasetState, IssueRecord, LeftOutRecord
from services.store.shards.dataset_files import DatasetReader, DatasetWriter, canonical_json
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.example import Preprocessed
from turnloom.v1 import datasets_pb2 as pb
from turnloom.v1 import types_pb2
from turnloom.v1.datasets_pb2_grpc import DatasetServiceServicer

NAME = "DatasetService"


class DatasetService(DatasetServiceServicer):
    """Serves datasets; records live in Redis, rows in the store."""

    def __init__(self, rpc: Rpc, backing: Backing, runner: Runner, settings: ApiSettings) -> None:
        self._rpc = rpc
        self._backing = backing
        self._runner = runner
        self._settings = settings

    def CreateDataset(
        self, request_iterator: Iterator[pb.CreateDatasetRequest], context: grpc.ServicerContext
    ) -> pb.CreateDatasetResponse:
        """Create a dataset, all or nothing.

        Rows go to a temporary file; record and file appear together at the end of the stream.
        """
        with self._rpc.stream(context, CallType.CLIENT_STREAM, NAME, "CreateDataset") as call:
            messages = self._rpc.reading(context, request_iterator)
            asked = header(messages, "header").header
            on_bad = bad_rows(asked)
            sent_from = described(asked.sent_from, on_bad) if asked.HasField("sent_from") else None
            plan = self._runner.plan(asked.options.model, options(asked.options, "header.options"))
            if asked.HasField("source"):
                _refuse_more(messages)
                return self._from_source(asked, plan, on_bad, call.caller.name)
            store = self._backing.store()  # refuse before the upload, not after it
            options_json = canonical_json(options_to_json(plan.options, plan.name))
            digest = _header_digest(asked)
            known = store.datasets.has_content
            with DatasetWriter(self._settings.store_url, options_json, known=known) as writer:
                build = DatasetBuild(writer)
                size = limits.DatasetSize(self._settings.max_dataset_conversations, self._settings.max_dataset_bytes)
                ended, arrived, left_out = False, 0, LeftOutRecord()
                for part, message in chunks(messages, "header"):
                    refuse_after_end(ended, part)
                    if message.HasField("end"):
                        ended = True
                        refuse_lost(message.end.conversations, arrived, part)
                        left_out = left_out_record(message.end.left_out)
                        continue
                    sent = message.chunk.conversations
                    check_batch(len(sent), part.field("conversations"))
                    size.add(len(sent), message.ByteSize(), part.field("conversations"))
                    call.spend(len(sent))
                    if message.chunk.HasField("first"):
                        build.seen = _numbered(message.chunk.first, build.seen, part, self._settings)
                        digest.update(build.seen.to_bytes(8, "little"))
                    for item in sent:
                        digest.update(_framed(item))
                    call.clock.restart()
                    results = self._runner.run(plan, read_each(sent), call.clock.check)
                    build.add(_judged(build.seen, part, sent, results, on_bad))
                    arrived += len(sent)
                    call.notes["conversations"] = arrived
                if not ended:
                    self._rpc.refuse_left(context)
                    refuse_endless()
                content = digest.hexdigest()
                owner = call.caller.name
                made = store.datasets.find_request(owner, asked.request_id, content) if asked.request_id else None
                if made is not None:
                    return pb.CreateDatasetResponse(dataset=dataset(made), deduplicated=True)
                _refuse_empty(build, arrived)
                begun = replace(_begun(asked, plan, options_json, owner), source=sent_from)
                totals = build.totals()
                totals = replace(totals, skipped=totals.skipped + left_out.unreadable)
                record = finished(begun, writer.commit(), totals, left_out)
            created = store.datasets.create(record, request_id=asked.request_id, content_hash=content)
            return pb.CreateDatasetResponse(dataset=dataset(created.dataset), deduplicated=created.deduplicated)

    def _from_source(
        self, asked: pb.CreateDatasetHeader, plan: Plan, on_bad: BadRows, owner: str
    ) -> pb.CreateDatasetResponse:
        """Return a CREATING dataset at once; workers do the rest.

        Announce it before its record, so that no crash loses it.
        """
        chosen = source(asked.source, on_bad, self._settings.source_roots)
        store = self._backing.store()
        work = DatasetWork(store.redis, self._settings.shard_lease)
        options_json = canonical_json(options_to_json(plan.options, plan.name))
        record = replace(_begun(asked, plan, options_json, owner), source=chosen)
        announce(work, record.id)
        content = _header_digest(asked).hexdigest()
        created = store.datasets.create(record, request_id=asked.request_id, content_hash=content)
        if created.dataset.state is DatasetState.CREATING:
            begin(work, store.tickets, created.dataset.id)
        return pb.CreateDatasetResponse(dataset=dataset(created.dataset), deduplicated=created.deduplicated)

    def GetDataset(self, request: pb.GetDatasetRequest, context: grpc.ServicerContext) -> pb.GetDatasetResponse:
        """Return one record."""
        with self._rpc.unary(context, NAME, "GetDataset") as call:
            return pb.GetDatasetResponse(dataset=dataset(self._seen(call, request.id)))

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: grpc.ServicerContext) -> pb.ListDatasetsResponse:
        """Return a page of datasets, newest first."""
        with self._rpc.unary(context, NAME, "ListDatasets") as call:
            size = limits.page_size(request.page_size)
            state = state_filter(request.state)
            page = self._backing.store().datasets.list(
                page_size=size, page_token=request.page_token, state=state, owner=call.caller.only
            )
            return pb.ListDatasetsResponse(
                datasets=[dataset(record) for record in page.items], next_page_token=page.next_page_token
            )

    def DeleteDataset(
        self, request: pb.DeleteDatasetRequest, context: grpc.ServicerContext
    ) -> pb.DeleteDatasetResponse:
        """Delete the record.

        The supervisor removes the file after a grace period, unless another record has its content.
        """
        with self._rpc.unary(context, NAME, "DeleteDataset") as call:
            self._backing.store().datasets.delete(self._owned(call, request.id))
            return pb.DeleteDatasetResponse()

    def DownloadDataset(
        self, request: pb.DownloadDatasetRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.DownloadDatasetResponse]:
        """Stream rows from start_row on, about 1 MiB a message."""
        with self._rpc.stream(context, CallType.SERVER_STREAM, NAME, "DownloadDataset") as call:
            record = ready(self._seen(call, request.id))
            if request.start_row > record.examples:
                sentence = f"is {request.start_row}; the dataset has {record.examples} rows."
                raise InvalidRequest([Violation("start_row", sentence)])
            reader = DatasetReader(record.uri)
            try:
                for batch in batches(reader, request.start_row, limits.CHUNK_BYTES):
                    yield pb.DownloadDatasetResponse(batch=batch)
                call.notes["rows"] = record.examples - request.start_row
            finally:
                reader.close()

    def WatchDataset(
        self, request: pb.WatchDatasetRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchDatasetResponse]:
        """Stream the record whenever it changes; the last message is the final record."""
        with (
            self._rpc.stream(context, CallType.SERVER_STREAM, NAME, "WatchDataset") as call,
            self._rpc.stopping(context) as stop,
        ):
            self._seen(call, request.id)
            for record in self._backing.store().datasets.watch(request.id, stop=stop):
                yield pb.WatchDatasetResponse(dataset=dataset(record))
            self._rpc.refuse_draining()

    def CancelDataset(
        self, request: pb.CancelDatasetRequest, context: grpc.ServicerContext
    ) -> pb.CancelDatasetResponse:
        """Cancel a dataset that is still being made."""
        with self._rpc.unary(context, NAME, "CancelDataset") as call:
            datasets = self._backing.store().datasets
            datasets.cancel(self._owned(call, request.id))
            return pb.CancelDatasetResponse(dataset=dataset(datasets.get(request.id)))

    def _seen(self, call: Call, dataset_id: str) -> DatasetRecord:
        """Return the record, if the caller may read it."""
        record = self._backing.store().datasets.get(dataset_id)
        call.caller.check_look(f"Dataset {record.id!r}", record.owner)
        return record

    def _owned(self, call: Call, dataset_id: str) -> str:
        """Return the id, if the caller may change its dataset."""
        record = self._backing.store().datasets.get(dataset_id)
        call.caller.check_change(f"Dataset {record.id!r}", record.owner)
        return record.id


def _refuse_more(messages: Iterator[pb.CreateDatasetRequest]) -> None:
    if next(messages, None) is not None:
        sentence = "comes after a header that names a source; send a source or conversations, not both."
        raise InvalidRequest([Violation("stream[1]", sentence)])


def _header_digest(asked: pb.CreateDatasetHeader) -> hashlib._Hash:
    """Return a digest that is equal for equal requests.

    The request_id and the chunk boundaries are left out of it.
    """
    same = pb.CreateDatasetHeader()
    same.CopyFrom(asked)
    same.ClearField("request_id")
    return hashlib.sha256(same.SerializeToString(deterministic=True))


def _framed(item: types_pb2.Conversation) -> bytes:
    data = item.SerializeToString(deterministic=True)
    return len(data).to_bytes(8, "little") + data


def _judged(
    first: int, part: Part, sent: Sequence[types_pb2.Conversation], results: Sequence[Result], on_bad: BadRows
) -> list[Preprocessed | IssueRecord]:
    """Return results with every error as an issue, unless the first error ends the dataset.

    Raises:
        InvalidRequest: a bad conversation that is not left out; paths count conversations over the whole stream.
    """
    judged: list[Preprocessed | IssueRecord] = []
    violations: list[Violation] = []
    for offset, (item, result) in enumerate(zip(sent, results, strict=True)):
        if not isinstance(result, PreprocessError):
            judged.append(result)
        elif on_bad.leaves_out(result):
            judged.append(issue_record(first + offset, item.id, result))
        else:
            violations.append(violation(f"conversations[{first + offset}]", result))
    if violations:
        raise InvalidRequest(violations)
    return judged


def _numbered(first: int, seen: int, part: Part, settings: ApiSettings) -> int:
    """Return the checked number of a chunk's first conversation, after rows that its sender could not read."""
    if not seen <= first <= settings.max_dataset_conversations:
        sentence = f"is {first}; it must be at least {seen} and at most {settings.max_dataset_conversations}."
        raise InvalidRequest([Violation(part.field("first"), sentence)])
    return first


def _refuse_empty(build: DatasetBuild, arrived: int) -> None:
    if arrived == build.skipped:
        said = "is empty"
        if arrived:
            which = f"all {arrived} conversations are bad, the first" if arrived > 1 else "its only conversation is bad"
            said = f"{which}: {build.issues[0].message}"
        raise InvalidRequest([Violation("chunk.conversations", f"{said}; a dataset needs at least one example.")])


def _begun(asked: pb.CreateDatasetHeader, plan: Plan, options_json: str, owner: str) -> DatasetRecord:
    return DatasetRecord(
        id=new_id("ds"),
        owner=owner,
        options_json=options_json,
        display_name=asked.display_name,
        model=plan.name,
        metadata=dict(asked.metadata),
        create_time=time.time(),
        template_sha256=plan.model.template_sha256,
        tokenizer_sha256=plan.model.tokenizer_sha256,
    )
