"""Cache what was proved about a turn by the literals around it, and read it off for the next.

The literals around and inside a turn, with the fields between them, are its pattern. Places count from the pattern's
runs, so they hold whatever the texts' lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from turnloom.masks.domain.conversation import Message
from turnloom.masks.template.prompts import Chat
from turnloom.masks.template.shape import Signature
from turnloom.masks.turns.last_turn import Turn
from turnloom.masks.turns.text_map import TextMap, is_own, next_foreign

#: A position that does not depend on lengths: (run inside the window, characters from its start).
Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a turn with one pattern begins and ends."""

    start: Place
    eot_start: Place
    end: Place
    prefill: str  #: what the turn's own text must begin with, "" where the prompt ends in literals
    located_by: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """The runs between the last character of the message before and the first of the message after."""

    first_run: int
    stop_run: int
    key: tuple[object, ...]


def window_of(
    chat: Chat, messages: Sequence[Message], shapes: Sequence[Signature], text: TextMap, index: int
) -> Window | None:
    """Return the runs of a turn and the literals around it; None where the text of others lies between."""
    first, stop = _bounds(text, index, len(messages))
    pattern = []
    for run in range(first, stop):
        origin = text.origin(run)
        if origin is not None and origin.message_index != index:
            return None
        pattern.append(text.literal(run) if origin is None else origin.field)
    if first >= stop:
        return None
    key = (
        tuple(pattern),
        shapes[index],
        shapes[index - 1] if index else None,
        shapes[0] if messages[0].get("role") in ("system", "developer") else None,
        messages[index + 1].get("role") if index + 1 < len(messages) else None,
        chat.tools is None,
        _silent_before(text, index),
    )
    return Window(first, stop, key)


def _bounds(text: TextMap, index: int, messages: int) -> tuple[int, int]:
    """Return the first run after the previous message's text, and the run where the next message's begins."""
    own = text.runs_of.get(index)
    if own:
        first = stop = own[0]
        while first and is_own(text.origin(first - 1), index):
            first -= 1
        return first, max(stop + 1, next_foreign(text, stop, index))
    before = next((text.runs_of[at][-1] for at in range(index - 1, -1, -1) if at in text.runs_of), -1)
    after = next((text.runs_of[at][0] for at in range(index + 1, messages) if at in text.runs_of), None)
    return before + 1, len(text.rendered.runs) if after is None else after


def _silent_before(text: TextMap, index: int) -> int:
    """Count the messages directly before this one that print no text of their own; they share its literals."""
    count = 0
    while index - count > 0 and index - count - 1 not in text.runs_of:
        count += 1
    return count


def proof_of(turn: Turn, text: TextMap, window: Window, index: int) -> Proof | None:
    """Return the turn's bounds as places in the window; None where one lies outside or inside text that varies."""
    start, eot_start, end = (_place(text, window, at) for at in (turn.start, turn.eot_start, turn.end))
    if start is None or eot_start is None or end is None:
        return None
    varying = [bool(place[1]) and text.origin(window.first_run + place[0]) is not None for place in (eot_start, end)]
    if any(varying):
        return None
    prefill = ""
    own = text.runs_of.get(index)
    if own and turn.start > text.starts[own[0]]:
        # The prompt reaches into the turn's own text. Where it takes all of it, the next run's start is the same
        # position and would be another one for a text that goes on.
        if turn.start > text.starts[own[0] + 1]:
            return None
        start = own[0] - window.first_run, turn.start - text.starts[own[0]]
        prefill = text.literal(own[0])[: start[1]]
    warnings = tuple(warning.replace(f"messages[{index}]", "messages[{}]") for warning in turn.warnings)
    return Proof(start, eot_start, end, prefill, turn.located_by, warnings)


def _place(text: TextMap, window: Window, position: int) -> Place | None:
    for run in range(window.first_run, window.stop_run):
        if text.starts[run] <= position < text.starts[run + 1]:
            return run - window.first_run, position - text.starts[run]
    if position == text.starts[window.stop_run]:
        return window.stop_run - window.first_run, 0
    return None


def applied(proof: Proof, text: TextMap, window: Window, index: int) -> Turn | None:
    """Return the turn's bounds read off the proof; None where its own text does not begin as the proof requires."""
    starts, first = text.starts, window.first_run
    start = starts[first + proof.start[0]] + proof.start[1]
    if proof.prefill:
        taken = text.literal(first + proof.start[0])[: len(proof.prefill)]  # a shorter text differs
        if taken != proof.prefill:
            return None
    return Turn(
        start,
        starts[first + proof.eot_start[0]] + proof.eot_start[1],
        starts[first + proof.end[0]] + proof.end[1],
        proof.located_by,
        "",
        tuple(warning.replace("messages[{}]", f"messages[{index}]") for warning in proof.warnings),
    )
