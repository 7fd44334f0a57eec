"""Record renders of one template under one set of settings, and walk what was recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple, cast

from jinja2 import Template, Undefined, nodes
from jinja2.runtime import LoopContext, Macro

from turnloom.masks.domain.conversation import JSON
from turnloom.masks.domain.rendered_text import TOOLS
from turnloom.masks.replay.symbols import Opaque, RefusedError, Symbol, atoms_of, is_symbolic
from turnloom.masks.template.environment import TRACED_NAMES, TracedEnvironment
from turnloom.masks.template.provenance.messages import traced_tools
from turnloom.masks.template.provenance.strings import plain, runs_of
from turnloom.masks.trajectory.environment import ENVIRONMENT, RECORDED_NAMES, RECORDER
from turnloom.masks.trajectory.folds import FOLD, Folded, Site, with_folds
from turnloom.masks.trajectory.program import (
    WHOLE,
    Ask,
    Fold,
    Items,
    Keep,
    Leaf,
    Load,
    Make,
    Missing,
    MissError,
    Path,
    Piece,
    Program,
    Refusal,
    Store,
    UnreplayableError,
    add_run,
)
from turnloom.masks.trajectory.straight import WALKS, source_of
from turnloom.masks.trajectory.tape import Code, Environment, From, Mark, Tape, grow, is_own
from turnloom.masks.trajectory.values import (
    Dict,
    Fraction,
    List,
    Loop,
    Message,
    Messages,
    Number,
    Pairs,
    Space,
    depth_of,
    expression_of,
    total,
    wrapped,
)

#: Paths that one template under one set of settings may have; senders choose what messages look like.
MOST_PATHS: Final = 8192
_TRACED: Final = TracedEnvironment()
_REFUSAL: Final = Refusal()


class Unusable(Opaque):
    """A value that can't be handed to a body: any use refuses."""

    __slots__ = ()


class Tools(List):
    """The tools; a loop over them depends on no message."""

    __slots__ = ()


@lru_cache(maxsize=64)
def compiled(source: str) -> tuple[Template, Folded] | None:
    """Compile a template whose loops are calls; None: it can't be followed."""
    tree = ENVIRONMENT.parse(source)
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        name = node.attr if isinstance(node, nodes.Getattr) else getattr(cast("nodes.Getitem", node).arg, "value", "")
        if isinstance(name, str) and name.startswith("_"):
            return None
    folded = with_folds(tree, ENVIRONMENT)
    if folded is None:
        return None
    template = Template.from_code(ENVIRONMENT, ENVIRONMENT.compile(folded.tree), ENVIRONMENT.make_globals(None))
    template.root_render_func.__globals__.update(RECORDED_NAMES)
    return template, folded


class Handed(NamedTuple):
    """A variable as it is handed to a body."""

    kind: Hashable
    source: str = "None"
    origin: str = "None"


