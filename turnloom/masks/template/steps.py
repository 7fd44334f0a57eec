"""Reuse the beginning of a loop over messages where it prints the same as before.

Turns are located by rendering one conversation repeatedly: up to a turn, with a prompt, with another message after it.
The body of a template's outer loop becomes a step (`with_steps`), and what the steps of one loop print is kept as a
chain. Where a loop begins with the same variables, namespaces and messages, its steps print the same
up to the message before the first that differs. Those steps are skipped: their text is printed and their namespaces
are set. So every text is a true render and costs only what is new in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final, SupportsIndex

from jinja2 import Environment, Undefined, nodes
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import unsafe
from jinja2.utils import Namespace, missing

from turnloom.masks.template.provenance.runs import Tag
from turnloom.masks.template.provenance.strings import plain, runs_of, traced

#: The variable under which a template finds its steps.
STEPS: Final = "_steps"
#: Chains that are kept of one loop.
CHAINS: Final = 8
#: Names that stand for nothing outside a body.
_INNER: Final = frozenset({"loop", "caller", "varargs", "kwargs"})
#: Names of what answers otherwise next time.
_CHANCE: Final = frozenset({"random", "lipsum", "cycler", "joiner"})
#: What is the same where it is the same object; anything else may have a state.
_STATELESS: Final = (dict, list, tuple, FunctionType, BuiltinFunctionType, type)
_SCALARS: Final = (type(None), bool, int, float)
_KEPT: Final = (*_SCALARS, str, Undefined, *_STATELESS)


class Reads:
    """What a step read beside its message, the variables and the namespaces."""

    __slots__ = ("following", "reach", "whole")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.whole = False  #: something that depends on all messages
        self.following = False  #: what follows
        self.reach = -1  #: the last message read by its position


class StepLoop(LoopContext):
    """A loop that tells a step what is read of it, and that can be set forward."""

    _reads: Reads | None = None
    _chain: Chain | None = None
    _step: tuple[object, tuple[Any, ...]] | None = None  #: the message that is being printed, and the variables

    def changed(self, *value: Any) -> bool:
        """Whether the value is another than last time."""
        _read_whole(self)
        return super().changed(*value)

    def forward(self, position: int) -> None:
        """Go to a later message of a list."""
        items = self.items
        assert items is not None, "only lists are walked forward"
        self.index0 = position
        self._current = list.__getitem__(items, position)
        self._before = list.__getitem__(items, position - 1) if position else missing
        self._iterator = list.__iter__(items)
        self._iterator.__setstate__(position + 1)  # type: ignore[attr-defined]  # of list iterators
        self._after = missing

    @property
    def items(self) -> list[Any] | None:
        """Return what it iterates over, where that is a list."""
        return self._iterable if isinstance(self._iterable, list) else None


def _read_whole(told: StepLoop | MessageList) -> None:
    if told._reads is not None:
        told._reads.whole = True


def _following(ask: Callable[[Any], Any]) -> property:
    def get(loop: StepLoop) -> Any:
        if loop._reads is not None:
            loop._reads.following = True
        return ask(loop)

    return property(get)


def _length(ask: Callable[[Any], Any]) -> property:
    def get(loop: StepLoop) -> Any:
        _read_whole(loop)
        return ask(loop)

    return property(get)


for _name in ("last", "nextitem"):
    setattr(StepLoop, _name, _following(getattr(LoopContext, _name).fget))
for _name in ("length", "revindex", "revindex0"):
    setattr(StepLoop, _name, _length(getattr(LoopContext, _name).fget))


class MessageList(list[Any]):
    """The messages, telling a step which of them are read."""

    _reads: Reads | None = None

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        if type(key) is not int or not 0 <= key < list.__len__(self):
            _read_whole(self)
        elif self._reads is not None:
            self._reads.reach = max(self._reads.reach, key)
        found = list.__getitem__(self, key)
        return MessageList(found) if type(key) is slice else found


def _told(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    def call(self: MessageList, *args: Any) -> Any:
        _read_whole(self)
        found = method(self, *args)
        return MessageList(found) if type(found) is list else found

    call.__name__ = name
    return call


for _name in ["iter", "reversed", "len", "contains", "eq", "ne", "lt", "le", "gt", "ge", "add", "mul", "rmul"]:
    setattr(MessageList, f"__{_name}__", _told(f"__{_name}__"))
for _name in ("index", "count", "copy"):
    setattr(MessageList, _name, _told(_name))
MessageList.__hash__ = None
# Jinja's error texts name the type of what they were given; a refusal must read as it does without steps.
for _kind, _own in ((MessageList, list), (StepLoop, LoopContext)):
    _kind.__module__, _kind.__name__ = _own.__module__, _own.__name__


def _identities(items: list[Any]) -> list[int]:
    return list(map(id, list.__iter__(items)))


def is_stateless(value: object) -> bool:
    """Whether a value stays what it is while it is the same object."""
    return isinstance(value, _KEPT)


def same(one: object, other: object) -> bool:
    """Whether two values print and compare alike; containers are the same where they are one object."""
    if one is other:
        return True
    if isinstance(one, str):
        return type(one) is type(other) and one == other and runs_of(one) == runs_of(other)
    if isinstance(one, Undefined):
        return type(one) is type(other)
    return isinstance(one, _SCALARS) and type(one) is type(other) and one == other


def _alike(was: object, now: object) -> bool:
    """Whether a variable can be what it was; namespaces and lists of messages are compared by themselves."""
    if isinstance(was, Namespace) or type(was) is MessageList:
        return type(now) is type(was)
    if type(was) is Macro:
        return type(now) is Macro and was.name == now.name
    return same(was, now)


def _inside(space: Namespace) -> dict[str, object]:
    inside: dict[str, object] = object.__getattribute__(space, "_Namespace__attrs")
    return inside


class Chain:
    """What the steps of one loop printed, in order, under what they began with."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        """Begin with no step.

        Args:
            values: the variables around the loop.
        """
        self.values = values
        self.spaces = [at for at, value in enumerate(values) if isinstance(value, Namespace)]
        self.lists = [at for at, value in enumerate(values) if type(value) is MessageList]
        self._begin = self._state(values)
        self._items: list[Any] = []  #: of the steps; alive as long as their ids are compared
        self._next: list[tuple[bool, object]] = []  #: of each step: whether it read what follows, and that
        self._reach: list[int] = []  #: last position read by any step so far
        self._states: list[list[dict[str, object]]] = []  #: what the namespaces hold after each step
        self._read: dict[int, list[Any]] = {at: values[at] for at in self.lists}
        self._text, self._ends = "", list[int]()
        self._runs, self._run_ends = list[tuple[int, Tag]](), list[int]()
        self._traced = False
        self.open = (
            all(map(_is_kept, values))
            and all(is_stateless(value) for state in self._begin for value in state.values())
            and len({id(values[at]) for at in self.spaces}) == len(self.spaces)
        )

    def __len__(self) -> int:
        return len(self._items)

    def _state(self, values: Sequence[Any]) -> list[dict[str, object]]:
        return [dict(_inside(values[at])) for at in self.spaces]

    def begins(self, values: tuple[Any, ...]) -> bool:
        """Whether a loop begins as this one did."""
        if not all(map(_alike, self.values, values)):
            return False
        return all(map(_same_state, self._begin, self._state(values)))

    def starts(self, items: list[Any]) -> bool:
        """Whether it has no step, or a loop over these messages has the same first one."""
        return not self._items or (bool(list.__len__(items)) and list.__getitem__(items, 0) is self._items[0])

    def shared(self, values: tuple[Any, ...], items: list[Any]) -> int:
        """Count the steps that print the same again; drop those that a longer loop continues from otherwise."""
        steps = equal = _common(items, self._items)
        following = list.__getitem__(items, steps) if steps < list.__len__(items) else None
        if steps and self._next[steps - 1][0] and (following is None or self._next[steps - 1][1] is not following):
            steps -= 1
        if steps and self._reach[steps - 1] >= 0:
            read = min(_common(values[at], self._read[at]) for at in self.lists)
            while steps and self._reach[steps - 1] >= read:
                steps -= 1
        if equal < len(self._items) < list.__len__(items):
            self._drop(steps)
        return steps

    def _drop(self, steps: int) -> None:
        for kept in (self._items, self._next, self._reach, self._states, self._ends, self._run_ends):
            del kept[steps:]
        self._text = self._text[: self._ends[-1]] if steps else ""
        del self._runs[self._run_ends[-1] if steps else 0 :]

    def again(self, values: tuple[Any, ...], steps: int) -> str:
        """Set what the first steps set, and return what they printed."""
        for at, state in zip(self.spaces, self._states[steps - 1], strict=True):
            _inside(values[at]).update(state)
        text = self._text[: self._ends[steps - 1]]
        runs = tuple(self._runs[: self._run_ends[steps - 1]])
        return traced(text, runs) if self._traced else text

    def add(self, values: tuple[Any, ...], loop: StepLoop, target: object, reads: Reads, text: str) -> None:
        """Add a step that has just printed."""
        state, items, following = self._state(values), loop.items or [], loop.index0 + 1
        self.open = all(is_stateless(value) for one in state for value in one.values())
        if reads.whole or not self.open or (reads.following and following >= list.__len__(items)):
            return
        self._items.append(target)
        after = list.__getitem__(items, following) if reads.following else None
        self._next.append((reads.following, after))
        self._reach.append(max(reads.reach, self._reach[-1] if self._reach else -1))
        for at in self.lists:
            self._read[at] = values[at]
        same = self._states and all(map(_same_state, self._states[-1], state))
        self._states.append(self._states[-1] if same else state)
        self._traced |= type(text) is not str
        self._text += plain(text)
        self._ends.append(len(self._text))
        self._runs += runs_of(text)
        self._run_ends.append(len(self._runs))


def _common(one: list[Any], other: list[Any]) -> int:
    """Count the objects that two lists share from the beginning."""
    mine, others = _identities(one), _identities(other)
    if mine[: len(others)] == others:
        return len(others)
    if others[: len(mine)] == mine:
        return len(mine)
    return next(at for at, pair in enumerate(zip(mine, others, strict=False)) if pair[0] != pair[1])


def _same_state(one: dict[str, object], other: dict[str, object]) -> bool:
    return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())


def _is_kept(value: object) -> bool:
    return isinstance(value, (Namespace, Macro)) or is_stateless(value) or callable(value)


class Steps:
    """The chains of one conversation; a template asks them before and after a loop's body (`lookups`)."""

    def __init__(self) -> None:
        """Begin with nothing kept."""
        self._chains: dict[int, list[Chain]] = {}  #: by site

    @unsafe
    def begin(self, site: int, loop: StepLoop, target: object, *values: Any) -> str | None:
        """Begin a message: return what is printed of it and those before it, or None where its body must print.

        Args:
            site: which of the template's loops.
            loop: the loop.
            target: what the loop is at.
            values: what the names mean that the body may use.
        """
        chain, items = loop._chain, loop.items
        if chain is None and loop.index0 == 0 and items is not None:
            loop._chain = chain = self._chain(site, items, values)
            steps = chain.shared(values, items) if len(chain) else 0
            if steps:
                loop.forward(steps - 1)
                return chain.again(values, steps)
        if chain is not None and chain.open and len(chain) == loop.index0:
            loop._step = target, values
            loop._reads = reads = Reads()
            for at in chain.lists:
                values[at]._reads = reads
        return None

    @unsafe
    def end(self, loop: StepLoop, text: str) -> str:
        """Keep and return what the body printed."""
        chain, step, reads = loop._chain, loop._step, loop._reads
        if chain is None or step is None or reads is None:
            return text
        target, values = step
        loop._step = loop._reads = None
        for at in chain.lists:
            values[at]._reads = None
        chain.add(values, loop, target, reads, text)
        return text

    def _chain(self, site: int, items: list[Any], values: tuple[Any, ...]) -> Chain:
        chains = self._chains.setdefault(site, [])
        for chain in chains:
            if chain.starts(items) and chain.begins(values):
                return chain
        chains.append(Chain(values))
        del chains[:-CHAINS]
        return chains[-1]


