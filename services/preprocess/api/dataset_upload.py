"""An upload of conversations: its checks, its digest, and its rows on their way to the store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from services.preprocess.api.runner import Result
from services.preprocess.api.streams import ChunkPlace, check_batch, refuse_after_end, refuse_lost
from services.preprocess.datasets.build import DatasetBuild, finished
from services.preprocess.domain.bad_rows import BadRows
from services.preprocess.domain.limits import DatasetSize
from services.preprocess.domain.refusals import InvalidRequest, Violation
from services.preprocess.wire.dataset import issue_record
from services.preprocess.wire.issues import violation
from services.preprocess.wire.source import left_out_record
from services.store.records import DatasetRecord, IssueRecord, LeftOutRecord
from services.store.shards.dataset_files import DatasetWriter
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.v1 import datasets_pb2 as pb
from turnloom.v1 import types_pb2

Conversations = Sequence[types_pb2.Conversation]


class DatasetUpload:
    """The state of one stream: accept() and add() each chunk, end() it, then finished()."""

    def __init__(self, writer: DatasetWriter, on_bad: BadRows, size: DatasetSize, content: hashlib._Hash) -> None:
        self.arrived = 0  #: conversations that were sent so far
        self.ended = False  #: whether the end marker came
        self._writer = writer
        self._on_bad = on_bad
        self._size = size
        self._content = content
        self._build = DatasetBuild(writer)
        self._left_out = LeftOutRecord()

    def accept(self, place: ChunkPlace, message: pb.CreateDatasetRequest) -> Conversations:
        """Check a chunk, add it to the digest, and return its conversations.

        Raises:
            InvalidRequest, TooLarge: the chunk comes after the end, is empty, too large or wrongly numbered.
        """
        refuse_after_end(self.ended, place)
        sent = message.chunk.conversations
        check_batch(len(sent), place.field("conversations"))
        self._size.add(len(sent), message.ByteSize(), place.field("conversations"))
        if message.chunk.HasField("first"):
            self._build.seen = self._numbered(message.chunk.first, place)
            self._content.update(self._build.seen.to_bytes(8, "little"))
        for item in sent:
            self._content.update(_framed(item))
        return sent

    def add(self, sent: Conversations, results: Sequence[Result]) -> None:
        """Write the rows of an accepted chunk.

        Raises:
            InvalidRequest: a bad conversation that is not left out; paths count conversations over the whole stream.
        """
        judged: list[PreprocessedConversation | IssueRecord] = []
        violations: list[Violation] = []
        for index, (item, result) in enumerate(zip(sent, results, strict=True), start=self._build.seen):
            if not isinstance(result, PreprocessError):
                judged.append(result)
            elif self._on_bad.leaves_out(result):
                judged.append(issue_record(index, item.id, result))
            else:
                violations.append(violation(f"conversations[{index}]", result))
        if violations:
            raise InvalidRequest(violations)
        self._build.add(judged)
        self.arrived += len(sent)

    def end(self, place: ChunkPlace, marker: pb.DatasetEnd) -> None:
        """Take the end marker.

        Raises:
            InvalidRequest: it is a second one, or counts other conversations than arrived.
        """
        refuse_after_end(self.ended, place)
        self.ended = True
        refuse_lost(marker.conversations, self.arrived, place)
        self._left_out = left_out_record(marker.left_out)

    def finished(self, begun: DatasetRecord) -> DatasetRecord:
        """Commit the rows, and return the finished record.

        Raises:
            InvalidRequest: no conversation gave a row.
        """
        self._refuse_empty()
        totals = self._build.totals()
        totals = replace(totals, skipped=totals.skipped + self._left_out.unreadable)
        return finished(begun, self._writer.commit(), totals, self._left_out)

    def _numbered(self, first: int, place: ChunkPlace) -> int:
        """Return the checked number of a chunk's first conversation, after rows that its sender could not read."""
        least, most = self._build.seen, self._size.most_conversations
        if not least <= first <= most:
            sentence = f"is {first}; give {least} to {most}."
            raise InvalidRequest([Violation(place.field("first"), sentence)])
        return first

    def _refuse_empty(self) -> None:
        if self.arrived != self._build.skipped:
            return
        said = "is empty"
        if self.arrived:
            many = self.arrived > 1
            which = f"all {self.arrived} conversations are bad, the first" if many else "its only conversation is bad"
            said = f"{which}: {self._build.issues[0].message}"
        raise InvalidRequest(
            [Violation("chunk.conversations", f"{said}; send at least one conversation that gives an example.")]
        )


def header_digest(asked: pb.CreateDatasetHeader) -> hashlib._Hash:
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