class Family:
    """All programs of one template under one set of settings; threads may share it."""

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        """Begin with nothing recorded.

        Args:
            source: of the template.
            variables: that it gets beside messages, tools and add_generation_prompt.
        """
        self.compiled = compiled(source)
        self.variables = dict(variables)
        self.code = Code()
        self.programs: dict[Hashable, Program] = {}
        self.paths = 0
        self.lock = threading.RLock()
        self._kept: dict[int, Template] = {}

    def program(self, site: int, items: Items, kinds: tuple[Hashable, ...]) -> Program:
        """Return the program of a body under variables of these kinds."""
        key = (site, items, kinds)
        found = self.programs.get(key)
        if found is None:
            spaces = tuple(at for at, kind in enumerate(kinds) if kind == ("space",))
            found = self.programs[key] = Program(site, items, kinds, spaces=spaces)
        return found

    def top(self, tools: Sequence[JSON] | None, *, prompt: bool) -> Program:
        """Return the program of everything outside loops."""
        return self.program(-1, Items(messages=False), (prompt, tools is None))

    def forget(self) -> None:
        """Drop all programs."""
        self.programs.clear()
        self.paths = 0

    def straightened(self, program: Program) -> Callable[..., tuple[Leaf, list[Any]]] | None:
        """Return a program's tree as one function."""
        written = source_of(program)
        return None if written is None else self.code.function(*written, _run_fold=run_fold)

    def kept(self, site: int, tools: Sequence[JSON] | None, values: Mapping[str, Any]) -> Piece:
        """Print a loop that depends on no message, with provenance."""
        template = self._kept.get(site)
        if template is None:
            assert self.compiled is not None, "only then is there a loop"
            folded = self.compiled[1]
            body = [*map(deepcopy, folded.macros), deepcopy(folded.sites[site].loop)]
            tree = nodes.Template(body, lineno=1).set_environment(_TRACED)
            template = Template.from_code(_TRACED, _TRACED.compile(tree), _TRACED.make_globals(None))
            template.root_render_func.__globals__.update(TRACED_NAMES)
            self._kept[site] = template
        text = template.render({**self.variables, **values, "tools": traced_tools(tools)})
        runs: list[tuple[int, Any]] = []
        for length, tag in runs_of(text):
            add_run(runs, length, tag)  # type: ignore[arg-type]  # no generation block is kept
        return Piece(plain(text), runs)


def walk(program: Program, arguments: Environment, sender: Any) -> tuple[Leaf, list[Any]]:
    """Return where an item's answers lead, and what the loops on the way printed.

    Raises:
        MissError: nowhere yet.
        UnreplayableError: to what can't be recorded.
    """
    straight = program.straight
    if straight is not None:
        try:
            return straight(*arguments, sender)
        except (MissError, UnreplayableError):
            raise
        except Exception as error:  # a question that can't be put to this item: a recording tells
            raise MissError from error
    program.walks += 1
    if program.walks == WALKS:
        program.straight = sender.straightened(program)
    node: Path | None = program.root
    values, origins = arguments[5], arguments[6]
    folds: list[Any] = []
    try:
        while True:
            kind = type(node)
            if kind is Ask:
                node = node.answers.get(node.ask(*arguments))  # type: ignore[union-attr]
            elif kind is Leaf:
                return node, folds  # type: ignore[return-value]
            elif kind is Fold:
                folds.append(run_fold(node, arguments, sender))  # type: ignore[arg-type]
                node = node.then  # type: ignore[union-attr]
            elif kind is Load:
                held = values[node.space].get(node.name, Missing)  # type: ignore[union-attr]
                values.append(held)
                origins.append(getattr(held, "origin", None))
                node = node.then  # type: ignore[union-attr]
            elif kind is Store:
                values[node.space][node.name] = node.value(*arguments)  # type: ignore[union-attr]
                node = node.then  # type: ignore[union-attr]
            elif kind is Make:
                values.append({})
                origins.append(None)
                node = node.then  # type: ignore[union-attr]
            elif kind is Keep:
                folds.append((sender.kept(node),))
                node = node.then  # type: ignore[union-attr]
            elif kind is Refusal:
                raise UnreplayableError("a body that is not recorded")
            else:
                raise MissError
    except (MissError, UnreplayableError):
        raise
    except Exception as error:  # a question that can't be put to this item: a recording tells
        raise MissError from error


def items_of(program: Program, given: Any) -> list[Any]:
    """Return the items of a loop over JSON values."""
    return list(given.items()) if program.items.pairs else given


def run_fold(fold: Fold, arguments: Environment, sender: Any) -> list[Piece]:
    """Run a loop and return what each step printed."""
    program = fold.program
    if fold.own:
        known = sender.printed.get((fold, arguments[2]))
        if known is not None and known[0] is arguments[3]:
            return cast("list[Piece]", known[1])
    values, origins = fold.values(*arguments), fold.origins(*arguments)
    if program.items.messages:
        return cast("list[Piece]", sender.over_messages(program, arguments[0], values, origins, fold.items(*arguments)))
    items = items_of(program, fold.items(*arguments))
    from_ = fold.origin(*arguments)
    pieces, count, size = [], len(items), len(values)
    for at, item in enumerate(items):
        given = (arguments[0], count, at, item, from_, values, origins)
        pieces.append(walked(program, given, sender)[1])  # type: ignore[arg-type]
        del values[size:], origins[size:]
    if fold.own:
        sender.printed[fold, arguments[2]] = arguments[3], pieces
    return pieces


