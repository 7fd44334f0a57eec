"""Record one body's path: what it asks, in order, and what it prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from turnloom.masks.domain.rendered_text import Origin
from turnloom.masks.replay.symbols import Atom, RefusedError, Symbol, listed
from turnloom.masks.trajectory.programs import program
from turnloom.masks.trajectory.programs.code import Code
from turnloom.masks.trajectory.programs.program import (
    WHOLE,
    Ask,
    End,
    Fold,
    Keep,
    Load,
    Make,
    Path,
    Printed,
    Store,
    Stretch,
    Take,
)
from turnloom.masks.trajectory.programs.shows import shows_of
from turnloom.masks.trajectory.programs.trails import trail_of

#: What reads more than the item and its position.
_OTHERS: Final = re.compile(r"\b[MnVO]\b")
#: What reads anything but variables.
_NO_VARIABLES: Final = re.compile(r"\b[Mnamo]\b")
#: What reads anything; else it is a constant.
_READS: Final = re.compile(r"\b[MnamoVO]\b")
_COUNT: Final = re.compile(r"\bn\b")
_FIRST: Final = re.compile(r"\bM\[(\d+)\]")
#: What symbols ask of the parts of a text.
_PARTS: Final = re.compile(r"len\((.*\.r?split\([^()]*\)\))\) == (\d+)")
#: Steps of a path at most; public templates take some thirty.
LONGEST: Final = 512


class From(NamedTuple):
    """The origin of a symbol: an expression that gives it, in the recording of one body."""

    source: str
    tape: Tape


class Woven(NamedTuple):
    """The origins of a symbol that a namespace holds as a piece: an expression that gives the piece."""

    source: str
    tape: Tape


class Given(NamedTuple):
    """The arguments of everything that is compiled, as they are for the item at hand."""

    messages: list[dict[str, Any]]
    amount: int
    at: int
    item: Any
    origin: Origin | None
    values: list[Any]
    origins: list[Any]


class Tape:
    """The path of one body for one item. It offers symbols what `replay.recording.Recording` does."""

    def __init__(self, code: Code, given: Given, running: Sequence[Tape], *, over_messages: bool) -> None:
        """Begin with nothing asked.

        Args:
            code: compiles.
            given: the item at hand, and the variables.
            running: the bodies that run, each inside the one before it.
            over_messages: the item is a message, and its position that among all.
        """
        self.code = code
        self.over_messages = over_messages
        self.given = given
        self._running = running
        self.namespaces: dict[int, Any] = {}  #: by the id of the body's around it: the same as this body was given it
        self.steps: list[tuple[Path, Hashable]] = []  #: with the answers of questions
        self._asked: dict[str, Hashable] = {}
        self.reach = 0
        self.stateless = True
        self.folds: list[Any] = []  #: pieces of each loop and kept text
        self.variables = len(given.values)
        self._taken: dict[int, int] = {}
        self._reads: dict[tuple[int, str], int] = {}
        self._sets: dict[tuple[int, str], None] = {}
        self.shared: set[int] = set()  #: namespaces from outside that loops inside were given

    def is_current(self) -> bool:
        """Whether it is this body that runs."""
        return bool(self._running) and self._running[-1] is self

    def here(self, space: Any) -> Any:
        """Return a namespace of this body as the body that runs was given it; None: it was not given it."""
        running = self._running
        if self not in running:
            return None
        for tape in running[running.index(self) + 1 :]:
            space = tape.namespaces.get(id(space))
        return space

    def check(self) -> None:
        """Refuse what comes from another body."""
        if not self.is_current():
            raise RefusedError("a value of another body")

    def run(self, source: str) -> Any:
        """Evaluate an expression for the item at hand."""
        try:
            return self.code.compiled(source)(*self.given)
        except Exception as error:
            raise RefusedError(f"{type(error).__name__}") from error

    def ask(self, source: str) -> Hashable:
        """Record a question and return its answer."""
        self.check()
        if source in self._asked:
            return self._asked[source]
        answer: Hashable = self.run(source)
        if not _READS.search(source):
            return answer  # constants alone: always the same
        self._asked[source] = answer
        if "V[" in source:
            self.stateless = False
        self._add(Ask(self.code.compiled(source), source), answer)
        return answer

    def looked(self, reach: int) -> None:
        """Note that a question looks at messages behind the item's own."""
        self.reach = max(self.reach, reach)

    def _add(self, step: Path, answer: Hashable = None) -> None:
        if len(self.steps) >= LONGEST:
            raise RefusedError("a long path")
        self.steps.append((step, answer))

    # What symbols ask of a recording.

    def guard(self, expression: str, answer: bool) -> bool:
        """Record a question of truth; of how many parts a text has, the question for their number."""
        parts = _PARTS.fullmatch(expression)
        if parts is not None and answer:
            return self.ask(f"len({parts[1]})") == int(parts[2])
        if self.ask(f"bool({expression})") is not answer:
            raise RefusedError("another answer than the symbol's")
        return answer

    def constant(self, value: Hashable) -> str:
        """Return the name of a constant."""
        return self.code.constant(value)

    def kept(self, source: str) -> str:
        """Return an expression of a list or dict: of one that is made of constants, always the same object."""
        return source if _READS.search(source) else self.code.shared(source)

    def name(self, expression: str) -> str:
        """Return an expression as it stands in a longer one."""
        return f"({expression})"

    def arguments(self, values: Iterable[object]) -> str:
        """Return constants as they stand in a call."""
        return listed(values, self.constant)

    def symbol(self, expression: str, text: str, origin: Any) -> Symbol:
        """Return the symbol of an expression that gives a string."""
        if isinstance(origin, (Mark, Woven)):
            raise RefusedError("a part of a text of several authors")
        return Symbol(((f"({expression})", text, origin),), self)  # type: ignore[arg-type]  # it offers what symbols ask

    # Acts.

    def load(self, space: int, name: str) -> tuple[str, str]:
        """Keep an attribute as it is now; return the expressions of its value and origin."""
        self.check()
        self.stateless = False
        self._add(Load(space, name))
        if space < self.variables and (space, name) not in self._sets:
            self._reads[space, name] = len(self.given.values)
        held = self.given.values[space].get(name, program.Missing)
        self.given.values.append(held)
        self.given.origins.append(held.origin if type(held) is program.Held else None)
        at = len(self.given.values) - 1
        return f"V[{at}]", f"O[{at}]"

    def make(self) -> int:
        """Make a namespace and return its variable."""
        self.check()
        self._add(Make())
        self.given.values.append({})
        self.given.origins.append(None)
        return len(self.given.values) - 1

    def take(self, number: int) -> str:
        """Keep what a loop printed as a variable; return its expression, which gives a piece."""
        self.check()
        if number not in self._taken:
            self._add(Take(number))
            self._taken[number] = len(self.given.values)
            self.given.values.append(program.joined(self.folds[number]))
            self.given.origins.append(None)
            self.stateless = False
        return f"V[{self._taken[number]}]"

    def store(self, space: int, name: str, source: str) -> None:
        """Set an attribute of a namespace."""
        self.check()
        if space < self.variables:
            self.stateless &= is_stateless(source)
            self._sets[space, name] = None
        self._add(Store(space, name, self.code.compiled(source), source))
        self.given.values[space][name] = self.run(source)

    def fold(self, step: Fold | Keep, pieces: Any) -> int:
        """Record a loop that has run, or a kept text; return its number."""
        self.check()
        self._add(step)
        self.folds.append(pieces)
        return len(self.folds) - 1

    def leaf(self, atoms: Iterable[Atom]) -> End:
        """End the path."""
        parts: list[Printed] = []
        for name, text, from_ in atoms:
            if not name:
                if parts and isinstance(parts[-1], str):
                    parts[-1] += text
                elif text:
                    parts.append(text)
            elif isinstance(from_, Mark):
                if from_.tape is not self:
                    raise RefusedError("the text of another body's loop")
                parts.append(from_.number)
            else:
                made: Any = from_
                if made.tape is not self:
                    raise RefusedError("a text of another body")
                parts.append((name, f"*{made.source}" if isinstance(made, Woven) else made.source))
        whole = tuple(parts)
        stateless = self.stateless and all(is_stateless(part[0] + part[1]) for part in parts if type(part) is tuple)
        reads = tuple([(*read, at) for read, at in self._reads.items() if read[0] not in self.shared])
        sets = tuple([one for one in self._sets if one[0] not in self.shared])
        reach = min(self.reach, WHOLE)
        folds = [step for step, _ in self.steps if type(step) in (Fold, Keep)]
        own = all(type(step) is Fold and step.own for step in folds) and all(
            is_own(part[0] + part[1]) for part in whole if type(part) is tuple
        )
        blanks: tuple[int, ...] | None = None
        if all(is_own(part[0] + part[1]) for part in whole if type(part) is tuple):
            others = [at for at, step in enumerate(folds) if not (type(step) is Fold and step.own)]
            blanks = tuple([at for at in others if at in whole])
        trail, free = None, False
        loads = sum(type(step) is Load for step, _ in self.steps)
        if (
            own
            and not (sets or self.shared)
            and len(reads) == loads
            and all(type(step) in (Ask, Load, Fold) for step, _ in self.steps)
        ):
            asked = [(step, answer) for step, answer in self.steps if isinstance(step, Ask) and "V[" in step.source]
            asks = [f"({step.source}) == {self.constant(answer)}" for step, answer in asked]
            trail, free = self.code.compiled(" and ".join(asks) or "True"), not asks
        other = trail_of(self.steps, whole, reads, self.variables, self.code) if trail is None else None
        idle = not (whole or sets or self.shared) and all(
            type(step) is Load or (type(step) is Ask and is_of_variables(step.source)) for step, _ in self.steps
        )
        printed = self.code.printer(whole)
        shows = shows_of(whole, folds, self.code.value_of)  # type: ignore[arg-type]  # these are loops
        stretches = self._stretches(whole)
        shared = tuple(sorted(self.shared))
        told = (trail, other, free, idle)
        sources = [source for step, _ in self.steps for source in sources_of(step)]
        counts = any(map(_COUNT.search, (*sources, *[part[0] for part in whole if type(part) is tuple])))
        return End(printed, reach, stateless, reads, sets, shared, *told, whole, own, blanks, stretches, counts, shows)

    def _stretches(self, parts: tuple[Printed, ...]) -> tuple[Stretch | int, ...]:
        made: list[Stretch | int] = []
        for is_loop, some in groupby(parts, lambda part: isinstance(part, int)):
            if is_loop:
                made += [part for part in some if isinstance(part, int)]
            else:
                stretch = tuple(some)
                made.append(Stretch(self.code.printer(stretch), _needs(stretch)))
        return tuple(made)


