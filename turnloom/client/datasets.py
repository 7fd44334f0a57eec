"""`client.datasets`: send conversations or name a source, and get rows of tokens."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Unpack

from turnloom import errors
from turnloom.client.resource import CALL_SECONDS, TRANSFER_SECONDS, Conversations, Renamed, Resource, batch_of, pages
from turnloom.transport.calls import Connection
from turnloom.transport.uploads import as_messages, numbered_chunks
from turnloom.transport.watching import PATIENCE_SECONDS, STREAM_SECONDS, follow
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import types_pb2 as ty
from turnloom.v1.datasets_pb2_grpc import DatasetServiceStub
from turnloom.wire.options import PreprocessFields, preprocess_options

if TYPE_CHECKING:
    from turnloom.reading.local_sources import LocalPart
    from turnloom.wire.batches import Batch

MADE: Final = (ds.DATASET_STATE_READY, ds.DATASET_STATE_FAILED, ds.DATASET_STATE_CANCELLED)


class DatasetFields(PreprocessFields, total=False):
    """Fields for every way to create a dataset, beside the model: those of PreprocessOptions, and these."""

    display_name: str  #: for people
    request_id: str  #: the same id again gives the same dataset; absent: a new one is made up
    metadata: Mapping[str, str]  #: free labels
    skip_too_long: bool  #: leave out, and count, conversations that max_length leaves nothing to train


class Datasets(Resource):
    """The server's datasets."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._service = DatasetServiceStub(connection.channel)

    def create(
        self, conversations: Conversations, *, model: str, skip_bad: bool = False, **fields: Unpack[DatasetFields]
    ) -> ds.Dataset:
        """Send conversations and return the READY dataset.

        Args:
            conversations: messages of the contract, or dictionaries as in a JSONL file; read once.
            model: name from client.models.list().
            skip_bad: leave bad conversations out and list them in `issues`, instead of failing at the first.
            fields: see DatasetFields.
        """
        header = _header(model, fields, skip_bad=skip_bad)
        return self._send(header, enumerate(as_messages(conversations)), ds.LeftOut)

    def create_from_files(
        self,
        part: LocalPart,
        *,
        model: str,
        on_sent: Callable[[int], None] = lambda _sent: None,
        **fields: Unpack[DatasetFields],
    ) -> ds.Dataset:
        """Send a part of local files, in bounded memory, and return the READY dataset with its left-out counts.

        Args:
            part: of LocalSource.parts(); its `skip_bad` decides about bad rows, here and at the server.
            model: name from client.models.list().
            on_sent: called after every chunk with the number of conversations sent.
            fields: see DatasetFields.
        """
        header = _header(model, fields, skip_bad=part.skip_bad)
        header.sent_from.CopyFrom(part.description())
        return self._send(header, part.numbered(), lambda: part.counts, on_sent)

    def create_from_source(
        self, source: ds.DatasetSource, *, model: str, skip_bad: bool = False, **fields: Unpack[DatasetFields]
    ) -> ds.Dataset:
        """Have the server read a hub dataset, file or URL; return at once, CREATING. See watch().

        Args:
            source: what to read.
            model: name from client.models.list().
            skip_bad: leave bad rows out and list them in `issues`, instead of failing at the first.
            fields: see DatasetFields.
        """
        header = _header(model, fields, skip_bad=skip_bad)
        header.source.CopyFrom(source)
        requests = [ds.CreateDatasetRequest(header=header)]
        return self._connection.tell(self._service.CreateDataset, requests, CALL_SECONDS).dataset

    def _send(
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

        return self._connection.tell(self._service.CreateDataset, requests(), TRANSFER_SECONDS).dataset

    def retrieve(self, dataset: str) -> ds.Dataset:
        """Return one dataset by id."""
        request = ds.GetDatasetRequest(id=dataset)
        return self._connection.ask(self._service.GetDataset, request, CALL_SECONDS).dataset

    def list(self, state: ds.DatasetState.ValueType = ds.DATASET_STATE_UNSPECIFIED) -> Iterator[ds.Dataset]:
        """Yield datasets, newest first; UNSPECIFIED: in any state."""

        def page(token: str) -> tuple[Iterable[ds.Dataset], str]:
            request = ds.ListDatasetsRequest(page_token=token, state=state)
            answer = self._connection.ask(self._service.ListDatasets, request, CALL_SECONDS)
            return answer.datasets, answer.next_page_token

        return pages(page)

    def delete(self, dataset: str) -> None:
        """Delete a dataset that no unfinished job uses."""
        self._connection.ask(self._service.DeleteDataset, ds.DeleteDatasetRequest(id=dataset), CALL_SECONDS)

    def cancel(self, dataset: str) -> ds.Dataset:
        """Stop making a dataset."""
        request = ds.CancelDatasetRequest(id=dataset)
        return self._connection.ask(self._service.CancelDataset, request, CALL_SECONDS).dataset

    def download(self, dataset: str, start_row: int = 0) -> Iterator[Batch]:
        """Yield the rows in order, about 1 MiB at a time."""
        request = ds.DownloadDatasetRequest(id=dataset, start_row=start_row)
        for answer in self._connection.listen(self._service.DownloadDataset, request, TRANSFER_SECONDS):
            yield batch_of(answer.batch)

    def watch(
        self,
        dataset: str,
        *,
        patience: float = PATIENCE_SECONDS,
        on_trouble: Callable[[errors.TurnloomError], None] = lambda error: None,
    ) -> Iterator[ds.Dataset]:
        """Yield the record now and after each change, until it is READY, FAILED or CANCELLED.

        Reopens broken connections.

        Args:
            dataset: dataset id.
            patience: seconds without any answer after which to give up.
            on_trouble: called with the error of each failed attempt.

        Raises:
            NotFound: at once.
        """
        state: ds.Dataset | None = None

        def start(_: str) -> Iterator[ds.WatchDatasetResponse]:
            request = ds.WatchDatasetRequest(id=dataset)
            return self._connection.listen(self._service.WatchDataset, request, STREAM_SECONDS)

        for answer in follow(
            start,
            lambda: self.retrieve(dataset).state in MADE,
            lambda _: "",  # every stream begins with the record as it is
            patience=patience,
            on_trouble=on_trouble,
        ):
            if answer.dataset != state:
                state = answer.dataset
                yield state
            if state.state in MADE:
                return

    __call__ = Renamed("", list)


def _header(model: str, fields: DatasetFields, *, skip_bad: bool) -> ds.CreateDatasetHeader:
    own = ("display_name", "request_id", "metadata", "skip_too_long")
    bad_rows = ds.BAD_ROWS_SKIP_TOO_LONG if fields.get("skip_too_long") else ds.BAD_ROWS_FAIL
    return ds.CreateDatasetHeader(
        display_name=fields.get("display_name", ""),
        options=preprocess_options(model, {name: value for name, value in fields.items() if name not in own}),
        bad_rows=ds.BAD_ROWS_SKIP if skip_bad else bad_rows,
        request_id=fields.get("request_id") or str(uuid.uuid4()),
        metadata=fields.get("metadata") or {},
    )
