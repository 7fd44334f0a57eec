"""One row of a source, as plain JSON values with its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import JSON, NO_JSON, NO_UTF8, columns_of, loads, why_not_json
from turnloom.reading.chat_formats import Format, detect
from turnloom.reading.file_kinds import KINDS

LOOKED_AT = 100  #: rows that detection looks at


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row, or why it can't be read."""

    place: str  #: for people: "chats.jsonl, line 12"
    value: JSON = None
    mistake: str = ""  #: why it can't be read; then there is no value
    #: columns that hold what JSON can't, and what that is; they are not in `value`, and harm who uses them only
    unread: Mapping[str, str] = field(default_factory=dict)


def shape_of(rows: Iterable[RawRow], name: str = "", columns: Mapping[str, str] | None = None) -> Format:
    """Return the named format, or the one that the first LOOKED_AT rows show.

    Raises:
        InvalidInput: an unknown format or part, or none is shown; the message lists the columns.
    """
    if name:
        return Format(name, dict(columns or {}))
    looked_at = list(islice(rows, LOOKED_AT))
    good = [row.value for row in looked_at if not row.mistake]
    if looked_at and not good:
        first = looked_at[0]
        none = f"None of the first {len(looked_at)} rows can be read" if len(looked_at) > 1 else "No row can be read"
        raise InvalidInput(f"{none}; {first.place} {first.mistake}", hint=_hint(first.mistake), field="format")
    return detect(good, columns, {name: what for row in looked_at for name, what in row.unread.items()})


def _hint(mistake: str) -> str:
    if mistake.startswith(NO_JSON):
        return "Write one JSON object a line. A JSON document that is read as a whole has a name that ends in .json."
    return f"Save the file as UTF-8, or as one of {', '.join(KINDS)}." if mistake == NO_UTF8 else ""


def parsed(place: str, data: bytes) -> RawRow:
    """Parse a row of UTF-8 JSON, with or without a byte order mark."""
    try:
        value = loads(data.decode("utf-8-sig").rstrip())  # a mistake is in the line, not after it
    except ValueError as error:
        return RawRow(place, mistake=why_not_json(error))
    return row_of(place, value)


def row_of(place: str, value: object) -> RawRow:
    """Make a row of JSON in which NaN and Infinity are NoJSON."""
    try:
        found, unread = columns_of(value)
    except ValueError as error:
        return RawRow(place, mistake=str(error))
    return RawRow(place, found, unread=unread)
