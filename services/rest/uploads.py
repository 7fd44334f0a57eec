"""Parse a multipart body as it arrives: the file goes to the store while every line is checked.

Memory stays flat whatever the size. Nothing is kept of a body that ends early, is too large or holds a bad line.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, Final

from anyio.to_thread import run_sync
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from services.rest.file_store import FileStore
from services.rest.problems import Problem, invalid
from turnloom.errors import InvalidInput
from turnloom.foreign.columns import NEEDED
from turnloom.reading.documents import line_row
from turnloom.reading.lines import MAX_LINE, Line
from turnloom.reading.rows import RawRow
from turnloom.v1.types_pb2 import Conversation
from turnloom.wire.conversations import SHAPE, from_json

MAX_FIELD: Final = 4096  #: bytes of a form field
MAX_FIELDS: Final = 16
MAX_NAME: Final = 255  #: characters of a file's name
AT_ONCE: Final = 1 << 18  #: bytes that are handed to a thread together


@dataclass(slots=True)
class LineCheck:
    """Checks the bytes of a JSONL file of conversations; keeps the first mistake and ignores the rest."""

    name: str  #: of the file, for sentences
    mistake: InvalidInput | None = None
    conversations: int = 0
    _number: int = 1
    _open: bytearray = field(default_factory=bytearray)  #: the line that has not ended yet, up to MAX_LINE + 1 bytes

    def feed(self, data: bytes) -> None:
        """Check the next bytes."""
        if self.mistake is not None:
            return
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._open += data[start : min(end + 1, start + MAX_LINE + 1)]
            self._line()
            if self.mistake is not None:
                return
            start = end + 1
        if len(self._open) <= MAX_LINE:
            self._open += data[start:]

    def finish(self) -> None:
        """Check a last line without a line end."""
        if self.mistake is None and self._open:
            self._line()
        if self.mistake is None and not self.conversations:
            self.mistake = InvalidInput(f"{self.name} holds no conversation; send one at least.", hint=SHAPE)

    def _line(self) -> None:
        data, self._open = bytes(self._open), bytearray()
        if data.strip():
            try:
                check_line(self.name, Line(0, self._number, data if len(data) <= MAX_LINE else None))
                self.conversations += 1
            except InvalidInput as error:
                self.mistake = error
        self._number += 1


def check_line(name: str, line: Line) -> None:
    """Refuse a line that does not hold a conversation.

    Raises:
        InvalidInput: names file, line and field.
    """
    row = line_row(name, line)
    if row.mistake:
        raise InvalidInput(f"{row.place} {row.mistake}", hint="Write one JSON object a line.")
    conversation_of(row)


def conversation_of(row: RawRow) -> Conversation:
    """Convert the row of a line.

    Raises:
        InvalidInput: names file, line and field; also of a column that holds NaN, without which others are no row.
    """
    for name in NEEDED:
        if name in row.unread:
            raise InvalidInput(f"{row.place}: {name}: {row.unread[name]}", field=name)
    return from_json(row.value, row.place)


@dataclass(slots=True)
class Received:
    """The contents of a multipart body."""

    fields: dict[str, str]
    filename: str
    bytes: int
    sha256: str  #: hex
    mistake: InvalidInput | None


class _Body:
    """The parts of one body, as the parser finds them. Used by one thread at a time."""

    def __init__(self, boundary: bytes, open_file: Callable[[], IO[bytes]], limit: int) -> None:
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.size = 0
        self.ended = False
        self.check: LineCheck | None = None
        self._digest = hashlib.sha256()
        self._open_file, self._limit = open_file, limit
        self._file: IO[bytes] | None = None
        self._header = self._value = b""
        self._disposition = b""
        self._field: str | None = None  #: name of the field whose part it is; None: the file's, or none that counts
        self._text = bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_end": self._on_end,
            },
        )

    def write(self, data: bytes) -> None:
        """Parse the next bytes of the body."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            raise Problem(400, f"The body is not multipart/form-data: {error}.", code="invalid_multipart") from error

    def received(self) -> Received:
        """Return the contents, once the body has ended."""
        if not self.ended:
            raise Problem(400, "The body ended before its last boundary; send it again.", code="invalid_multipart")
        if self.check is None:
            raise invalid("file", "is missing; send it as the part named file of multipart/form-data.")
        self.check.finish()
        return Received(self.fields, self.filename, self.size, self._digest.hexdigest(), self.check.mistake)

    def _begin(self) -> None:
        self._header = self._value = self._disposition = b""
        self._text = bytearray()

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._file, self._field = None, name
        if name == "file":
            if self.check is not None:
                raise invalid("file", "came twice; send one file a request.")
            self.filename = _plain(options.get(b"filename", b"").decode("utf-8", "replace"))
            self.check = LineCheck(self.filename)
            self._file = self._open_file()
        elif len(self.fields) >= MAX_FIELDS:
            raise invalid(name, f"is one field too many; send {MAX_FIELDS} at most.")

    def _data(self, data: bytes, start: int, end: int) -> None:
        piece = data[start:end]
        if self._file is None:
            self._text += piece
            if len(self._text) > MAX_FIELD:
                raise invalid(self._field or "form", f"is longer than {MAX_FIELD} bytes; send a shorter one.")
            return
        assert self.check is not None
        self.size += len(piece)
        if self.size > self._limit:
            raise too_large(self._limit)
        self._digest.update(piece)
        self._file.write(piece)
        self.check.feed(piece)

    def _end(self) -> None:
        if self._file is None and self._field is not None:
            self.fields[self._field] = self._text.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self.ended = True


async def receive(
    body: AsyncIterator[bytes], content_type: str, store: FileStore, owner: str, identity: str, limit: int
) -> Received:
    """Write the file of a multipart body to the store; put() makes it visible.

    Report a bad line only once the whole body was read. A client that still sends would not hear the answer.

    Raises:
        Problem: the body is not an upload, is too large, or holds no valid file; nothing of it is kept.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem(400, "The body is not multipart/form-data with a boundary; send that.", code="invalid_multipart")
    with ExitStack() as stack:
        parts = _Body(boundary, lambda: stack.enter_context(store.writing(owner, identity)), limit)
        waiting = bytearray()
        async for data in body:
            waiting += data
            if len(waiting) >= AT_ONCE:
                chunk, waiting = bytes(waiting), bytearray()
                await run_sync(parts.write, chunk)
        await run_sync(parts.write, bytes(waiting))
        return await run_sync(parts.received)


def too_large(limit: int) -> Problem:
    """Return the refusal of a file over the limit."""
    return Problem(
        413,
        f"file: is larger than {limit:,} bytes; send the conversations in several files, or use `turnloom dataset`.",
        param="file",
        code="file_too_large",
    )


def _plain(name: str) -> str:
    """Return a file's name without folders; an unusable name becomes upload.jsonl."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1].strip()
    return last[-MAX_NAME:] or "upload.jsonl"
