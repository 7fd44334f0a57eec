"""Read rows of an open file from the first on: JSON lines, a JSON document, CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import IO, Final, cast

from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import JSON, loads, parse, why_not_json
from turnloom.plural import counted
from turnloom.reading.file_kinds import kind_of
from turnloom.reading.lines import MAX_LINE, Line, lines
from turnloom.reading.rows import RawRow, parsed, row_of

MAX_DOCUMENT: Final = 32 << 20  #: bytes of a JSON document, which is read as a whole


def rows_of(name: str, file: io.BufferedIOBase, max_document: int = MAX_DOCUMENT) -> Iterator[RawRow]:
    """Yield all rows of a file, in order.

    Args:
        name: of the file, which determines its kind; JSON lines if it does not.
        file: open and decompressed.
        max_document: limit for a JSON document, bytes.

    Raises:
        InvalidInput: the file as a whole is malformed, or a JSON document is too long.
        OSError, ValueError: the file can't be read.
    """
    kind = kind_of(name)
    if kind == "csv":
        yield from _csv_rows(name, file)
    elif kind == "json" and not (file.seekable() and is_lines(file)):
        yield from _document_rows(name, file, max_document)
    else:
        yield from (line_row(name, line) for line in lines(file))


def line_row(place: str, line: Line) -> RawRow:
    """Parse one line as a row."""
    where = f"{place}, line {line.number}"
    if line.data is None:
        return RawRow(where, mistake=f"is longer than {MAX_LINE >> 20} MB.")
    return parsed(where, line.data)


def is_lines(file: io.BufferedIOBase) -> bool:
    """Return whether a .json file holds JSON lines: its first line is a whole object, and there are more.

    Rewinds the file to its beginning.
    """
    found = lines(file)
    first = next(found, None)
    whole = first is not None and first.data is not None and isinstance(parsed("", first.data).value, dict)
    more = whole and next(found, None) is not None
    file.seek(0)
    return more


def _document_rows(name: str, file: io.BufferedIOBase, limit: int) -> Iterator[RawRow]:
    data = file.read(limit + 1)
    if len(data) > limit:
        raise InvalidInput(
            f"{name} is longer than {limit >> 20} MB, and a JSON document is read as a whole.",
            hint="Write JSON lines: one row a line, in a file that ends in .jsonl.",
        )
    try:
        document = loads(data.decode("utf-8-sig"))
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # lines, in a file without a middle
            yield from (line_row(name, line) for line in lines(io.BytesIO(data)))
            return
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInput(f"{name}{line} {why_not_json(error)}") from error
    del data
    if isinstance(document, list) and not _is_messages(document):
        yield from (row_of(f"{name}, item {index}", member) for index, member in enumerate(document))
    else:
        yield row_of(name, document)


def _is_messages(members: Sequence[object], keys: Sequence[str] = ("role",)) -> bool:
    return bool(members) and isinstance(members[0], dict) and not members[0].keys().isdisjoint(keys)


def _csv_rows(url: str, file: io.BufferedIOBase) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_LINE)
    # Only line ends of files end a line here; codecs' reader also ends one at U+2028, a form feed and others of a text.
    text = io.TextIOWrapper(cast("IO[bytes]", file), encoding="utf-8-sig", newline="")
    reader = csv.reader(text, strict=True)
    head: Sequence[str] | None = None
    try:
        first = next(text, "")
        delimiter = "\t" if ".tsv" in url.lower() else _delimiter(first)
        reader = csv.reader(chain([first], text), delimiter=delimiter, strict=True)
        for cells in reader:
            if head is None:
                head = _head(url, cells)
            elif cells:
                yield _csv_row(f"{url}, line {reader.line_num}", head, cells)
    except (csv.Error, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):  # of a block that was read ahead, so its line is not known
            raise InvalidInput(f"{url} is not UTF-8.", hint="Save the file as UTF-8.") from error
        hint = "Where the next row begins can't be told, so no bad row can be left out here."
        raise InvalidInput(f"{url}, line {reader.line_num}: {error}.", hint=hint) from error
    finally:
        text.detach()  # whoever opened the file closes it


def _head(url: str, names: Sequence[str]) -> Sequence[str]:
    """Return the names of the columns; raises InvalidInput that names one that stands twice."""
    twice = next((name for at, name in enumerate(names) if name and name in names[:at]), "")
    if twice:
        raise InvalidInput(f"{url} has the column {twice} twice.", hint="Rename one of them.")
    return names


def _delimiter(head: str) -> str:
    """Return the column separator: a comma if there is any, else what spreadsheets of other locales write."""
    parts = {delimiter: len(next(csv.reader([head], delimiter=delimiter), [])) for delimiter in ",;\t|"}
    return "," if parts[","] > 1 else max(parts, key=lambda delimiter: parts[delimiter])


def _csv_row(place: str, head: Sequence[str], cells: Sequence[str]) -> RawRow:
    if len(cells) != len(head):
        return RawRow(place, mistake=f"has {counted(len(cells), 'cell')} for {counted(len(head), 'column')}.")
    return RawRow(place, {name: _cell(cell) for name, cell in zip(head, cells, strict=True)})


def _cell(text: str) -> JSON:
    """Return a cell's text, or the messages that it spells; any other JSON may be a reply. An empty cell is null."""
    if not text.startswith("[{"):
        return text or None
    try:
        found = parse(text)
    except ValueError:
        return text
    return found if isinstance(found, list) and _is_messages(found, ("role", "from")) else text
