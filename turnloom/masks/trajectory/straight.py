"""Write a program's tree as one function of nested questions: it asks the same, in a third of the time."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, Final

from turnloom.masks.trajectory.programs.program import (
    ARGUMENTS,
    Ask,
    End,
    Fold,
    Keep,
    Load,
    Make,
    MissError,
    Missing,
    Path,
    Program,
    Store,
    Take,
)

#: Walks of a tree that did not grow before it is written as a function.
WALKS: Final = 64
#: Steps of a tree that is written; larger ones are walked.
MOST_STEPS: Final = 2048
#: Questions behind each other; Python takes a hundred levels of indentation.
DEEPEST: Final = 80
#: Questions for a value in a dict, and for a message's role.
_KIND_IN: Final = re.compile(r"kind_in\((.*), (K\d+)\)")
_ROLE_OF: Final = re.compile(r"role_of\((.*)\)")


def source_of(program: Program) -> tuple[str, dict[str, object]] | None:
    """Return the source of the function, and what it names beside a template's constants; None: it is too large."""
    writer = _Writer()
    writer.write(program.root, 1)
    if writer.too_large:
        return None
    return "\n".join([f"def walk({ARGUMENTS}, S):", " F = []", *writer.lines]) + "\n", writer.names


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, object] = {
            "Missing": Missing, "MissError": MissError, "bool": bool,
        }  # fmt: skip
        self.too_large = False

    def _name(self, value: object) -> str:
        name = f"_{len(self.names)}"
        self.names[name] = value
        return name

    def write(self, node: Path | None, depth: int) -> None:
        """Write what follows from a node on, `depth` levels deep."""
        while True:
            self.too_large |= len(self.lines) > MOST_STEPS or depth > DEEPEST
            pad = " " * depth
            if node is None or self.too_large:
                self.lines.append(f"{pad}raise MissError")
            elif isinstance(node, Ask):
                self._question(node, depth)
            elif isinstance(node, End):
                self.lines.append(f"{pad}return {self._name(node)}, F")
            elif isinstance(node, Load | Take | Make | Store | Fold | Keep):
                self._act(node, pad)
                node = node.then
                continue
            else:
                self.lines.append(f"{pad}raise {self._name(node)}.error()")
            return

    def _question(self, node: Ask, depth: int) -> None:
        pad = " " * depth
        asked = _KIND_IN.fullmatch(node.source) or _ROLE_OF.fullmatch(node.source)
        if asked is None:
            self.lines.append(f"{pad}x = {node.source}")
        else:  # what these functions do, without calls
            key = asked[2] if asked.re is _KIND_IN else "'role'"
            whole = "bool" if asked.re is _KIND_IN else "str"
            self.lines += [
                f"{pad}x = {asked[1]}.get({key}, Missing)",
                f"{pad}if x is not Missing and type(x) is not {whole}: x = type(x)",
            ]
        for answer, then in node.answers.items():
            self.lines.append(f"{pad}if {self._told(answer)}:")
            self.write(then, depth + 1)
        self.lines.append(f"{pad}raise MissError")

    def _told(self, answer: Hashable) -> str:
        if isinstance(answer, (bool, type)):
            return f"x is {answer if isinstance(answer, bool) else self._name(answer)}"
        return f"x == {self._name(answer)}"

    def _act(self, node: Any, pad: str) -> None:
        if isinstance(node, Load):
            held = f"V[{node.space}].get({node.name!r}, Missing)"
            self.lines += [f"{pad}h = {held}", f"{pad}V.append(h)", f"{pad}O.append(getattr(h, 'origin', None))"]
        elif isinstance(node, Take):
            self.lines += [f"{pad}V.append(joined(F[{node.number}]))", f"{pad}O.append(None)"]
        elif isinstance(node, Make):
            self.lines += [f"{pad}V.append({{}})", f"{pad}O.append(None)"]
        elif isinstance(node, Store):
            self.lines.append(f"{pad}V[{node.space}][{node.name!r}] = {node.source}")
        elif isinstance(node, Fold) and node.program.items.messages:
            first, _, values, origins = node.sources
            given = f"{self._name(node.program)}, M, {values}, {origins}, {first}"
            self.lines.append(f"{pad}F.append(S.over_messages({given}))")
        elif isinstance(node, Fold):
            self.lines.append(f"{pad}F.append(_run_fold({self._name(node)}, ({ARGUMENTS}), S))")
        else:
            self.lines.append(f"{pad}F.append((S.kept({self._name(node)}),))")
