"""What of a path's reads matters by its value, and what only by the answers that it gives."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from turnloom.masks.trajectory.programs.program import Ask, Fold, Path, Printed, Store

if TYPE_CHECKING:
    from collections.abc import Hashable

    from turnloom.masks.trajectory.programs.code import Code

#: A variable, or its origin.
_VARIABLE: Final = re.compile(r"\b([VO])\[(\d+)\]")


class Trail(NamedTuple):
    """How another state of the namespaces is told to lead along the same path."""

    #: of the reads, those that matter by their value; of others the questions tell
    compared: tuple[int, ...]
    asked: tuple[int, ...]  #: the others: variables of the questions, behind those that the body was handed
    holds: Callable[..., bool]  #: whether the questions have the answers that led here


def trail_of(
    steps: Sequence[tuple[Path, Hashable]],
    parts: Sequence[Printed],
    reads: Sequence[tuple[int, str, int]],
    variables: int,
    code: Code,
) -> Trail | None:
    """Return how a path's reads are told to lead along it again; None: all of them matter by their value.

    Args:
        steps: of the path, with the answers of questions.
        parts: printed in the end.
        reads: attributes of namespaces, and the variables that they become.
        variables: that the body was handed.
        code: compiles.
    """
    used = " ".join(
        [
            *[step.source for step, _ in steps if isinstance(step, Store)],
            *[source for step, _ in steps if isinstance(step, Fold) for source in step.sources],
            *[part[0] + part[1] for part in parts if type(part) is tuple],
        ]
    )
    by_value = {int(number) for _, number in _VARIABLE.findall(used)}
    questions = [
        (step.source, answer, {int(number) for _, number in _VARIABLE.findall(step.source)})
        for step, answer in steps
        if isinstance(step, Ask)
    ]
    read = {variable for _, _, variable in reads}
    for _, _, named in questions:
        if not named <= read:
            by_value |= named  # what is made on the way has a part in the answer
    for _, _, named in questions:
        if named & by_value:
            by_value |= named
    asked = [at for at, (_, _, variable) in enumerate(reads) if variable not in by_value]
    if not asked:
        return None
    places = {reads[at][2]: variables + place for place, at in enumerate(asked)}

    def placed(match: re.Match[str]) -> str:
        return f"{match[1]}[{places[int(match[2])]}]"

    told: list[Any] = [
        f"({_VARIABLE.sub(placed, source)}) == {code.constant(answer)}"
        for source, answer, named in questions
        if named and named <= places.keys()
    ]
    if any("O[" in one for one in told):
        return None
    compared = tuple([at for at in range(len(reads)) if at not in asked])
    return Trail(compared, tuple(asked), code.compiled(" and ".join(told) or "True"))
