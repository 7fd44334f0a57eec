"""Select rows of a source: conditions on columns, numbers of messages, lengths.

    COLUMN OPERATOR VALUE      lang = en      score >= 4      meta.source != forum      tags ~ code

COLUMN    a column; dots lead into objects; in double quotes (a JSON string) it is one name whatever it holds
OPERATOR  =  !=  <  <=  >  >=  ~ (text contains VALUE; a list has VALUE among its members)
VALUE     the rest of the line; in double quotes (a JSON string) where blanks at its ends count; unquoted null is
          "there is none", unquoted true and false are these

Numbers compare as numbers wherever VALUE is one. For < <= > >= so does text that spells a number, since CSV cells are
text. Other texts compare by code points, so that ISO dates are in order. Values that can't be compared (a text with a
number, a list with anything) differ. They are neither less nor greater. A filter is never run as code.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeGuard

from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import JSON

MAX_CONDITIONS: Final = 32
MAX_CONDITION_BYTES: Final = 1_024
HINT: Final = 'Write COLUMN OPERATOR VALUE with = != < <= > >= or ~, for example "lang = en" or "score >= 4".'

Scalar: TypeAlias = "str | int | float | bool | None"

_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_CONDITION: Final = re.compile(rf'\s*({_QUOTED}|[^"=!<>~\s][^"=!<>~]*?)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*', re.DOTALL)
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,400})(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?")
_WORDS: Final[Mapping[str, Scalar]] = {"null": None, "true": True, "false": False}
#: Which results of a comparison meet an operator: -1 less, 0 equal, 1 greater.
_ORDERS: Final[Mapping[str, tuple[int, ...]]] = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (0, 1)}


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column."""

    path: tuple[str, ...]  #: column, then keys of objects in it
    operator: str
    value: Scalar  #: number, true, false or null where the text spells one outside of quotes
    text: str  #: VALUE as text

    @classmethod
    def parse(cls, text: str, field: str = "where") -> Condition:
        """Parse one condition.

        Args:
            text: as above.
            field: what an error names.

        Raises:
            InvalidInput: it is not a condition.
        """
        size = len(text.encode("utf-8", "replace"))
        if size > MAX_CONDITION_BYTES:
            raise InvalidInput(f"has {size} bytes; give {MAX_CONDITION_BYTES} at most.", hint=HINT, field=field)
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise InvalidInput(f"{text!r} can't be read as a condition.", hint=HINT, field=field)
        column, comparison, value = match.groups()
        if value[:1] in {"=", "~"} and match.start(3) == match.end(2):  # other languages' ==, =~ and ~=
            said = f"{comparison}{value[0]} is no operator; before a VALUE that begins with {value[0]} put a blank."
            raise InvalidInput(f"{text!r}: {said}", hint=HINT, field=field)
        quoted = value.startswith('"')
        plain = _unquoted(value, text, field) if quoted else value
        scalar = plain if quoted else _WORDS.get(value, _number(value) if _NUMBER.fullmatch(value) else value)
        if comparison in _ORDERS and (scalar is None or isinstance(scalar, bool) or plain == ""):
            raise InvalidInput(
                f"{text!r}: {value or 'nothing'} is neither less nor greater than anything.", hint=HINT, field=field
            )
        path = (_unquoted(column, text, field),) if column.startswith('"') else tuple(column.split("."))
        return cls(path, comparison, scalar, plain)

    def holds(self, row: JSON) -> bool:
        """Return whether a row meets the condition; a row without columns lacks every name."""
        value: JSON = row
        for key in self.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if self.operator == "=":
            return self._equals(value)
        if self.operator == "!=":
            return not self._equals(value)
        return self._contained(value) if self.operator == "~" else self._ordered(value)

    def _equals(self, value: JSON) -> bool:
        if isinstance(value, str):
            return self.value is not None and value == self.text
        if value is None or isinstance(value, bool):
            return value is self.value
        return isinstance(value, int | float) and _is_number(self.value) and value == self.value

    def _contained(self, value: JSON) -> bool:
        if isinstance(value, str):
            return self.text in value
        return isinstance(value, Sequence) and any(self._equals(member) for member in value)

    def _ordered(self, value: JSON) -> bool:
        wanted, bound = _ORDERS[self.operator], self.value
        if _is_number(bound):
            number = _number(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
            return _is_number(number) and (number > bound) - (number < bound) in wanted
        return isinstance(value, str) and (value > self.text) - (value < self.text) in wanted


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Conditions that must all hold."""

    where: tuple[str, ...] = ()  #: conditions as they were written
    min_messages: int = 0  #: 0, here and below: any number
    max_messages: int = 0
    min_characters: int = 0  #: code points of the content of all messages
    max_characters: int = 0

    def __bool__(self) -> bool:
        """Return whether any row could fail."""
        return self != RowFilter()

    @property
    def columns(self) -> list[str]:
        """Columns that conditions read; of those that can't be read, nothing."""
        with suppress(InvalidInput):
            return [Condition.parse(text).path[0] for text in self.where]
        return []

    def check(self, field: str = "filter") -> Wanted:
        """Check the filter and return it ready for rows.

        Args:
            field: path of the filter for errors.

        Raises:
            InvalidInput: a malformed condition, too many, or bounds that nothing can meet.
        """
        if len(self.where) > MAX_CONDITIONS:
            raise InvalidInput(
                f"has {len(self.where)} conditions; give {MAX_CONDITIONS} at most.",
                hint="Prepare a column that says it all.",
                field=f"{field}.where",
            )
        for what in ("messages", "characters"):
            low, high = getattr(self, f"min_{what}"), getattr(self, f"max_{what}")
            if min(low, high) < 0 or 0 < high < low:
                raise InvalidInput(
                    f"takes from {low} to {high} {what}, which nothing can have.",
                    hint=f"Give 0 <= min_{what} <= max_{what}.",
                    field=f"{field}.min_{what}",
                )
        conditions = tuple(Condition.parse(text, f"{field}.where[{n}]") for n, text in enumerate(self.where))
        return Wanted(self, conditions)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A checked filter."""

    asked: RowFilter
    conditions: tuple[Condition, ...]

    def row(self, row: JSON) -> bool:
        """Return whether a row, as the source has it, meets all conditions on columns."""
        return all(condition.holds(row) for condition in self.conditions)

    def document(self, document: Mapping[str, JSON]) -> bool:
        """Return whether a row made {"messages": [...]} has the requested counts and lengths."""
        asked, messages = self.asked, document.get("messages")
        if not isinstance(messages, list):
            return True  # it will be refused, and must be reported
        if not _within(len(messages), asked.min_messages, asked.max_messages):
            return False
        if not (asked.min_characters or asked.max_characters):
            return True
        return _within(sum(map(characters, messages)), asked.min_characters, asked.max_characters)


def characters(message: JSON) -> int:
    """Count code points of a message's content: of the text, or of its parts' texts."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, str):
        return len(content)
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return sum(len(text) for text in texts if isinstance(text, str))


def _within(size: int, low: int, high: int) -> bool:
    return low <= size and (not high or size <= high)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str) -> int | float:
    """Parse a JSON number, keeping integers exact."""
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _unquoted(text: str, whole: str, field: str) -> str:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{whole!r}: {text} is no JSON string.", hint=HINT, field=field) from error
    assert isinstance(value, str)  # it begins with a quote
    return value