def walked(program: Program, arguments: Environment, sender: Any) -> tuple[Leaf, Piece]:
    """Return where an item's answers lead, and what is printed of it; errors as `walk`."""
    leaf, folds = walk(program, arguments, sender)
    own = program.items.messages and leaf.blanks is not None and not any([folds[at] for at in leaf.blanks])
    if own:
        known = sender.printed.get((leaf, arguments[2]))
        if known is not None and known[0] is arguments[3]:
            return leaf, known[1]
    try:
        piece = leaf.printed(*arguments, folds)
    except Exception as error:
        raise UnreplayableError("what can't be printed") from error
    if program.items.messages:
        piece = sender.interned(piece, arguments[2])
        if own:
            sender.printed[leaf, arguments[2]] = arguments[3], piece
    return leaf, piece


class Recorder:
    """One render that is recorded: bodies whose paths are known are walked, others run."""

    def __init__(self, family: Family, messages: list[dict[str, Any]], tools: Sequence[JSON] | None, sender: Any) -> None:
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

    def record(self, *, prompt: bool) -> None:
        """Run the template and add what is new.

        Raises:
            RefusedError: it can't be followed.
            Exception: whatever the template raises.
        """
        family = self._family
        assert family.compiled is not None, "asked for only where it can be followed"
        program = family.top(self._tools, prompt=prompt)
        given = Environment(self._messages, len(self._messages), 0, None, None, [self._tools], [None])
        tape = self._tape(given, over_messages=False)
        tools = None if self._tools is None else Tools("V[0]", self._tools, f"origin({TOOLS}, 'tools')", tape)
        variables = {
            **family.variables, "messages": Messages(tape), "tools": tools, "add_generation_prompt": prompt,
            RECORDER: self, FOLD: self.fold,
        }  # fmt: skip
        template = family.compiled[0]
        context = template.new_context(variables)
        self._finish(program, tape, lambda: template.environment.concat(template.root_render_func(context)))

    def space(self) -> Space:
        """Make a namespace in the body that runs."""
        tape = self._tapes[-1]
        return Space(tape, tape.make())

    def _tape(self, given: Environment, *, over_messages: bool) -> Tape:
        return Tape(self._family.code, given, self._is_current, over_messages=over_messages)

    def _is_current(self, tape: Tape) -> bool:
        return bool(self._tapes) and self._tapes[-1] is tape

    def _finish(self, program: Program, tape: Tape, body: Callable[[], Any]) -> Leaf:
        """Run a body and add its path."""
        family = self._family
        self._tapes.append(tape)
        end: Path
        try:
            text = body()
            atoms = atoms_of(text)
            leaf = end = tape.leaf(atoms)
        except UnreplayableError:
            raise  # an item of a loop inside, not this body
        except (RefusedError, Exception) as error:
            if self._blamed is not error:  # a body refuses or raises always after the same answers
                self._blamed = error
                self._grow(program, tape, _REFUSAL)
            raise
        finally:
            if self._tapes[-1] is tape:
                self._tapes.pop()
        self._grow(program, tape, end)
        if family.paths > MOST_PATHS:
            family.forget()
            raise RefusedError("too many paths")
        return leaf

    def _grow(self, program: Program, tape: Tape, end: Path) -> None:
        program.root = grow(program.root, tape.steps, end)
        program.walks, program.straight = 0, None
        self._family.paths += 1

    def fold(self, number: int, iterable: Any, *values: Any, caller: Macro) -> Any:
        """Run a loop for the template that is recorded."""
        tape = self._tapes[-1]
        assert self._family.compiled is not None, "it runs"
        site = self._family.compiled[1].sites[number]
        if type(iterable) is Tools:
            return self._keep(number, site, values, tape)
        if not is_symbolic(iterable):
            return self._unrolled(iterable, values, caller)
        if type(iterable) is Messages:
            begin = iterable.begin
            items = Items(messages=True, start=iterable.start if begin is None else -1, backwards=iterable.backwards)
            source, origin, given = "None" if begin is None else total(begin.form), "None", None
        elif type(iterable) is Pairs:
            if len(site.targets) != 2:
                raise RefusedError("pairs")
            items = Items(messages=False, pairs=True)
            source, origin, given = iterable.of.source, iterable.of.origin, iterable.of.value
        elif type(iterable) is List:
            items = Items(messages=False)
            source, origin, given = iterable.source, iterable.origin, iterable.value
        else:
            raise RefusedError(f"a loop over {type(iterable).__name__}")
        if not items.pairs and len(site.targets) != 1:
            raise RefusedError("parts of items")
        tape.check()
        handed = [_handed(value) for value in values]
        program = self._family.program(number, items, tuple(one.kind for one in handed))
        code = self._family.code
        sources = ", ".join(one.source for one in handed)
        origins = ", ".join(one.origin for one in handed)
        if "V[" in sources or "V[" in source or "O[" in origins:
            tape.stateless = False
        tape.shares |= any(type(value) is Space and value._variable < tape.variables for value in values)
        if items.messages and tape.over_messages:
            tape.looked(WHOLE)
        fold = Fold(
            program,
            code.compiled(source),
            code.compiled(origin),
            code.compiled(f"[{sources}]"),
            code.compiled(f"[{origins}]"),
            f"{source} {origin} {sources} {origins}",
            tape.over_messages and not items.messages and is_own(f"{source} {origin} {sources} {origins}"),
        )
        pieces = self._run(fold, given, values, caller, tape)
        for value in values:
            if type(value) is Space:
                value.forget()
        return _marked("".join(piece.text for piece in pieces), tape.fold(fold, pieces), tape)

    def _run(self, fold: Fold, given: Any, values: Sequence[Any], caller: Macro, tape: Tape) -> list[Piece]:
        program, arguments = fold.program, tape.given
        made, origins = fold.values(*arguments), fold.origins(*arguments)
        messages = self._messages
        if program.items.messages:
            first = program.items.start if program.items.start >= 0 else fold.items(*arguments)
            order: list[int] = list(range(first, len(messages)))
            if program.items.backwards:
                order.reverse()
            steps = [(len(messages), at, messages[at], None) for at in order]
        else:
            from_ = fold.origin(*arguments)
            items = items_of(program, given)
            steps = [(len(items), at, item, from_) for at, item in enumerate(items)]
        pieces = []
        known = len(made)
        for count, at, item, from_ in steps:
            one = Environment(messages, count, at, item, from_, made, origins)
            before = [(space, dict(made[space])) for space in program.spaces]
            try:
                leaf, folds = walk(program, one, self._sender)
            except MissError:
                del made[known:], origins[known:]
                for space, state in before:
                    made[space].clear()
                    made[space].update(state)
                leaf, folds = self._recorded(program, one, values, caller)
            try:
                pieces.append(leaf.printed(*one, folds))
            except Exception as error:
                raise RefusedError("what can't be printed") from error
            del made[known:], origins[known:]
        return pieces

    def _recorded(
        self, program: Program, given: Environment, values: Sequence[Any], caller: Macro
    ) -> tuple[Leaf, list[Any]]:
        tape = self._tape(given, over_messages=program.items.messages)
        item: tuple[Any, ...]
        if program.items.messages:
            item = (Message({"a": 1}, given.item, tape),)
        elif program.items.pairs:
            item = (self._key(given, tape), _Later("m[1]", given.item[1], "o", tape))
        else:
            item = (_Later("m", given.item, "o", tape),)
        taken = [_taken(kind, at, values[at], given, tape) for at, kind in enumerate(program.kinds)]
        loop = Loop(tape, program.items)

        def body() -> Any:
            return caller(loop, *(one.now() if type(one) is _Later else one for one in item), *taken)

        leaf = self._finish(program, tape, body)
        return leaf, tape.folds

    def _key(self, given: Environment, tape: Tape) -> Symbol:
        return tape.symbol("m[0]", given.item[0], From("(o if is_traced_key(m[0]) else None)", tape))

    def _unrolled(self, iterable: Any, values: Sequence[Any], caller: Macro) -> Any:
        """Run a loop over what the template says itself."""
        loop = LoopContext(iterable, ENVIRONMENT.undefined)
        return ENVIRONMENT.concat([caller(now, item, *values) for item, now in loop])

    def _keep(self, number: int, site: Site, values: Sequence[Any], tape: Tape) -> Any:
        named = {}
        for name, value in zip(site.names, values, strict=True):
            if isinstance(value, Undefined | Macro) or type(value) is Tools or callable(value):
                continue
            if value is not None and type(value) not in (str, int, bool):
                raise RefusedError("a loop over tools that needs more")
            named[name] = value
        family, tools = self._family, self._tools
        keep = Keep((number, *named.items()), partial(family.kept, number, values=named))
        piece = self._sender.kept(keep) if tools else Piece("", [])
        return _marked(piece.text, tape.fold(keep, (piece,)), tape)


