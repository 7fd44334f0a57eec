"""Files that can't be entered in the middle: a JSON document, CSV, anything compressed. Knows no conversation."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Final

from services.preprocess.sources.errors import SourceNotReadable
from services.preprocess.sources.line_files import line_row
from services.preprocess.sources.lines import MAX_LINE, lines
from services.preprocess.sources.locating import kind_of
from services.preprocess.sources.opening import opened
from services.preprocess.sources.rows import RawRow, parse, why_not_json
from turnloom.conversations import JSON

MAX_DOCUMENT: Final = 32 << 20  #: bytes of a JSON document, which is read as a whole


def rows_of(url: str) -> Iterator[RawRow]:
    """All rows of a file, in order.

    Raises:
        SourceNotReadable: also for a JSON document that is too long to be read as a whole.
    """
    with opened(url) as file:
        if kind_of(url) == "csv":
            yield from _csv_rows(url, file)
        elif kind_of(url) == "json":
            yield from _document_rows(url, file)
        else:
            yield from (line_row(url, line) for line in lines(file))


def _document_rows(url: str, file: io.BufferedIOBase) -> Iterator[RawRow]:
    data = file.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise SourceNotReadable(
            f"{url} is longer than {MAX_DOCUMENT >> 20} MB, and a JSON document is read as a whole.",
            hint="Write JSON lines: one row a line, in a file that ends in .jsonl.",
        )
    try:
        document = parse(data.decode("utf-8-sig"))
    except ValueError as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise SourceNotReadable(f"{url}{line} {why_not_json(error)}") from error
    del data
    if isinstance(document, list) and not _is_messages(document):
        yield from (RawRow(f"{url}, item {index}", member) for index, member in enumerate(document))
    else:
        yield RawRow(url, document)


def _is_messages(members: Sequence[JSON]) -> bool:
    return bool(members) and isinstance(members[0], dict) and "role" in members[0]


def _csv_rows(url: str, file: io.BufferedIOBase) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_LINE)
    text = codecs.getreader("utf-8-sig")(file)
    reader = csv.reader(text, delimiter="\t" if ".tsv" in url.lower() else ",", strict=True)
    head: Sequence[str] | None = None
    try:
        for cells in reader:
            if head is None:
                head = cells
            elif cells:
                yield _csv_row(f"{url}, line {reader.line_num}", head, cells)
    except (csv.Error, UnicodeDecodeError) as error:
        why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        hint = "Where the next row begins can't be told, so no bad row can be left out here."
        raise SourceNotReadable(f"{url}, line {reader.line_num}: {why}.", hint) from error


def _csv_row(place: str, head: Sequence[str], cells: Sequence[str]) -> RawRow:
    if len(cells) != len(head):
        return RawRow(place, mistake=f"has {len(cells)} cells, but there are {len(head)} columns.")
    return RawRow(place, {name: _cell(cell) for name, cell in zip(head, cells, strict=True)})


def _cell(text: str) -> JSON:
    """Text; where it is the JSON of a list of objects it is that list, for messages come in cells so."""
    if text.startswith("[{"):
        try:
            return parse(text)
        except ValueError:
            return text
    return text
