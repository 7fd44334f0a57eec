"""Tell from a template's syntax whether it takes a message's content as one text only.

Inference servers look at the template, too: where no loop goes over the content, they hand it one text made of the
parts. This looks closer, and says no where it can't tell. Whatever may hold a content is followed through variables,
macros and namespaces. A template that takes only text prints and tests it, and does with it what texts allow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from jinja2 import nodes

_CONTENT: Final = "content"  #: the key of messages that is followed
_TEXT: Final = "text"  #: the key under which a part has its text
#: The filter that writes lists as JSON.
_WRITES: Final = "tojson"
#: Filters that make a text, or a number, of whatever they are given.
_OF_TEXTS: Final = frozenset(
    {"trim", "string", "length", "count", "safe", "e", "escape", "upper", "lower", "title", "capitalize"}
    | {"replace", "indent", "striptags", "truncate", "wordcount", _WRITES}
)
#: Filters that may return what they are given.
_DEFAULTS: Final = frozenset({"default", "d"})
#: Methods that texts have and lists have not; what they return holds no part.
_METHODS: Final = frozenset(dir(str)) - frozenset(dir(list))
#: Of these, methods of another text that may walk through what they are given.
_WALKING: Final = frozenset({"join", "format_map"})
#: Functions that keep what they are given by name.
_KEEPING: Final = frozenset({"namespace", "dict"})
_RAISES: Final = "raise_exception"


def takes_only_text(tree: nodes.Template) -> bool:
    """Return whether the template does nothing with a content that is not done with one text.

    False: it reads parts of a content, or this can't be told.
    """
    contents = _Contents(tree)
    return contents.read() and not (
        any(map(contents.is_list_use, tree.find_all(nodes.Node)))
        or contents.read_text_of_parts()
        or contents.named_otherwise()
        or contents.written_unless_string()
    )


class _Contents:
    """What may hold a content in one template. A name means the same in all its blocks and macros: more may hold."""

    def __init__(self, tree: nodes.Template) -> None:
        self._tree = tree
        macros = list(tree.find_all(nodes.Macro))
        defined = Counter(macro.name for macro in macros)
        self._macros = {macro.name: macro for macro in macros if defined[macro.name] == 1}
        self._names: set[str] = set()  #: variables that may hold a content
        self._keys = {_CONTENT}  #: keys and attributes that may
        self._told = {"messages"}  #: variables that may hold anything that the messages say
        bound = [pair for node in tree.find_all(nodes.Node) for pair in self._bound(node)]
        known = -1
        while known != (known := len(self._names) + len(self._keys) + len(self._told)):
            for target, value in bound:
                if self._holds(value):
                    self._hold(target)
                if self._tells(value):
                    self._told.update(name for node in _within(target) if (name := _name(node)))

    def _bound(self, node: nodes.Node) -> Iterable[tuple[nodes.Node, nodes.Node]]:
        """Return what a node gives a name, as (target, value)."""
        if isinstance(node, nodes.Assign):
            return [(node.target, node.node)]
        if isinstance(node, nodes.For):
            return [(node.target, node.iter)]
        if isinstance(node, nodes.With):
            return zip(node.targets, node.values, strict=True)
        if isinstance(node, nodes.Pair):
            return [(node.key, node.value)]
        if isinstance(node, nodes.Keyword):
            return [(nodes.Const(node.key), node.value)]
        if isinstance(node, nodes.Macro):
            return zip(node.args[len(node.args) - len(node.defaults) :], node.defaults, strict=True)
        macro = self._macro(node)
        if macro is None:
            return []
        assert isinstance(node, nodes.Call)  # asked by _macro
        named = {keyword.key: keyword.value for keyword in node.kwargs}
        by_name = [(parameter, named[parameter.name]) for parameter in macro.args if parameter.name in named]
        return [*zip(macro.args, node.args, strict=False), *by_name]

    def _macro(self, node: nodes.Node) -> nodes.Macro | None:
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
            return self._macros.get(node.node.name)
        return None

    def _hold(self, target: nodes.Node) -> None:
        if isinstance(target, nodes.Name):
            self._names.add(target.name)
        elif isinstance(target, nodes.NSRef):
            self._keys.add(target.attr)
        elif isinstance(target, nodes.Const):
            self._keys.add(target.value)

    def _holds(self, node: nodes.Node | None) -> bool:
        """Whether what an expression gives may be a content."""
        if isinstance(node, nodes.Name):
            return node.name in self._names
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
            return self._holds(node.node)
        if isinstance(node, nodes.CondExpr):
            return self._holds(node.expr1) or self._holds(node.expr2)
        if isinstance(node, nodes.And | nodes.Or | nodes.Add | nodes.Mul):
            return self._holds(node.left) or self._holds(node.right)
        if isinstance(node, nodes.Filter) and node.name in _DEFAULTS:
            return any(map(self._holds, [node.node, *_given(node)]))
        return node is not None and _key(node) in self._keys

    def _tells(self, node: nodes.Node) -> bool:
        return any(_name(inner) in self._told or _key(inner) in self._keys for inner in _within(node))

    def read(self) -> bool:
        """Whether a content is read at all, and not only printed with its message."""
        return any(_key(node) == _CONTENT for node in self._tree.find_all(nodes.Node))

    def is_list_use(self, node: nodes.Node) -> bool:
        """Whether a node may look into a content as into a list, or takes it where it can't be followed."""
        holds = self._holds
        if isinstance(node, nodes.For):
            return holds(node.iter)
        if isinstance(node, nodes.Assign):
            return isinstance(node.target, nodes.Tuple) and holds(node.node)
        if isinstance(node, nodes.List | nodes.Tuple):
            return any(map(holds, node.items))
        if isinstance(node, nodes.Pair):
            return holds(node.value) and not isinstance(node.key, nodes.Const)
        if isinstance(node, nodes.Getitem):
            return holds(node.node) and not isinstance(node.arg, nodes.Slice)
        if isinstance(node, nodes.Getattr):
            return holds(node.node) and node.attr not in _METHODS
        if isinstance(node, nodes.Filter):
            return any(map(holds, [node.node, *_given(node)])) and node.name not in _OF_TEXTS | _DEFAULTS
        return isinstance(node, nodes.Call) and self._is_lost(node)

    def _is_lost(self, call: nodes.Call) -> bool:
        """Whether a call is given a content and does with it what is not known."""
        if call.dyn_args is not None or call.dyn_kwargs is not None:
            return any(map(self._holds, (call.dyn_args, call.dyn_kwargs)))
        given = [at for at, argument in enumerate(call.args) if self._holds(argument)]
        named = [keyword.key for keyword in call.kwargs if self._holds(keyword.value)]
        macro = self._macro(call)
        if macro is not None:
            parameters = [parameter.name for parameter in macro.args]
            return any(at >= len(parameters) for at in given) or not set(named) <= set(parameters)
        if isinstance(call.node, nodes.Name) and call.node.name in _KEEPING:
            return bool(given)
        if isinstance(call.node, nodes.Name) and call.node.name == _RAISES:
            return False
        known = isinstance(call.node, nodes.Getattr) and call.node.attr in _METHODS - _WALKING
        return bool(given or named) and not known

    def read_text_of_parts(self) -> bool:
        """Whether anything that the messages say is asked for its text, or `text` is spelled in another place."""
        elsewhere = self._spelled(_TEXT)
        for node in self._tree.find_all(nodes.Node):
            owner, key = _read(node)
            if key == _TEXT:
                if self._tells(owner):
                    return True
                elsewhere -= not isinstance(node, nodes.Getattr)
        return elsewhere > 0

    def named_otherwise(self) -> bool:
        """Whether `content` is spelled where it is not the key that is read, asked for or given."""
        elsewhere = self._spelled(_CONTENT)
        for node in self._tree.find_all(nodes.Node):
            if isinstance(node, nodes.Pair):
                elsewhere -= _constant(node.key) == _CONTENT
            elif isinstance(node, nodes.Compare):
                asks = all(one.op in ("in", "notin") for one in node.ops)
                elsewhere -= asks and _constant(node.expr) == _CONTENT
            elif not isinstance(node, nodes.Getattr):
                elsewhere -= _key(node) == _CONTENT
        return elsewhere > 0

    def _spelled(self, word: str) -> int:
        return sum(node.value == word for node in self._tree.find_all(nodes.Const))

    def written_unless_string(self) -> bool:
        """Whether a content is written as JSON where the template asks whether it is a string: lists are foreseen."""
        for branch in self._tree.find_all((nodes.If, nodes.CondExpr)):
            assert isinstance(branch, nodes.If | nodes.CondExpr)  # found as one
            tests = (
                [branch.test, *(one.test for one in branch.elif_)] if isinstance(branch, nodes.If) else [branch.test]
            )
            asked = [inner for test in tests for inner in _within(test) if isinstance(inner, nodes.Test)]
            if any(test.name == "string" and self._holds(test.node) for test in asked):
                written = [filter_ for filter_ in branch.find_all(nodes.Filter) if filter_.name == _WRITES]
                if any(self._holds(filter_.node) for filter_ in written):
                    return True
        return False


def _within(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    yield from node.find_all(nodes.Node)


def _given(filter_: nodes.Filter) -> list[nodes.Expr]:
    return [*filter_.args, *(keyword.value for keyword in filter_.kwargs)]


def _name(node: nodes.Node) -> str | None:
    return node.name if isinstance(node, nodes.Name | nodes.NSRef) else None


def _constant(node: nodes.Node) -> object:
    return node.value if isinstance(node, nodes.Const) else None


def _key(node: nodes.Node) -> object:
    return _read(node)[1]


def _read(node: nodes.Node) -> tuple[nodes.Node, object]:
    """Return whose key a node reads, and which: `x.key`, `x['key']`, `x.get('key')`; None: it reads none."""
    if isinstance(node, nodes.Getattr):
        return node.node, node.attr
    if isinstance(node, nodes.Getitem):
        return node.node, _constant(node.arg)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr == "get" and node.args:
        return node.node.node, _constant(node.args[0])
    return node, None