def with_steps(tree: nodes.Template, environment: Environment) -> nodes.Template:
    """Make a step of the body of every outer loop that can be followed; changes the tree."""
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    if not may_differ(tree, macros):
        for site, loop in enumerate(_outer_loops(tree)):
            names = _names(loop, macros)
            if names is not None:
                arguments: list[nodes.Expr] = [nodes.Const(site), *(nodes.Name(name, "load") for name in names)]
                call = nodes.Call(nodes.Name(STEPS, "load"), arguments, [], None, None)
                loop.body = [nodes.CallBlock(call, [], [], loop.body)]
                loop.set_lineno(loop.lineno).set_environment(environment)
    return tree


def may_differ(tree: nodes.Template, macros: Mapping[str, nodes.Macro]) -> bool:
    """Whether the template may print something else under the same variables, or has two macros of one name."""
    named = [name.name for name in tree.find_all(nodes.Name)]
    named += [filter_.name for filter_ in tree.find_all(nodes.Filter)]
    return not _CHANCE.isdisjoint(named) or len(macros) < len(list(tree.find_all(nodes.Macro)))


def _outer_loops(node: nodes.Node) -> Iterator[nodes.For]:
    for child in node.iter_child_nodes():
        if isinstance(child, nodes.For):
            yield child
        elif not isinstance(child, nodes.Macro):
            yield from _outer_loops(child)