class _Later(NamedTuple):
    """An item whose kind is asked when its body begins."""

    source: str
    value: Any
    origin: str
    tape: Tape

    def now(self) -> Any:
        return wrapped(self.source, self.value, self.origin, self.tape.ask(f"kind({self.source})"), self.tape)


def _marked(text: str, number: int, tape: Tape) -> Symbol:
    """Return what stands for the text of a loop in the body around it."""
    return Symbol((("?loop", text, Mark(number, tape)),), tape)  # type: ignore[arg-type]  # origins of a recording


def _handed(value: Any) -> Handed:
    """Return how a variable is handed to a body, with its kind."""
    if isinstance(value, Undefined):
        return Handed(("undefined", value._undefined_name))
    if isinstance(value, Macro):
        return Handed(("macro", value.name))
    if value is None or type(value) in (str, int, bool, float):
        return Handed(("constant", type(value), value))
    if type(value) is Symbol:
        try:
            return Handed(("text",), *expression_of(value))
        except RefusedError:
            return Handed(("unusable",))
    if type(value) is Tools:
        return Handed(("tools",), value.source, value.origin)
    if type(value) is Message:
        return Handed(("message",), value.place)
    if type(value) in (Dict, List):
        return Handed(("json", type(value)), value.source, value.origin)
    if type(value) is Messages:
        return Handed(("messages", value.start, value.backwards) if value.begin is None else ("unusable",))
    if type(value) is Number:
        value.tape.looked(WHOLE if depth_of(value.form, value.tape) else 0)
        return Handed(("number",), total(value.form))
    if type(value) is Fraction:
        return Handed(("fraction",), value.source)
    if type(value) is Space:
        return Handed(("space",), f"V[{value._variable}]")
    if is_symbolic(value) or isinstance(value, LoopContext):
        return Handed(("unusable",))
    if isinstance(value, list | tuple | dict):
        return Handed(("constant", type(value), repr(value)) if _is_plain(value) else ("unusable",))
    return Handed(("object", id(value)))


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, bool, float)


def _taken(kind: Any, at: int, value: Any, given: Environment, tape: Tape) -> Any:
    """Return what a body sees of a variable."""
    name = kind[0]
    source, origin, held = f"V[{at}]", f"O[{at}]", given.values[at]
    if name == "text":
        return tape.symbol(source, held, From(origin, tape))
    if name == "tools":
        return Tools(source, held, origin, tape)
    if name == "json":
        return kind[1](source, held, origin, tape)
    if name == "message":
        return Message({source: 1}, given.messages[held], tape)
    if name == "messages":
        return Messages(tape, kind[1], backwards=kind[2])
    if name == "number":
        return Number({source: 1}, held, tape)
    if name == "fraction":
        return Fraction(source, held, tape)
    if name == "space":
        return Space(tape, at)
    return Unusable() if name == "unusable" else value
