"""Compile one view to a function of a conversation's texts, from a trial run and the view it must equal.

The runs of such a view are those of the trial run. So every position is a constant plus lengths of variables, and
decisions about the literals around a turn hold. Every decision made by looking at texts becomes a guard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Final, NamedTuple, TypeAlias, TypeVar, cast

from turnloom.masks.domain.conversation import Message
from turnloom.masks.domain.rendered_text import MessageSpan, Origin, Part, RenderedText, View
from turnloom.masks.replay.coverage_guards import guard_coverage
from turnloom.masks.replay.recording import LONGEST_RECORDING, Recording
from turnloom.masks.replay.symbols import Atom, RefusedError
from turnloom.masks.template.prompts import common_length
from turnloom.masks.turns.leaves import lost_of
from turnloom.masks.turns.span_parts import CLOSERS

Result = TypeVar("Result")
#: Gives what a conversation of these messages comes to, or None where a guard answers otherwise.
Replay: TypeAlias = "Callable[[Sequence[Message]], Result | None]"

#: What the lines of every replay may name.
_CLASSES: Final[dict[str, object]] = {
    kind.__name__: kind for kind in (View, RenderedText, MessageSpan, Part, Exception, len, common_length, lost_of)
}


class Trial(NamedTuple):
    """A view's traced render, with symbols in place of texts: the source of one replay."""

    recording: Recording  #: used up by compiling
    atoms: Sequence[Atom]  #: what was printed
    messages: Sequence[Message]  #: the conversation
    #: prompts that reach into replies; how far texts go along with them decides where turns begin
    prefills: Sequence[str]


def compile_view(trial: Trial, view: View) -> Replay[View]:
    """Compile the view to a function.

    Args:
        trial: of the view.
        view: what laying out the conversation gave.

    Raises:
        RefusedError: a position lies inside a variable, or the runs are not those of the trial run.
    """
    lines, result = view_lines(trial, view)
    return cast("Replay[View]", compiled(lines, result, trial.recording.constants))


def view_lines(trial: Trial, view: View) -> tuple[list[str], str]:
    """Write the lines of a view's replay, and the expression that it returns; arguments and errors as above."""
    layout, recording = guarded_layout(trial, view), trial.recording
    blocks = "".join(
        f"({layout.place(start)}, {layout.place(end)}), " for start, end in view.rendered.generation_blocks
    )
    result = (
        f"View(RenderedText({layout.text_source()}, ({layout.runs_source()}), ({blocks})),"
        f" ({_regions(layout, view)}),"
        f" {recording.constant(view.trained)}, {view.messages}, {recording.constant(view.warnings)},"
        f" ({''.join(f'{layout.place(at)}, ' for at in view.boundaries)}),"
        f" {recording.constant(view.final_stop)})"
    )
    return [*recording.lines, *layout.lines], result


def guarded_layout(trial: Trial, view: View) -> Layout:
    """Return where the pieces of a view's text lie, with guards for all decisions made by looking at texts.

    Raises:
        RefusedError: as compile_view, or there are too many pieces.
    """
    recording, atoms, messages, prefills = trial
    if len(atoms) > LONGEST_RECORDING:
        raise RefusedError("too many pieces")
    for name, text, _ in atoms:
        if name:
            recording.guard(name, bool(text))
    shown = [atom for atom in atoms if atom[1]]
    for name, text, _ in shown:
        if name:
            recording.guard(f"{name}.isspace()", text.isspace())
    _guard_closers(recording, shown, view, messages)
    layout = Layout(recording, shown)
    guard_coverage(recording, layout.starts, shown, view, messages)
    if prefills:
        _guard_prefills(recording, layout, prefills)
    if layout.runs() != tuple(view.rendered.runs):
        raise RefusedError("other runs than those of the render")
    return layout


def compiled(lines: Sequence[str], result: str, names: Mapping[str, object]) -> Replay[object]:
    """Compile the lines to a function of messages M; it returns the result, None on a failed guard or exception."""
    scope = {**_CLASSES, **names}
    exec(compile(source_of(lines, result), "<replay>", "exec"), scope)  # noqa: S102  # our own lines; texts are constants beside them
    return cast("Replay[object]", scope["replay"])


def source_of(lines: Sequence[str], result: str) -> str:
    """Write the function that `compiled` makes."""
    return (
        "def replay(M):\n try:\n  " + "\n  ".join([*lines, f"return {result}"]) + "\n except Exception: return None\n"
    )