def _names(loop: nodes.For, macros: Mapping[str, nodes.Macro]) -> list[str] | None:
    """Return `loop`, the target, and every name used by the body and macros it may call; None: not a step."""
    if loop.recursive or not isinstance(loop.target, nodes.Name) or any(map(_leaves, loop.body)):
        return None
    if any(isinstance(slice_.step, nodes.Neg) for slice_ in loop.iter.find_all(nodes.Slice)):
        return None  # from the end: no two prefixes begin alike
    used = used_names(loop.body, macros)
    called = [macros[name] for name in used & macros.keys()]
    if any(loop.target.name in _free(macro) for macro in called):
        return None
    return ["loop", loop.target.name, *sorted(used - {loop.target.name})]


def used_names(body: Sequence[nodes.Node], macros: Mapping[str, nodes.Macro]) -> set[str]:
    """Return every name used by statements and by the macros that they may call."""
    used = {name for node in body for name in _used(node)}
    seen: set[str] = set()
    while called := (used & macros.keys()) - seen:
        for name in called:
            used |= _free(macros[name])
        seen |= called
    return used - _INNER


def _free(macro: nodes.Macro) -> set[str]:
    own = {argument.name for argument in macro.args}
    return {one for node in (*macro.body, *macro.defaults) for one in _used(node)} - own


def _used(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Name | nodes.NSRef):
        yield node.name
    for child in node.iter_child_nodes():
        yield from _used(child)


def _leaves(node: nodes.Node) -> bool:
    """Whether a statement may leave the loop around it."""
    if isinstance(node, nodes.Break | nodes.Continue | nodes.Block):
        return True
    return not isinstance(node, nodes.For) and any(map(_leaves, node.iter_child_nodes()))
