"""Print what a template makes of tools, dates and the like once a conversation.

Turns are located by many renders of one conversation, and all begin with the same tool schemas. An expression outside
the loops that calls a macro or writes JSON becomes a kept call (`with_kept_calls`). Where the variables that it may use
are what they were, its text is printed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from jinja2 import Environment, nodes
from jinja2.runtime import Macro

from turnloom.masks.template.chain import is_renamed, is_stateless, same
from turnloom.masks.template.names import used_names
from turnloom.masks.template.step_reads import MessageList
from turnloom.masks.template.steps import may_differ

#: The variable under which a template finds its kept calls.
CALLS: Final = "_calls"
#: Texts that are kept of one expression.
TEXTS: Final = 4
#: A filter that costs as much as a macro.
_WRITES: Final = "tojson"


class Calls:
    """The texts of one conversation's expressions; a template calls it in their place."""

    def __init__(self) -> None:
        """Begin with nothing kept."""
        self._texts: dict[int, list[tuple[tuple[Any, ...], str]]] = {}  #: by site: variables, and what was printed

    def __call__(self, site: int, names: Sequence[str], *values: Any, caller: Callable[[], str]) -> str:
        """Print an expression.

        Args:
            site: which of the template's expressions.
            names: that it may use.
            values: what they mean.
            caller: prints it.
        """
        texts = self._texts.setdefault(site, [])
        for known, text in texts:
            if all(map(_alike, known, values)):
                return text
        text = caller()
        if all(map(_is_kept, values)) and not any(map(is_renamed, names, values)):
            texts.append((values, text))
            del texts[:-TEXTS]
        return text


def _is_kept(value: object) -> bool:
    return type(value) is Macro or (is_stateless(value) and type(value) is not MessageList)


def _alike(was: object, now: object) -> bool:
    if was is now:
        return True
    if type(was) is Macro:  # what it may use is among the variables
        return type(now) is Macro and was.name == now.name
    return same(was, now)


def with_kept_calls(tree: nodes.Template, environment: Environment) -> nodes.Template:
    """Make a kept call of every expression outside loops that calls a macro or writes JSON; changes the tree."""
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    if may_differ(tree, macros):
        return tree
    site = 0
    for body in _outer_bodies(tree):
        made: list[nodes.Node] = []
        for node in body:
            for part in _parts(node, macros):
                if not _is_dear(part, macros):
                    made.append(part)
                    continue
                made.append(_kept(site, part, macros, environment))
                site += 1
        body[:] = made
    return tree


def _outer_bodies(node: nodes.Node) -> Iterator[list[nodes.Node]]:
    """Yield the lists of statements outside loops and macros."""
    if isinstance(node, nodes.Template | nodes.If):
        yield node.body
    if isinstance(node, nodes.If):
        yield node.else_
    inner = [*node.body, *node.elif_, *node.else_] if isinstance(node, nodes.If) else getattr(node, "body", [])
    for child in inner:
        if isinstance(child, nodes.If):
            yield from _outer_bodies(child)


def _parts(node: nodes.Node, macros: Mapping[str, nodes.Macro]) -> list[nodes.Node]:
    """Return what is printed as a statement for each expression, where one of them is dear."""
    if not isinstance(node, nodes.Output) or not _is_dear(node, macros):
        return [node]
    return [nodes.Output([expression], lineno=node.lineno) for expression in node.nodes]


def _is_dear(node: nodes.Node, macros: Mapping[str, nodes.Macro]) -> bool:
    if not isinstance(node, nodes.Output):
        return False
    if any(filter_.name == _WRITES for filter_ in node.find_all(nodes.Filter)):
        return True
    return any(isinstance(call.node, nodes.Name) and call.node.name in macros for call in node.find_all(nodes.Call))


def _kept(site: int, node: nodes.Node, macros: Mapping[str, nodes.Macro], environment: Environment) -> nodes.Node:
    names = tuple(sorted(used_names([node], macros)))
    loaded = (nodes.Name(name, "load") for name in names)
    arguments: list[nodes.Expr] = [nodes.Const(site), nodes.Const(names), *loaded]
    call = nodes.Call(nodes.Name(CALLS, "load"), arguments, [], None, None)
    block = nodes.CallBlock(call, [], [], [node])
    return block.set_lineno(node.lineno).set_environment(environment)
