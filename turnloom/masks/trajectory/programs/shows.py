"""What a path prints of its message as it was sent, told by its expressions, whatever the texts.

`turns.coverage` looks for every value of a message in what is printed. A path that prints `content` once and as it is
shows it for every message that takes this path: such a message needs no look.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from turnloom.masks.domain.conversation import REASONING_FIELDS, Message
from turnloom.masks.trajectory.programs.program import Fold, Keep, Piece, Printed
from turnloom.masks.turns.leaves import is_word, repeated_calls
from turnloom.masks.turns.span_parts import has_text

_PATH: Final = re.compile(r"m((?:\[\w+\])*)")
_KEY: Final = re.compile(r"\[(\w+)\]")
_STRIPPED: Final = re.compile(r"\((.+)\)\.[lr]?strip\((K\d+)?\)")
_HELD: Final = re.compile(r"\(V\[\d+\](?:\.value)?\)")
_WRITTEN: Final = re.compile(r"json_text\((.+), K\d+, K\d+, K\d+, K\d+\)|str\((.+)\)")
#: White space that templates strip; another character at the end of a text counts as text.
_SPACE: Final = " \t\r\n"
#: Fields of a message whose texts are compared as a whole.
_TEXTS: Final = {"content": "content", **dict.fromkeys(REASONING_FIELDS, "reasoning")}

#: Keys, or positions in a list or pair, from the item on.
Path = tuple[object, ...]


class Shows(NamedTuple):
    """What a path's end shows of its item."""

    #: "content", "escaped" (content as JSON), "reasoning", "calls" (all), "calls:1", "calls:2", ..., "others" (texts of
    #: other messages, too); of an item of a loop "call" or "argument"
    fields: frozenset[str]
    others: int  #: texts of variables, which must be those of other messages
    loops: tuple[tuple[int, str], ...]  #: numbers of loops and what each of their items must show; "": print nothing


def shows_of(parts: Sequence[Printed], folds: Sequence[Fold | Keep], value_of: Callable[[str], object]) -> Shows | None:
    """Return what the end of a path shows; None: its expressions do not tell.

    Args:
        parts: what is printed.
        folds: loops on the way, by their numbers.
        value_of: gives the constant of a name.
    """
    fields: list[str] = []
    told: set[Path] = set()  #: what is printed of calls and arguments
    loops: list[tuple[int, str]] = []
    others = 0
    for at, part in enumerate(parts):
        if isinstance(part, str):
            continue
        if isinstance(part, int):
            fold = folds[part]
            path = _path(fold.sources[0], value_of) if isinstance(fold, Fold) else None
            if isinstance(fold, Fold) and fold.program.items.messages:
                loops.append((part, ""))
            elif path is None:
                return None
            else:
                loops.append((part, "call" if path == ("tool_calls",) else "argument"))
                told.add(path)
            continue
        if part[1].startswith("*"):
            return None  # of several authors
        read = _read(part[0], value_of)
        if read is None and _HELD.fullmatch(part[0]) and _stands_apart(parts, at):
            others += 1
            continue
        if read is None:
            return None
        path, is_written = read
        if len(path) == 1 and path[0] in _TEXTS:
            fields.append("escaped" if is_written else _TEXTS[str(path[0])])
        elif _stands_apart(parts, at):
            told.add(path)
        else:
            return None
    if len(set(fields)) < len(fields) or {"content", "escaped"} <= set(fields):
        return None  # printed twice
    calls = 0
    while _is_call({path[2:] for path in told if path[:2] == ("tool_calls", calls)}):
        calls += 1
    if calls:
        fields.append(f"calls:{calls}")
    if ("tool_calls",) in told:
        fields.append("calls")
    if _is_call(told):
        fields.append("call")
    if told == {(0,), (1,)}:
        fields.append("argument")
    return Shows(frozenset(fields), others, tuple(loops))


def _path(source: str, value_of: Callable[[str], object]) -> Path | None:
    """Return the place of an expression in the item; None: it is none."""
    while source.startswith("(") and source.endswith(")"):
        source = source[1:-1]
    found = _PATH.fullmatch(source)
    if found is None:
        return None
    return tuple([int(key) if key.isdigit() else value_of(key) for key in _KEY.findall(found[1])])


