"""DatasetService: immutable sets of tokenized examples, created from a stream, listed and downloaded."""
# ruff: noqa: N802  # methods carry the names of their RPCs

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import grpc

from services.preprocess.api.backing import Backing
from services.preprocess.api.dataset_upload import DatasetUpload, header_digest
from services.preprocess.api.rpc import Call, CallType, Rpc
from services.preprocess.api.runner import Plan, Runner
from services.preprocess.api.streams import chunks, header, refuse_endless
from services.preprocess.datasets.sources.dispatch import announce, begin
from services.preprocess.datasets.states import ready
from services.preprocess.domain import limits
from services.preprocess.domain.bad_rows import BadRows
from services.preprocess.domain.refusals import InvalidRequest, Violation
from services.preprocess.settings import ApiSettings
from services.preprocess.wire.batch import batches
from services.preprocess.wire.conversation import read_each
from services.preprocess.wire.dataset import bad_rows, dataset, state_filter
from services.preprocess.wire.options import options, options_to_json
from services.preprocess.wire.source import described, source
from services.store.dataset_work import DatasetWork
from services.store.datasets import CreatedDataset
from services.store.ids import new_id
from services.store.records import DatasetRecord, DatasetSource, DatasetState
from services.store.shards.dataset_files import DatasetReader, DatasetWriter, canonical_json
from turnloom.v1 import datasets_pb2 as pb
from turnloom.v1.datasets_pb2_grpc import DatasetServiceServicer

NAME = "DatasetService"


@dataclass(frozen=True, slots=True)
class Order:
    """A checked header of CreateDataset."""

    asked: pb.CreateDatasetHeader
    plan: Plan  #: model and options
    on_bad: BadRows  #: what happens to conversations that can't be preprocessed
    begun: DatasetRecord  #: the dataset before it has rows


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
            order = self._order(asked, call.caller.name)
            if asked.HasField("source"):
                _refuse_more(messages)
                created = self._from_source(order)
            else:
                created = self._from_stream(order, messages, call, context)
            return pb.CreateDatasetResponse(dataset=dataset(created.dataset), deduplicated=created.deduplicated)

    def _order(self, asked: pb.CreateDatasetHeader, owner: str) -> Order:
        """Check a header."""
        on_bad = bad_rows(asked)
        sent_from = described(asked.sent_from, on_bad) if asked.HasField("sent_from") else None
        plan = self._runner.plan(asked.options.model, options(asked.options, "header.options"))
        return Order(asked, plan, on_bad, _begun(asked, plan, owner, sent_from))

    def _from_stream(
        self, order: Order, messages: Iterator[pb.CreateDatasetRequest], call: Call, context: grpc.ServicerContext
    ) -> CreatedDataset:
        """Make the dataset from conversations as they arrive; its record and file appear at the end."""
        datasets = self._backing.store().datasets  # refuse before the upload, not after it
        content = header_digest(order.asked)
        limit = limits.DatasetSize(self._settings.max_dataset_conversations, self._settings.max_dataset_bytes)
        with DatasetWriter(self._settings.store_url, order.begun.options_json, known=datasets.has_content) as writer:
            upload = DatasetUpload(writer, order.on_bad, limit, content)
            for place, message in chunks(messages, "header"):
                if message.HasField("end"):
                    upload.end(place, message.end)
                    continue
                sent = upload.accept(place, message)
                call.spend(len(sent))
                call.clock.restart()
                upload.add(sent, self._runner.run(order.plan, read_each(sent), call.clock.check))
                call.notes["conversations"] = upload.arrived
            if not upload.ended:
                self._rpc.refuse_left(context)
                refuse_endless()
            request_id, digest = order.asked.request_id, content.hexdigest()
            made = datasets.find_request(order.begun.owner, request_id, digest) if request_id else None
            if made is not None:
                return CreatedDataset(made, deduplicated=True)
            record = upload.finished(replace(order.begun, create_time=time.time()))
        return datasets.create(record, request_id=request_id, content_hash=digest)

    def _from_source(self, order: Order) -> CreatedDataset:
        """Return a CREATING dataset at once; workers do the rest.

        Announce it before its record, so that no crash loses it.
        """
        asked = order.asked
        record = replace(order.begun, source=source(asked.source, order.on_bad, self._settings.source_roots))
        store = self._backing.store()
        work = DatasetWork(store.redis, self._settings.shard_lease)
        announce(work, record.id)
        content = header_digest(asked).hexdigest()
        created = store.datasets.create(record, request_id=asked.request_id, content_hash=content)
        if created.dataset.state is DatasetState.CREATING:
            begin(work, store.tickets, created.dataset.id)
        return created

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
                sentence = f"is {request.start_row}; give 0 to {record.examples}, the number of the dataset's rows."
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


def _begun(asked: pb.CreateDatasetHeader, plan: Plan, owner: str, sent_from: DatasetSource | None) -> DatasetRecord:
    return DatasetRecord(
        id=new_id("ds"),
        owner=owner,
        options_json=canonical_json(options_to_json(plan.options, plan.name)),
        display_name=asked.display_name,
        model=plan.name,
        metadata=dict(asked.metadata),
        create_time=time.time(),
        template_sha256=plan.model.template_sha256,
        tokenizer_sha256=plan.model.tokenizer_sha256,
        source=sent_from,
    )
