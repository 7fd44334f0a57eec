"""Programs: what a body was seen to ask and print, as a tree of questions that is walked for the next message.

A body is a function of its item, the loop and the names it uses. A recording is a path: questions with their answers,
and what was printed in the end. Another item that gives the same answers prints the same expressions. Paths of one body
share their beginnings, as a body asks the same first question always.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from jinja2.filters import do_float, do_int
from markupsafe import escape

from turnloom.masks.domain.conversation import STRUCTURE
from turnloom.masks.domain.rendered_text import Origin
from turnloom.masks.template.provenance.filters import json_text
from turnloom.masks.template.provenance.runs import blend

#: Characters with the same origin, as in `RenderedText`.
Runs: TypeAlias = "list[tuple[int, Origin | None]]"
#: What is printed between two questions: text, or an expression and the expression of its origin ("" for a literal; "*"
#: and the expression of a piece whose text it is), or the number of a loop whose text it is.
Printed: TypeAlias = "str | tuple[str, str] | int"

#: How deep a question looks that reads what no prefix of the conversation shows.
WHOLE: Final = 1 << 30
#: Arguments of everything that is compiled: messages, their or the items' count, position, item, its origin, variables
#: and their origins.
ARGUMENTS: Final = "M, n, a, m, o, V, O"


class UnreplayableError(Exception):
    """No program tells what is printed here; the reference renders."""


class RaisedError(UnreplayableError):
    """The template refuses these messages."""


class MissError(Exception):
    """No path is known for these answers."""


class Missing:
    """The kind of a key that is not there; a class, as the others are."""


class Held(NamedTuple):
    """A text or container with its origin, where a namespace keeps it."""

    value: Any
    origin: Origin | None


class At(NamedTuple):
    """A message, where a list or namespace holds it."""

    at: int


class Piece:
    """What one step printed, with the origin of every character."""

    __slots__ = ("_author", "last", "runs", "shown", "text")

    def __init__(self, text: str, runs: Runs) -> None:
        self.text = text
        self.runs = runs
        self.shown: frozenset[str] | None = None  #: what it shows as sent (`shows.Shows.fields`); None: not told
        self._author: int | None = None
        #: end of the last character that is no literal, 0 where all are
        self.last = 0
        if runs:
            self.last = len(text) if runs[-1][1] is not None else len(text) - runs[-1][0]

    @property
    def first(self) -> int:
        """Characters of the literal that it begins with."""
        return self.runs[0][0] if self.runs and self.runs[0][1] is None else 0

    @property
    def author(self) -> int:
        """Position of the message that all its text is of; -1: it has none, or that of several."""
        if self._author is None:
            authors = {from_.message_index for _, from_ in self.runs if from_ is not None}
            self._author = max(authors.pop(), -1) if len(authors) == 1 else -1
        return self._author


EMPTY: Final = Piece("", [])


class Path:
    """One place of a tree: a question, an act, or what is printed in the end."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Ask(Path):
    """A question, and where each answer leads."""

    ask: Callable[..., Hashable]
    source: str
    answers: dict[Hashable, Path] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Load(Path):
    """Keep what an attribute of a namespace is now, as one more variable."""

    space: int  #: variable
    name: str
    then: Path | None = None


@dataclass(slots=True, eq=False)
class Take(Path):
    """Keep what a loop printed, as one more variable."""

    number: int  #: of the loop
    then: Path | None = None


@dataclass(slots=True, eq=False)
class Make(Path):
    """Make a namespace, as one more variable."""

    then: Path | None = None


@dataclass(slots=True, eq=False)
class Store(Path):
    """Set an attribute of a namespace."""

    space: int
    name: str
    value: Callable[..., object]
    source: str
    then: Path | None = None


@dataclass(slots=True, eq=False)
class Fold(Path):
    """Run another loop."""

    program: Program
    items: Callable[..., Any]  #: gives the items; of messages the first, or None
    origin: Callable[..., Origin | None]
    values: Callable[..., list[Any]]
    origins: Callable[..., list[Any]]
    sources: tuple[str, str, str, str]  #: of the four
    own: bool  #: only its message decides what it prints, so that it runs once a message
    steady: bool  #: only variables decide what it prints and sets
    chained: bool  #: a loop over a list of the template's that stands in no other
    then: Path | None = None


@dataclass(slots=True, eq=False)
class Keep(Path):
    """Print what does not depend on messages; made once a conversation."""

    key: Hashable
    make: Callable[..., Piece]  #: of the tools and what walks
    then: Path | None = None


@dataclass(slots=True, eq=False)
class Stretch:
    """What a path prints between two loops."""

    printed: Callable[..., Piece]
    needs: int  #: it reads no more than so many messages, from the first on; WHOLE: it reads more than that


@dataclass(slots=True, eq=False)
class End(Path):
    """The end: what is printed, and how far the questions before looked."""

    printed: Callable[..., Piece]
    reach: int  #: messages behind its own that it looked at, WHOLE: all; what loops ahead looked at aside
    stateless: bool  #: it reads no variable, so that only messages decide
    #: attributes of namespaces that it reads before it may set them, and the variables that they become
    reads: tuple[tuple[int, str, int], ...]
    sets: tuple[tuple[int, str], ...]
    shared: tuple[int, ...]  #: other namespaces, of which loops inside may read and set all
    #: where it sets nothing and prints no variable: whether variables give the answers that led here
    trail: Callable[..., bool] | None
    other: Any  #: elsewhere `trails.Trail`, where some reads only give answers
    free: bool  #: the same, and none was asked for
    idle: bool  #: it does nothing and looked at variables alone, so that every item behind does as little
    parts: tuple[Printed, ...]
    own: bool  #: only the item and its position decide what is printed
    blanks: tuple[int, ...] | None  #: the same where these loops print nothing; None: not even then
    stretches: tuple[Stretch | int, ...]  #: the same in pieces: printers, and numbers of loops
    counts: bool  #: it depends on how many items there are
    shows: Any  #: `shows.Shows`, where the expressions tell what is printed of the item


