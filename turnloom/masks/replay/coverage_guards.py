"""Guards by which a replay proves that all of a text is printed.

A text printed unchanged, or stripped at its ends, is printed whole whatever it says. A text that the template splits is
checked in every conversation: what it loses must be what was lost in the recording.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.rendered_text import MessageSpan, Origin, View
from turnloom.masks.replay.recording import Recording
from turnloom.masks.replay.symbols import Atom, RefusedError
from turnloom.masks.turns.leaves import Lost, closing, lost_of
from turnloom.masks.turns.text_map import TextMap, pieces_between

#: An expression that takes white space, or what a constant says, off the ends of a variable.
_STRIPPED: Final = re.compile(r"(v\d+)\.[lr]?strip\((K\d+)\)")
#: An expression that begins with a variable, and one that is a message's text.
_DERIVED: Final = re.compile(r"v\d+")
_TEXT: Final = re.compile(r"M\[(\d+)\]\[(K\d+)\]")


def guard_coverage(
    recording: Recording, starts: Sequence[int], shown: Sequence[Atom], view: View, messages: Sequence[Message]
) -> None:
    """Add a guard for each text of which the recording printed parts.

    Args:
        recording: of the view.
        starts: of each piece, in characters.
        shown: the pieces that are printed and not empty.
        view: what laying out gave.
        messages: of the conversation.

    Raises:
        RefusedError: a part of a text is lost, so that each conversation has to be looked at.
    """
    expressions = recording.expressions()
    spans = {span.message_index: span for span in view.message_spans if span.message_index in view.trained}
    for origin, atoms in _by_origin(starts, shown, view).items():
        if len(atoms) == 1 and _is_whole(atoms[0][0], expressions, recording.constants):
            continue
        name, place = _root(atoms[0][0], expressions)
        text = str(messages[int(place[1])][str(recording.constants[place[2]])])
        is_reply = messages[origin.message_index].get("role") == "assistant"
        history = is_reply and origin.message_index not in view.trained
        closed = origin.message_index not in spans or closing(_literals(view, spans[origin.message_index]))
        answer = lost_of(text, "".join(piece for _, piece, _ in atoms), history=history, closed=closed)
        if answer is Lost.PART:
            raise RefusedError("a text of which a part is lost")
        printed = " + ".join(part for part, _, _ in atoms)
        said = f"lost_of({name}, {printed}, history={history}, closed={closed})"
        recording.guard(f"{said} is {recording.constant(answer)}", True)


def _literals(view: View, span: MessageSpan) -> str:
    text = TextMap(view.rendered)
    pieces = pieces_between(text, span.start, span.end)
    return "".join(piece if origin is None else "\0" for _, piece, origin in pieces)


def _by_origin(starts: Sequence[int], shown: Sequence[Atom], view: View) -> dict[Origin, list[Atom]]:
    """Return the pieces of each text; for a trained message, those inside its span."""
    spans = {span.message_index: span for span in view.message_spans}
    found: dict[Origin, list[Atom]] = {}
    for start, atom in zip(starts, shown, strict=False):
        origin = atom[2]
        if origin is None or not atom[0]:
            continue
        span = spans.get(origin.message_index)
        if span is None or span.start <= start < span.end:
            found.setdefault(origin, []).append(atom)
    return found


def _chain(name: str, expressions: Mapping[str, str]) -> Iterator[str]:
    """Yield the expressions that a variable is derived from, from its own to that of a message's text."""
    while True:
        expression = expressions[name]
        yield expression
        if _TEXT.fullmatch(expression):
            return
        begun = _DERIVED.match(expression)
        assert begun is not None, "variables are made of variables"
        name = begun[0]


def _is_whole(name: str, expressions: Mapping[str, str], constants: Mapping[str, object]) -> bool:
    *steps, _ = _chain(name, expressions)
    stripped = [_STRIPPED.fullmatch(step) for step in steps]
    return all(step is not None and not str(constants[step[2]] or "").strip() for step in stripped)


def _root(name: str, expressions: Mapping[str, str]) -> tuple[str, re.Match[str]]:
    """Return the variable that is a message's text, and the match of that text's place."""
    *_, last = _chain(name, expressions)
    place = _TEXT.fullmatch(last)
    assert place is not None, "a chain ends with a text"
    return next(known for known, expression in expressions.items() if expression == last), place
