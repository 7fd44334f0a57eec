"""Reuse the beginning of a loop over messages where it prints the same as before.

Turns are located by rendering one conversation repeatedly: up to a turn, with a prompt, with another message after it.
The body of a template's outer loop becomes a step (`with_steps`). What the steps of one loop print is kept as a chain.
A loop may begin with the same variables, namespaces and messages. Then its steps print the same up to the message
before the first that differs. Those steps are skipped: their text is printed and their namespaces are set. So every
text is a true render and costs only what is new in it.

An attribute that a body only compares with the loop's index (`loop.index0 > ns.last_query_index`) may differ. Steps
print the same while the comparison answers the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from jinja2 import Environment, nodes
from jinja2.sandbox import unsafe

from turnloom.masks.template.chain import OPERATORS, Chain, Comparison, is_renamed
from turnloom.masks.template.names import Names, leaves, names_of, used_names
from turnloom.masks.template.step_reads import Reads, StepLoop

#: The variable under which a template finds its steps.
STEPS: Final = "_steps"
#: Chains that are kept of one loop.
CHAINS: Final = 8
#: Names of what answers otherwise next time.
_CHANCE: Final = frozenset({"random", "lipsum", "cycler", "joiner"})


class Steps:
    """The chains of one conversation; a template asks them before and after a loop's body (`lookups`)."""

    def __init__(self) -> None:
        """Begin with nothing kept."""
        self._chains: dict[int, list[Chain]] = {}  #: by site

    @unsafe
    def begin(
        self,
        site: int,
        known: tuple[Sequence[tuple[Any, ...]], Sequence[str]],
        loop: StepLoop,
        target: object,
        *values: Any,
    ) -> str | None:
        """Begin a message: return what is printed of it and those before it, or None where its body must print.

        Args:
            site: which of the template's loops.
            known: what `Comparison` is made of, for each that the body makes, and the names of the variables.
            loop: the loop.
            target: what the loop is at.
            values: what the names mean that the body may use.
        """
        chain, items = loop._chain, loop.items
        comparisons, names = known
        if chain is None and loop.index0 == 0 and items is not None and not any(map(is_renamed, names, values)):
            loop._chain = chain = self._chain(site, comparisons, items, values)
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

    def _chain(
        self, site: int, comparisons: Sequence[tuple[Any, ...]], items: list[Any], values: tuple[Any, ...]
    ) -> Chain:
        chains = self._chains.setdefault(site, [])
        for chain in chains:
            if chain.starts(items) and chain.begins(values):
                return chain
        compared = [Comparison(*one) for one in comparisons]
        forks = (chain.forked(values, compared, items) for chain in reversed(chains if compared else []))
        chains.append(next((fork for fork in forks if fork is not None), None) or Chain(values))
        del chains[:-CHAINS]
        return chains[-1]


def with_steps(tree: nodes.Template, environment: Environment) -> nodes.Template:
    """Make a step of the body of every outer loop that can be followed; changes the tree."""
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    if not may_differ(tree, macros):
        known = Names(tree, macros)
        for site, loop in enumerate(_outer_loops(tree)):
            names = _names(loop, known)
            if names is not None:
                compared = nodes.Const((_comparisons(loop, names[2:], macros), tuple(names[2:])))
                loaded = (nodes.Name(name, "load") for name in names)
                arguments: list[nodes.Expr] = [nodes.Const(site), compared, *loaded]
                call = nodes.Call(nodes.Name(STEPS, "load"), arguments, [], None, None)
                loop.body = [nodes.CallBlock(call, [], [], loop.body)]
                loop.set_lineno(loop.lineno).set_environment(environment)
    return tree


def _comparisons(
    loop: nodes.For, names: Sequence[str], macros: Mapping[str, nodes.Macro]
) -> tuple[tuple[int, str, str, int, bool], ...]:
    """Return the comparisons of the loop's index with attributes of which its body makes no other use.

    Args:
        loop: the loop.
        names: of the variables that its body may use.
        macros: the template's.
    """
    found: dict[tuple[str, str], list[tuple[int, str, str, int, bool]]] = {}
    used: set[tuple[str, str | None]] = {
        (name, None) for macro in names if macro in macros for name in names_of(macros[macro])
    }
    for node in loop.body:
        _sort_uses(node, names, found, used, own_loop=True)
    whole = {name for name, attribute in used if attribute is None}
    return tuple(one for key, some in found.items() if key not in used and key[0] not in whole for one in some)


def _sort_uses(
    node: nodes.Node,
    names: Sequence[str],
    found: dict[tuple[str, str], list[tuple[int, str, str, int, bool]]],
    used: set[tuple[str, str | None]],
    *,
    own_loop: bool,
) -> None:
    """Add comparisons with the loop's index to `found`, and all other uses of names to `used`, None: as a whole."""
    if own_loop and isinstance(node, nodes.Compare) and len(node.ops) == 1:
        operand = node.ops[0]
        for index, attribute, flipped in ((node.expr, operand.expr, False), (operand.expr, node.expr, True)):
            first, key = _index(index), _attribute(attribute)
            if first is not None and key is not None and key[0] in names and operand.op in OPERATORS:
                found.setdefault(key, []).append((names.index(key[0]), key[1], operand.op, first, flipped))
                return
    if (key := _attribute(node)) is not None:
        used.add(key)
        return
    if isinstance(node, nodes.NSRef):
        used.add((node.name, node.attr))
    elif isinstance(node, nodes.Name):
        used.add((node.name, None))
    for child in node.iter_child_nodes():
        _sort_uses(child, names, found, used, own_loop=own_loop and not isinstance(node, nodes.For))


def _index(node: nodes.Node) -> int | None:
    """Return the index of the first message where an expression is the loop's index, else None."""
    key = _attribute(node)
    return {("loop", "index0"): 0, ("loop", "index"): 1}.get(key) if key is not None else None


def _attribute(node: nodes.Node) -> tuple[str, str] | None:
    if isinstance(node, nodes.Getattr) and isinstance(node.node, nodes.Name):
        return node.node.name, node.attr
    return None


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


def _names(loop: nodes.For, known: Names) -> list[str] | None:
    """Return `loop`, the target, and every name used by the body and macros it may call; None: not a step."""
    if loop.recursive or not isinstance(loop.target, nodes.Name) or any(map(leaves, loop.body)):
        return None
    if any(isinstance(slice_.step, nodes.Neg) for slice_ in loop.iter.find_all(nodes.Slice)):
        return None  # from the end: no two prefixes begin alike
    macros = known.macros
    used = used_names(loop.body, macros)
    called = [macros[name] for name in used & macros.keys()]
    if any(loop.target.name in names_of(macro) for macro in called) or known.are_hidden(used):
        return None
    return ["loop", loop.target.name, *sorted(used - {loop.target.name})]