@dataclass(slots=True, eq=False)
class Refusal(Path):
    """The end of a path that can't be recorded, or on which the template raises."""

    raised: bool

    def error(self) -> UnreplayableError:
        """Return what a walk that ends here raises."""
        if self.raised:
            return RaisedError("the template refuses this")
        return UnreplayableError("a body that is not recorded")


class Items(NamedTuple):
    """How a program's items are given."""

    messages: bool  #: they are the conversation's messages
    start: int = 0  #: the first of these; -1: the loop tells where it begins
    backwards: bool = False  #: from the last, or from where it begins, to the first
    pairs: bool = False  #: keys and values of a dict
    ordered: bool = False  #: by their keys
    chosen: bool = False  #: positions of messages that filters keep
    made: bool = False  #: what a list of the template's holds
    less: int = -1  #: not the messages but their positions are the items, less so many; -1: the messages


@dataclass(slots=True, eq=False)
class Program:
    """One body under one kind of variables."""

    site: int
    items: Items
    kinds: tuple[Hashable, ...]  #: of the variables: constants by value
    root: Path | None = None
    spaces: tuple[int, ...] = ()  #: variables that are namespaces
    told: tuple[int, ...] = ()  #: other variables that may be others the next time
    shared: frozenset[int] = frozenset()  #: namespaces of which loops inside may read and set all
    shown: tuple[int, ...] = ()  #: those that are messages, held by their places
    walks: int = 0  #: since the tree grew
    straight: Callable[..., tuple[End, list[Any]]] | None = None  #: the tree as one function


def kind(value: Any) -> object:
    """Return what a question for a value's kind is answered with: True, False, or its type."""
    found = type(value)
    return value if found is bool else found


def kind_in(values: Any, key: str) -> object:
    """Return the kind of a dict's value."""
    return kind(values[key]) if key in values else Missing


def add_run(runs: Runs, length: int, from_: Origin | None) -> None:
    """Add characters, joined with those before where they have one origin."""
    if runs and (runs[-1][1] is from_ or runs[-1][1] == from_):
        runs[-1] = runs[-1][0] + length, from_
    else:
        runs.append((length, from_))


def joined(pieces: Iterable[Piece]) -> Piece:
    """Join pieces."""
    texts: list[str] = []
    runs: Runs = []
    for piece in pieces:
        texts.append(piece.text)
        if piece.runs:
            add_run(runs, *piece.runs[0])
            runs += piece.runs[1:]
    return Piece("".join(texts), runs)


def piece_of(text: str, from_: Origin | None = None) -> Piece:
    """Return a text of one author, or a literal."""
    return Piece(text, [(len(text), from_)] if text else [])


def kind_held(value: Any) -> object:
    """Return the kind of what a namespace, or a list or dict of the template's, holds.

    Of a text without an author the text, of a dict its keys.
    """
    found = type(value)
    if found is Held:
        return Held, type(value.value)
    if found is dict:
        return dict, tuple(value)
    return value if found is bool or found is str or value is Missing else found


def woven(items: Iterable[Any], separator: str) -> Piece:
    """Join texts that a template's list holds.

    Raises:
        TypeError: an item is no text.
    """
    pieces: list[Piece] = []
    for item in items:
        if pieces:
            pieces.append(piece_of(separator))
        value = item.value if type(item) is Held else item
        if type(value) is Piece:
            pieces.append(value)
        elif type(value) is str:
            pieces.append(piece_of(value, item.origin if type(item) is Held else None))
        else:
            raise TypeError("an item is no text")
    return joined(pieces)


def holds(items: Iterable[Any], text: str) -> bool:
    """Whether a template's list has a text among its items."""
    for item in items:
        value = item.value if type(item) is Held else item
        if (value.text if type(value) is Piece else value) == text:
            return True
    return False


def role_of(message: Mapping[str, Any]) -> object:
    """Return a message's role, by which bodies branch first."""
    role = message.get("role", Missing)
    return role if type(role) is str or role is Missing else type(role)


@lru_cache(maxsize=1 << 16)
def origin(index: int, field_: str) -> Origin:
    """Return the origin of a message's text."""
    return Origin(index, field_)


def has_text(value: Any) -> bool:
    """Whether a text with provenance stands in a JSON value: then what is written of it has its origin."""
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, dict):
        return any((key and key not in STRUCTURE) or has_text(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(map(has_text, value))
    return isinstance(value, Mapping) and has_text(dict(value))


def is_traced_key(key: str) -> bool:
    """Whether a dict's key counts as text of its author."""
    return bool(key) and key not in STRUCTURE


#: What the source of questions may name.
NAMES: Final[dict[str, object]] = {
    "kind": kind, "kind_in": kind_in, "kind_held": kind_held, "role_of": role_of, "origin": origin,
    "has_text": has_text, "is_traced_key": is_traced_key, "json_text": json_text, "Held": Held, "Piece": Piece,
    "At": At, "escape": escape, "int_of": do_int, "float_of": do_float, "woven": woven, "holds": holds,
    "piece_of": piece_of, "joined": joined, "blend": blend, "str": str, "len": len, "list": list, "type": type,
}  # fmt: skip