def _guard_closers(recording: Recording, shown: Sequence[Atom], view: View, messages: Sequence[Message]) -> None:
    """Add guards where the template closes reasoning: kinds depend on whether the content has the closer too."""
    stretches = groupby(shown, lambda atom: bool(atom[0]))  # a variable that is empty parts no literal
    literals = ["".join(text for _, text, _ in stretch) for varies, stretch in stretches if not varies]
    closers = [closer for closer in CLOSERS if any(closer in text for text in literals)]
    for span in view.message_spans:
        content = messages[span.message_index].get("content")
        for closer in closers if isinstance(content, str) else ():
            place = f"M[{span.message_index}][{recording.constant('content')}]"
            recording.guard(f"{recording.constant(closer)} in {recording.name(place)}", closer in str(content))


def _guard_prefills(recording: Recording, layout: Layout, prefills: Sequence[str]) -> None:
    begun = set()
    for group in layout.groups():
        name, text, origin = group[0]
        if origin is None or origin.message_index in begun:
            continue
        begun.add(origin.message_index)
        if len(group) > 1:
            raise RefusedError("a text in pieces where prompts reach into replies")
        for prefill in prefills:
            shared = common_length(prefill, text)
            if shared == len(text):
                raise RefusedError("a text that a prompt may take whole, with what follows it")
            recording.guard(f"len({name}) > common_length({recording.constant(prefill)}, {name}) == {shared}", True)


def _regions(layout: Layout, view: View) -> str:
    sources = []
    for span in view.message_spans:
        parts = "".join(
            f"Part({layout.place(part.start)}, {layout.place(part.end)}, {layout.recording.constant(part.kind)}), "
            for part in span.parts
        )
        places = (span.start, span.eot_start, span.end, span.trailing_end)
        sources.append(
            f"MessageSpan({span.message_index}, {layout.recording.constant(span.role)},"
            f" {', '.join(map(layout.place, places))}, {layout.recording.constant(span.located_by)}, ({parts})), "
        )
    return "".join(sources)


class Layout:
    """Where the pieces of a text lie, now and in the replay."""

    def __init__(self, recording: Recording, shown: Sequence[Atom]) -> None:
        self.recording = recording
        self.lines: list[str] = []  #: lengths, and positions after each variable
        self.shown = shown  #: what is printed and not empty
        #: characters before each piece, and of all
        self.starts = list(accumulate((len(text) for _, text, _ in shown), initial=0))
        self._sources: list[tuple[str, int]] = []  #: of each piece's start: a variable's name or "", and characters
        base, constant, count = "", 0, 0
        for name, text, _ in shown:
            self._sources.append((base, constant))
            if name:
                self.lines.append(f"n{count} = len({name})")
                self.lines.append(f"p{count} = {_sum(base, constant)} + n{count}")
                base, constant, count = f"p{count}", 0, count + 1
            else:
                constant += len(text)
        self._sources.append((base, constant))

    def place(self, position: int) -> str:
        """Return a position of the text as an expression."""
        piece = bisect_right(self.starts, position) - 1
        base, constant = self._sources[piece]
        offset = position - self.starts[piece]
        if offset and self.shown[piece][0]:
            raise RefusedError("a position inside a variable")
        return _sum(base, constant + offset)

    def text_source(self) -> str:
        """Return the whole text as an expression."""
        pieces = "".join(f"{name or self.recording.constant(text)}, " for name, text, _ in self.shown)
        return f"''.join(({pieces}))"

    def slice_source(self, whole: str, start: int, end: int) -> str:
        """Return a stretch of the text as an expression; `whole` is the name of the text."""
        piece = bisect_right(self.starts, start) - 1
        name, text, _ = self.shown[piece]
        if not name and end <= self.starts[piece + 1]:
            return self.recording.constant(text[start - self.starts[piece] : end - self.starts[piece]])
        return f"{whole}[{self.place(start)}:{self.place(end)}]"

    def runs(self) -> tuple[tuple[int, Origin | None], ...]:
        """Return the runs of this text, joining neighbours of one origin."""
        return tuple((sum(len(text) for _, text, _ in group), group[0][2]) for group in self.groups())

    def runs_source(self) -> str:
        """Return the runs as source."""
        lengths: dict[int, str] = {}
        for at, (name, text, _) in enumerate(self.shown):
            lengths[at] = f"n{sum(bool(one[0]) for one in self.shown[:at])}" if name else str(len(text))
        sources, at = [], 0
        for group in self.groups():
            length = " + ".join(lengths[at + offset] for offset in range(len(group)))
            sources.append(f"({length}, {self.recording.constant(group[0][2])}), ")
            at += len(group)
        return "".join(sources)

    def groups(self) -> list[list[Atom]]:
        """Return the pieces grouped by the run that they make up."""
        groups: list[list[Atom]] = []
        for atom in self.shown:
            if groups and groups[-1][0][2] == atom[2]:
                groups[-1].append(atom)
            else:
                groups.append([atom])
        return groups


def _sum(base: str, constant: int) -> str:
    return f"{base} + {constant}" if base and constant else base or str(constant)
