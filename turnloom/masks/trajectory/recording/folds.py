"""Make a call of every loop's body, so that a recorder may run it message by message.

`{% for m in messages %}BODY{% endfor %}` becomes `{% call(loop, m, NAMES) _fold(SITE, messages, NAMES) %}BODY{% endcall
%}`. A body sets nothing outside itself but attributes of namespaces. So it is a function of its item, the loop, and the
names that it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Final, NamedTuple, cast

from jinja2 import Environment, nodes
from jinja2.visitor import NodeTransformer

from turnloom.masks.template.names import Names, leaves, used_names
from turnloom.masks.template.steps import may_differ
from turnloom.masks.trajectory.recording.leaving import without_break, without_continue

#: The variable under which a template finds what runs its loops.
FOLD: Final = "_fold"
#: Names that mean something else in the body of a call.
_OF_CALLS: Final = frozenset({"caller", "varargs", "kwargs"})


class Site(NamedTuple):
    """One loop of a template."""

    loop: nodes.For  #: as it was written
    names: tuple[str, ...]  #: what its body may use beside its item and the loop, macros' own names included
    targets: tuple[str, ...]  #: names of the item, or of its parts
    read: frozenset[str]  #: those of the names that macros read


class Folded(NamedTuple):
    """A template whose loops are calls."""

    tree: nodes.Template
    sites: Sequence[Site]
    macros: Sequence[nodes.Macro]  #: as they were written


def with_folds(tree: nodes.Template, environment: Environment) -> Folded | None:
    """Make calls of all loops that can be one; changes the tree. None: the template may print otherwise next time."""
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    if may_differ(tree, macros):
        return None
    written = [deepcopy(macro) for macro in macros.values()]
    sites: list[Site] = []
    _fold_inside(tree, Names(tree, macros), sites, environment)
    _Membership().visit(tree)
    return Folded(tree, sites, written)


class _Membership(NodeTransformer):
    """Make a test of `in`: as an operator, Python's own strings are asked, which refuse all but strings."""

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:  # noqa: N802  # Jinja's own
        self.generic_visit(node)
        operand = node.ops[0]
        if len(node.ops) > 1 or operand.op not in ("in", "notin"):
            return node
        made: nodes.Expr = nodes.Test(node.expr, "in", [operand.expr], [], None, None)
        made = nodes.Not(made) if operand.op == "notin" else made
        return made.set_lineno(node.lineno).set_environment(node.environment)  # type: ignore[return-value,arg-type]


def _fold_inside(node: nodes.Node, names: Names, sites: list[Site], environment: Environment) -> None:
    for field in ("body", "else_", "elif_"):
        statements = getattr(node, field, None)
        if not isinstance(statements, list):
            continue
        made: list[nodes.Node] = []
        for statement in statements:
            if isinstance(statement, nodes.For):
                made += without_break(statement, environment)
            site = _site(statement, names) if isinstance(statement, nodes.For) else None
            if site is None:
                _fold_inside(statement, names, sites, environment)
                if isinstance(statement, nodes.For):
                    _name_its_loop(statement, environment)
                made.append(statement)
                continue
            sites.append(site)
            number = len(sites) - 1
            _fold_inside(statement, names, sites, environment)
            made.append(_call(number, statement, site))
            made[-1].set_environment(environment)
        statements[:] = made


def _name_its_loop(loop: nodes.For, environment: Environment) -> None:
    """Name a loop's `loop` first in its body: Jinja looks for that up to the first parameter of the same name."""
    if any(name.name == "loop" for node in loop.body for name in node.find_all(nodes.Name)):
        loop.body.insert(0, nodes.ExprStmt(nodes.Name("loop", "load")).set_lineno(loop.lineno))
        loop.body[0].set_environment(environment)


def _site(loop: nodes.For, names: Names) -> Site | None:
    loop.body = without_continue(loop.body)
    if loop.recursive or loop.test is not None or loop.else_ or any(map(leaves, loop.body)):
        return None
    if isinstance(loop.target, nodes.Name):
        targets: tuple[str, ...] = (loop.target.name,)
    elif (
        isinstance(loop.target, nodes.Tuple)
        and loop.target.items[1:]
        and all(isinstance(item, nodes.Name) for item in loop.target.items)
    ):
        targets = tuple(item.name for item in loop.target.items if isinstance(item, nodes.Name))
    else:
        return None
    macros = names.macros
    used = used_names(loop.body, macros)
    if names.are_hidden(used) or any(name.name in _OF_CALLS for name in loop.find_all(nodes.Name)):
        return None
    given = used - set(targets) - names.fixed - {FOLD}
    read = used_names(list(macros.values()), macros)
    return Site(deepcopy(loop), tuple(sorted(given)), targets, frozenset(given & read))


def _call(number: int, loop: nodes.For, site: Site) -> nodes.CallBlock:
    given: list[nodes.Expr] = [
        nodes.Const(number),
        cast("nodes.Expr", loop.iter),
        *(nodes.Name(name, "load") for name in site.names),
    ]
    call = nodes.Call(nodes.Name(FOLD, "load"), given, [], None, None)
    taken = [nodes.Name(name, "param") for name in ("loop", *site.targets, *site.names)]
    block = nodes.CallBlock(call, taken, [], loop.body)
    block.set_lineno(loop.lineno)
    return block