def sources_of(step: Path) -> tuple[str, ...]:
    """Return the expressions of a step."""
    if isinstance(step, Ask | Store):
        return (step.source,)
    return step.sources if isinstance(step, Fold) else ()


def _needs(parts: tuple[Printed, ...]) -> int:
    """Return how many messages, from the first on, are all that a path's end reads; WHOLE: it reads more."""
    source = " ".join(part[0] + part[1] for part in parts if type(part) is tuple)
    if _READS.search(_FIRST.sub("", source)):
        return WHOLE
    return max((1 + int(at) for at in _FIRST.findall(source)), default=0)


def is_own(source: str) -> bool:
    """Whether an expression reads nothing but the item and its position."""
    return _OTHERS.search(source) is None


def is_of_variables(source: str) -> bool:
    """Whether an expression reads nothing but variables."""
    return _NO_VARIABLES.search(source) is None


def is_stateless(source: str) -> bool:
    """Whether an expression reads no variable."""
    return "V[" not in source and "O[" not in source


class Mark(NamedTuple):
    """The origin of a symbol that stands for the text of a loop."""

    number: int
    tape: Tape


def grow(root: Path | None, steps: list[tuple[Path, Hashable]], end: Path | None) -> Path | None:
    """Add a path to a tree and return the root; None: it ends inside the loop that comes last."""
    first: list[Path | None] = [root]

    set_: Callable[[Path], None] = lambda path: first.__setitem__(0, path)  # noqa: E731
    node = root
    for step, answer in steps:
        if node is None:
            node = step
            set_(node)
        if isinstance(node, Ask):
            if not isinstance(step, Ask) or node.source != step.source:
                raise RefusedError("a body that asks otherwise after the same answers")
            here = node
            set_ = lambda path, here=here, answer=answer: here.answers.__setitem__(answer, path)  # type: ignore[misc]  # noqa: E731
            node = here.answers.get(answer)
        else:
            if type(node) is not type(step):
                raise RefusedError("a body that acts otherwise after the same answers")
            act: Any = node
            set_ = lambda path, act=act: setattr(act, "then", path)  # type: ignore[misc]  # noqa: E731
            node = act.then
    if node is None and end is not None:
        set_(end)
    return first[0]