def _read(source: str, value_of: Callable[[str], object]) -> tuple[Path, bool] | None:
    """Return the value that an expression prints, and whether as JSON or a number; None: it prints something else."""
    is_written = False
    while True:
        path = _path(source, value_of)
        if path is not None:
            return path, is_written
        if is_written:
            return None
        inner = source[1:-1]
        stripped = _STRIPPED.fullmatch(source) or _STRIPPED.fullmatch(inner)
        written = _WRITTEN.fullmatch(inner)
        if stripped is not None:
            removed = value_of(stripped[2]) if stripped[2] else None
            if isinstance(removed, str) and not set(removed) <= set(_SPACE):
                return None
            source = stripped[1]
        elif written is not None:
            source, is_written = written[1] or written[2], True
        else:
            return None


def _stands_apart(parts: Sequence[Printed], at: int) -> bool:
    """Whether a key or number there is no part of a word or number, whatever it is."""
    before, behind = parts[at - 1] if at else 0, parts[at + 1] if at + 1 < len(parts) else 0
    if not (isinstance(before, str) and isinstance(behind, str)):
        return False
    return not (is_word(before[-1]) or is_word(behind[0]) or behind[0] == ".")


def _is_call(told: AbstractSet[Path]) -> bool:
    """Whether name and arguments are among what is printed of a call."""
    both = {("function", "name"), ("function", "arguments")} <= told
    return both or ("function",) in told or () in told


def shown_of(shows: Shows, folds: Sequence[Any], piece: Piece, message: int) -> frozenset[str] | None:
    """Return what a piece shows whose path shows so much; None: that is not told.

    Args:
        shows: of the path.
        folds: what the loops on the way printed.
        piece: what the path printed.
        message: its position; of an item of a loop, whose texts of variables may be its own message's, -1.
    """
    for number, wanted in shows.loops:
        if not wanted:
            if folds[number]:
                return None
            continue
        if not all(item.shown is not None and wanted in item.shown for item in folds[number]):
            return None
    if not shows.others:
        return shows.fields
    if message < 0:
        return None
    foreign = [from_ for _, from_ in piece.runs if from_ is not None and from_.message_index != message]
    return shows.fields | {"others"} if len(foreign) == shows.others else None


def is_shown(piece: Piece, message: Message, *, trained: bool) -> bool:
    """Whether a piece shows the content and calls of its message, so that `turns.coverage` has nothing to say of them.

    Args:
        piece: of the message.
        message: with a content of text, or without one.
        trained: what is printed twice, or escaped, counts, too.
    """
    shown = piece.shown
    if shown is None or (trained and "others" in shown):
        return False
    content = message.get("content")
    is_there = "content" in shown or ("escaped" in shown and not trained)
    if has_text(content) and not (is_there and _ends_plainly(content)):
        return False
    calls = message.get("tool_calls")
    return not calls or _are_shown(piece, calls, trained=trained)


def is_reasoning_shown(piece: Piece, message: Message) -> bool:
    """Whether a piece shows the reasoning of its message, or there is none."""
    said = [message[name] for name in REASONING_FIELDS if has_text(message.get(name))]
    if not said:
        return True
    return piece.shown is not None and "reasoning" in piece.shown and len(said) == 1 and _ends_plainly(said[0])


def _ends_plainly(text: object) -> bool:
    return isinstance(text, str) and text.strip() == text.strip(_SPACE)


def _are_shown(piece: Piece, calls: object, *, trained: bool) -> bool:
    """Whether all calls are shown, in one spelling: an escaped text may stand in several."""
    assert piece.shown is not None, "asked for only then"
    if not isinstance(calls, (list, tuple)) or not piece.shown & {"calls", f"calls:{len(calls)}"}:
        return False
    own = _of_calls(piece)
    if "\\" in own:
        return False
    repeated = False
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name.strip():
            return False
        repeated |= trained and own.count(name) > 1
    return not (repeated and any(repeated_calls(calls, own)))


def _of_calls(piece: Piece) -> str:
    """Return the text that came from calls."""
    texts, position = [], 0
    for length, from_ in piece.runs:
        if from_ is not None and from_.field == "tool_calls":
            texts.append(piece.text[position : position + length])
        position += length
    return "".join(texts)
