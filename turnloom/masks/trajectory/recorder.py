"""Record a render: bodies whose paths are known are walked, others run on symbols."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from jinja2 import TemplateError, Undefined
from jinja2.runtime import LoopContext, Macro

from turnloom.masks.domain.conversation import JSON
from turnloom.masks.domain.rendered_text import TOOLS
from turnloom.masks.replay.symbols import RefusedError, Symbol, SymbolParts, atoms_of, is_symbolic
from turnloom.masks.trajectory.family import MOST_PATHS, Family, given_tools
from turnloom.masks.trajectory.programs.program import (
    WHOLE,
    End,
    Fold,
    Items,
    Keep,
    MissError,
    Path,
    Piece,
    Program,
    RaisedError,
    Refusal,
    UnreplayableError,
)
from turnloom.masks.trajectory.recording.chosen import Chosen
from turnloom.masks.trajectory.recording.environment import ENVIRONMENT, RECORDER
from turnloom.masks.trajectory.recording.folds import FOLD
from turnloom.masks.trajectory.recording.handing import COMMON, SHOWING, Handed, Later, LaterHeld, Tools, handed, taken
from turnloom.masks.trajectory.recording.made import MadeList
from turnloom.masks.trajectory.recording.numbers import AT, Number, total
from turnloom.masks.trajectory.recording.ranges import Range
from turnloom.masks.trajectory.recording.spaces import Space
from turnloom.masks.trajectory.recording.tape import From, Given, Mark, Tape, grow, is_of_variables, is_own
from turnloom.masks.trajectory.recording.values import Appended, Dict, List, Loop, Message, Messages, Pairs, Unusable
from turnloom.masks.trajectory.walking import items_of, messages_of, walk

_LOG: Final = logging.getLogger(__name__)


class Recorder:
    """One render that is recorded: bodies whose paths are known are walked, others run."""

    def __init__(
        self, family: Family, messages: list[dict[str, Any]], tools: Sequence[JSON] | None, sender: Any
    ) -> None:
        """Prepare.

        Args:
            family: that learns.
            messages: with the names that templates use for reasoning.
            tools: of the conversation.
            sender: prints kept loops, as in `walk`.
        """
        self._family, self._messages, self._tools, self._sender = family, messages, tools, sender
        self._tapes: list[Tape] = []
        self._blamed: BaseException | None = None  #: whose body is known

    def record(self, kwargs: Mapping[str, JSON], *, prompt: bool) -> None:
        """Run the template, with more kwargs, and add what is new.

        Raises:
            RefusedError: it can't be followed.
            Exception: whatever the template raises.
        """
        family = self._family
        assert family.compiled is not None, "asked for only where it can be followed"
        program = family.top(self._tools, kwargs, prompt=prompt)
        given = Given(self._messages, len(self._messages), 0, None, None, [self._tools], [None])
        tape = self._tape(given, over_messages=False)
        tools = None if self._tools is None else Tools("V[0]", self._tools, f"origin({TOOLS}, 'tools')", tape)
        variables = {
            **family.variables, **kwargs, "messages": Messages(tape), "tools": tools, "add_generation_prompt": prompt,
            RECORDER: self, FOLD: self.fold,
        }  # fmt: skip
        template = family.compiled[0]
        context = template.new_context(variables)
        self._finish(program, tape, lambda: template.environment.concat(template.root_render_func(context)))

    def space(self) -> Space:
        """Make a namespace in the body that runs."""
        tape = self._tapes[-1]
        return Space(tape, tape.make())

    def _tape(self, given: Given, *, over_messages: bool) -> Tape:
        return Tape(self._family.code, given, self._tapes, over_messages=over_messages)

    def _finish(self, program: Program, tape: Tape, body: Callable[[], Any]) -> End:
        """Run a body and add its path."""
        family = self._family
        self._tapes.append(tape)
        end: Path
        try:
            text = body()
            atoms = atoms_of(text)
            leaf = end = tape.leaf(atoms)
        except UnreplayableError as error:
            if isinstance(error, RaisedError):
                self._grow(program, tape, None)
            raise  # an item of a loop inside, not this body
        except (RefusedError, Exception) as error:
            raised = type(error) is TemplateError  # as `raise_exception` does, and nothing else
            if self._blamed is not error:  # a body refuses or raises always after the same answers
                self._blamed = error
                self._grow(program, tape, Refusal(raised))
            elif raised:
                self._grow(program, tape, None)
            raise
        finally:
            if self._tapes[-1] is tape:
                self._tapes.pop()
        self._grow(program, tape, end)
        if family.paths > MOST_PATHS:
            family.forget()
            raise RefusedError("too many paths")
        return leaf

    def _grow(self, program: Program, tape: Tape, end: Path | None) -> None:
        program.root = grow(program.root, tape.steps, end)
        program.walks, program.straight = 0, None
        program.shared |= tape.shared
        self._family.paths += 1

    def fold(self, number: int, iterable: Any, *values: Any, caller: Macro) -> Any:
        """Run a loop for the template that is recorded."""
        tape = self._tapes[-1]
        assert self._family.compiled is not None, "it runs"
        # A macro that is called in a body hands on the namespace of the body around it.
        values = tuple([value.here() or value if type(value) is Space else value for value in values])
        site = self._family.compiled[1].sites[number]
        if type(iterable) is Tools and not any(type(value) is Space for value in values):
            return self._keep(number, values, caller, tape)
        if type(iterable) is Dict:
            iterable = iterable.keys()
        if type(iterable) is SymbolParts:
            iterable = list(iterable)
        if type(iterable) is Appended:
            pieces = [self.fold(number, iterable.messages, *values, caller=caller)]
            pieces += [caller(Unusable(), item, *values) for item in iterable.others]
            return ENVIRONMENT.concat(pieces)
        if not is_symbolic(iterable):
            return self._unrolled(iterable, len(site.targets), values, caller)
        items, source, origin, given = _items_of(iterable)
        if items.chosen:
            tape.looked(WHOLE)
        if len(site.targets) != (2 if items.pairs else 1):
            raise RefusedError("parts of items")
        tape.check()
        own: Any = iterable.of.tape if type(iterable) is Pairs else iterable.tape
        if own is not tape and not (type(iterable) in (Messages, Range) and iterable.begin is None):
            raise RefusedError("a loop over a value of another body")
        given_to = [handed(value) for value in values]
        spaces = [value for value, one in zip(values, given_to, strict=True) if one.kind == ("space",)]
        if len({space._variable for space in spaces}) < len(spaces):
            raise RefusedError("one namespace under two names")
        for name, value, one in zip(site.names, values, given_to, strict=True):
            if one.kind == ("unusable",) and name in site.read and not (is_symbolic(value) or type(value) is Space):
                raise RefusedError("a macro that reads what can't be handed on")
        tape.shared |= {space._variable for space in spaces if space._variable < tape.variables}
        if items.messages and items.start >= 0:
            tape.looked(WHOLE)  # of a loop ahead, which messages matter is told where it runs
        fold = self._fold_of(number, items, source, origin, given_to, tape)
        try:
            pieces = self._run(fold, given, values, caller, tape)
        except (RaisedError, TemplateError):
            tape.fold(fold, [])  # so that a walk comes to the item that the template refuses
            raise
        for space in spaces:
            space.forget()
        return _marked("".join(piece.text for piece in pieces), tape.fold(fold, pieces), tape)

    def _fold_of(
        self, number: int, items: Items, source: str, origin: str, given_to: Sequence[Handed], tape: Tape
    ) -> Fold:
        """Return the step of a loop.

        Args:
            number: of its site.
            items: how they are given.
            source: of the items.
            origin: of theirs.
            given_to: variables that the body is handed.
            tape: of the body around it.
        """
        code = self._family.code
        sources = ", ".join(one.source for one in given_to)
        origins = ", ".join(one.origin for one in given_to)
        if "V[" in sources or "V[" in source or "O[" in origins:
            tape.stateless = False
        shown = [one.source for one in given_to if one.kind[0] in SHOWING]  # type: ignore[index]
        return Fold(
            self._family.program(number, items, tuple(one.kind for one in given_to)),
            code.compiled(source),
            code.compiled(origin),
            code.compiled(f"[{sources}]"),
            code.compiled(f"[{origins}]"),
            (source, origin, f"[{sources}]", f"[{origins}]"),
            tape.over_messages
            and not items.messages
            and set(shown) <= {AT}
            and is_own(f"{source} {origin} {sources} {origins}"),
            not (items.messages or shown) and is_of_variables(f"{source} {sources} {origins}"),
            items.made and len(self._tapes) == 1,
        )

    def _run(self, fold: Fold, given: Any, values: Sequence[Any], caller: Macro, tape: Tape) -> list[Piece]:
        program, arguments = fold.program, tape.given
        made, origins = fold.values(*arguments), fold.origins(*arguments)
        messages = self._messages
        if program.items.messages:
            order = messages_of(program.items, len(messages), fold.items(*arguments))
            steps: list[tuple[int, int, Any, Any]] = [(len(messages), at, messages[at], None) for at in order]
        else:
            from_ = fold.origin(*arguments)
            items = items_of(program, given)
            steps = [(len(items), at, item, from_) for at, item in enumerate(items)]
        pieces = []
        known = len(made)
        for count, at, item, from_ in steps:
            one = Given(messages, count, at, item, from_, made, origins)
            leaf, folds = self._walked(program, one, values, caller)
            try:
                pieces.append(leaf.printed(*one, folds))
            except Exception as error:
                raise RefusedError("what can't be printed") from error
            del made[known:], origins[known:]
        return pieces

    def _walked(self, program: Program, given: Given, values: Sequence[Any], caller: Macro) -> tuple[End, list[Any]]:
        """Walk a body for an item, or record it where no path is known."""
        made, origins = given.values, given.origins
        known = len(made)
        before = [(space, dict(made[space])) for space in program.spaces]
        try:
            return walk(program, given, self._sender)
        except MissError:
            del made[known:], origins[known:]
            for space, state in before:
                made[space].clear()
                made[space].update(state)
            return self._recorded(program, given, values, caller)

    def _recorded(self, program: Program, given: Given, values: Sequence[Any], caller: Macro) -> tuple[End, list[Any]]:
        tape = self._tape(given, over_messages=program.items.messages)
        item: tuple[Any, ...]
        if program.items.messages:
            items, message = program.items, Message({AT: 1}, given.item, tape)
            item = (message if items.less < 0 else Number({AT: 1, "": -items.less}, given.at - items.less, tape),)
        elif program.items.pairs:
            item = (self._key(given, tape), Later("m[1]", given.item[1], "o", tape))
        elif program.items.made:
            item = (LaterHeld(given.item, tape),)
        elif program.items.chosen:
            item = (Message({"m": 1}, given.messages[given.item], tape),)
        else:
            item = (Later("m", given.item, "o", tape),)
        seen = [taken(kind, at, values[at], given, tape) for at, kind in enumerate(program.kinds)]
        tape.namespaces = {id(values[at]): one for at, one in enumerate(seen) if type(one) is Space}
        loop = Loop(tape, program.items)

        def body() -> Any:
            return caller(loop, *(one.now() if isinstance(one, Later | LaterHeld) else one for one in item), *seen)

        leaf = self._finish(program, tape, body)
        return leaf, tape.folds

    def _key(self, given: Given, tape: Tape) -> Symbol:
        return tape.symbol("m[0]", given.item[0], From("(o if is_traced_key(m[0]) else None)", tape))

    def _unrolled(self, iterable: Any, parts: int, values: Sequence[Any], caller: Macro) -> Any:
        """Run a loop over what the template says itself, whose items have so many names."""
        pieces = []
        for item, now in LoopContext(iterable, ENVIRONMENT.undefined):
            items = (item,) if parts == 1 else tuple(item)
            if len(items) != parts:
                raise RefusedError("parts of items")
            pieces.append(caller(now, *items, *values))
        return ENVIRONMENT.concat(pieces)

    def _keep(self, number: int, values: Sequence[Any], caller: Macro, tape: Tape) -> Any:
        for value in values:
            if isinstance(value, (Undefined, *COMMON)) or type(value) is Tools:
                continue
            if value is not None and type(value) not in (str, int, bool):
                raise RefusedError("a loop over tools that needs more")
        family, tools = self._family, self._tools
        program = family.program(number, Items(messages=False), tuple(handed(value).kind for value in values))
        if tools and program not in family.unwalked:
            self._learn(program, tools, values, caller)
        keep = Keep(program, partial(family.kept, program))
        piece = self._sender.kept(keep) if tools else Piece("", [])
        return _marked(piece.text, tape.fold(keep, (piece,)), tape)

    def _learn(self, program: Program, tools: Sequence[JSON], values: Sequence[Any], caller: Macro) -> None:
        """Record the body of a loop over tools, as far as these tools ask for it."""
        try:
            for given in given_tools(program, tools):
                self._walked(program, given, values, caller)
        except (RefusedError, Exception) as error:
            _LOG.debug("a loop over tools is printed by the template: %s", said(error))
            self._family.unwalked.add(program)


def _items_of(iterable: Any) -> tuple[Items, str, str, Any]:
    """Return how a loop's items are given, the expressions of them and of their origin, and what they are now."""
    kind = type(iterable)
    if kind in (Messages, Range):
        begin = iterable.begin
        if kind is Range:
            items = iterable.items
        else:
            items = Items(messages=True, start=iterable.start if begin is None else -1, backwards=iterable.backwards)
        return items, "None" if begin is None else total(begin.form), "None", None
    if kind is Pairs:
        of = iterable.of
        return Items(messages=False, pairs=True, ordered=iterable.ordered), of.source, of.origin, of.value
    if kind is Chosen:
        return Items(messages=False, chosen=True), iterable.source, "None", iterable.positions()
    if kind is MadeList:
        return Items(messages=False, made=True), iterable.source, "None", iterable.value
    if kind in (List, Tools):
        return Items(messages=False), iterable.source, iterable.origin, iterable.value
    raise RefusedError(f"a loop over {kind.__name__}")


def said(error: BaseException) -> str:
    """Return what an error says, or its kind where a template raised it with a text of the recording."""
    return next((one for one in error.args if type(one) is str), type(error).__name__)


def _marked(text: str, number: int, tape: Tape) -> Symbol:
    """Return what stands for the text of a loop in the body around it."""
    return Symbol((("?loop", text, Mark(number, tape)),), tape)  # type: ignore[arg-type]  # origins of a recording
