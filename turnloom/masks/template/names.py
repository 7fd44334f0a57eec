"""What the names of a template stand for, and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from jinja2 import nodes

#: Names that stand for nothing outside a body.
_INNER: Final = frozenset({"loop", "caller", "varargs", "kwargs"})
#: Names that may be others in the next render.
_GIVEN: Final = frozenset({"messages", "tools", "add_generation_prompt"})
#: Nodes whose variables end with them.
_SCOPES: Final = (
    *(nodes.For, nodes.Macro, nodes.CallBlock, nodes.FilterBlock, nodes.AssignBlock, nodes.With, nodes.Block),
    *(nodes.Scope, nodes.ScopedEvalContextModifier),
)


class Names:
    """The macros of a template, and what of theirs another variable of the same name may hide."""

    def __init__(self, tree: nodes.Template, macros: Mapping[str, nodes.Macro]) -> None:
        """Look for all variables that are set.

        Args:
            tree: of the template.
            macros: in it, by their names.
        """
        self.macros = macros
        bound = set(_bound(tree, inside=False))
        #: names of macros that stand for nothing else anywhere
        self.fixed = macros.keys() - {name for name, _ in bound}
        inside = {name for name, is_inside in bound if is_inside}
        outside = {name for name, is_inside in bound if not is_inside} | _GIVEN
        outer = {macro.name for macro in tree.body if isinstance(macro, nodes.Macro)}
        #: macros that read a variable that another one of its name may hide where they are called
        self._hidden = {
            name
            for name, macro in macros.items()
            if set(_free(macro, set())) & inside & (outside if name in outer else inside)
        }

    def are_hidden(self, used: set[str]) -> bool:
        """Whether what macros among some names read may be hidden there: another value has its name."""
        return not self._hidden.isdisjoint(used)


def used_names(body: Sequence[nodes.Node], macros: Mapping[str, nodes.Macro]) -> set[str]:
    """Return every name used by statements and by the macros that they may call."""
    used = {name for node in body for name in _used(node)}
    seen: set[str] = set()
    while called := (used & macros.keys()) - seen:
        for name in called:
            used |= names_of(macros[name])
        seen |= called
    return used - _INNER


def names_of(macro: nodes.Macro) -> set[str]:
    """Return every name that a macro uses but its arguments'."""
    own = {argument.name for argument in macro.args}
    return {one for node in (*macro.body, *macro.defaults) for one in _used(node)} - own


def _used(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Name | nodes.NSRef):
        yield node.name
    for child in node.iter_child_nodes():
        yield from _used(child)


def leaves(node: nodes.Node) -> bool:
    """Whether a statement may leave the loop around it; what follows `else` of a loop inside is no part of that one."""
    if isinstance(node, nodes.Break | nodes.Continue | nodes.Block):
        return True
    if isinstance(node, nodes.For):
        return any(map(leaves, node.else_)) or any(True for _ in node.find_all(nodes.Block))
    return any(map(leaves, node.iter_child_nodes()))


def _bound(node: nodes.Node, *, inside: bool) -> Iterator[tuple[str, bool]]:
    """Yield the names of variables that are set, and whether that ends before the template does."""
    if isinstance(node, nodes.Name) and node.ctx != "load":
        yield node.name, inside
    for child in node.iter_child_nodes():
        is_target = isinstance(node, nodes.AssignBlock) and child is node.target
        yield from _bound(child, inside=inside or (isinstance(node, _SCOPES) and not is_target))


def _free(node: nodes.Node, bound: set[str]) -> Iterator[str]:
    """Yield the names that are read before they are set, and add those that are set to `bound`."""
    if isinstance(node, nodes.Name | nodes.NSRef):
        if isinstance(node, nodes.Name) and node.ctx != "load":
            bound.add(node.name)
        elif node.name not in bound:
            yield node.name
    elif isinstance(node, nodes.Assign | nodes.AssignBlock):
        children = [child for child in node.iter_child_nodes() if child is not node.target]
        own = set(bound) if isinstance(node, nodes.AssignBlock) else bound
        for child in (*children, node.target):
            yield from _free(child, bound if child is node.target else own)
    elif isinstance(node, nodes.If):
        yield from _free(node.test, bound)
        ends = []
        branches: list[Sequence[nodes.Node]] = [node.body, *[(one,) for one in node.elif_], node.else_]
        for branch in branches:
            ends.append(set(bound))
            for child in branch:
                yield from _free(child, ends[-1])
        bound |= ends[0].intersection(*ends[1:]) if not node.elif_ else set()
    else:
        own = set(bound) if isinstance(node, _SCOPES) else bound
        for child in node.iter_child_nodes(only=("iter", "call", "values")):  # what is read before the scope begins
            yield from _free(child, bound)
        own |= {"loop"} if isinstance(node, nodes.For) else set()
        for child in node.iter_child_nodes(exclude=("iter", "call", "values")):
            yield from _free(child, own)
