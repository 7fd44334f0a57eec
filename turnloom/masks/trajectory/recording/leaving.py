"""Write `continue` and `break` so that a loop's body is run to its end for every item."""

from __future__ import annotations

from copy import deepcopy
from typing import Final

from jinja2 import Environment, nodes
from jinja2.visitor import NodeTransformer

from turnloom.masks.template.names import leaves

#: So often what follows a statement that may `continue` is copied into other branches at most.
MOST_COPIES: Final = 8


def without_break(loop: nodes.For, environment: Environment) -> list[nodes.Node]:
    """Write `break` of a loop as a flag, by which the items behind do nothing; return what makes the flag."""
    if not any(map(_breaks, loop.body)):
        return []
    flag = f"_left{id(loop)}"  # no loop inside may have the same
    kept = nodes.Keyword("now", nodes.Const(False))
    made = nodes.Assign(nodes.Name(flag, "store"), nodes.Call(nodes.Name("namespace", "load"), [], [kept], None, None))
    _Breaks(flag).visit_all(loop.body)
    is_left = nodes.Getattr(nodes.Name(flag, "load"), "now", "load")
    loop.body = [nodes.If(nodes.Not(is_left), loop.body, [], [])]
    for node in (made, *loop.body):
        node.set_lineno(loop.lineno).set_environment(environment)
    return [made]


class _Breaks(NodeTransformer):
    """Make each `break` of one loop a flag and `continue`."""

    def __init__(self, flag: str) -> None:
        self._flag = flag

    def visit_all(self, statements: list[nodes.Node]) -> None:
        """Change statements in place."""
        statements[:] = [made for one in statements for made in self.visit_list(one)]

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # Jinja's own
        return node  # what is inside leaves that loop

    def visit_Break(self, node: nodes.Break) -> list[nodes.Node]:  # noqa: N802
        return [nodes.Assign(nodes.NSRef(self._flag, "now"), nodes.Const(True)), nodes.Continue(lineno=node.lineno)]


def _breaks(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Break) or (
        not isinstance(node, nodes.For) and any(map(_breaks, node.iter_child_nodes()))
    )


def without_continue(body: list[nodes.Node], copies: list[int] | None = None) -> list[nodes.Node]:
    """Write `continue` as branches: what comes behind goes into those that do not leave.

    Args:
        body: of a loop, or the rest of one.
        copies: how often the rest may be copied yet; where that is not enough, `continue` stays.
    """
    copies = [MOST_COPIES] if copies is None else copies
    for at, statement in enumerate(body):
        if isinstance(statement, nodes.Continue):
            return body[:at]
        if not (isinstance(statement, nodes.If) and any(map(leaves, statement.iter_child_nodes()))):
            continue
        branches = [statement, *statement.elif_]
        copies[0] -= len(branches)
        if copies[0] < 0:
            return body
        rest = body[at + 1 :]
        for branch in branches:
            branch.body = without_continue([*branch.body, *deepcopy(rest)], copies)
        statement.else_ = without_continue([*statement.else_, *rest], copies)
        return body[: at + 1]
    return body
