"""All that is recorded of one template under one set of settings."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any, Final, cast

from jinja2 import Template, nodes

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import JSON
from turnloom.masks.domain.rendered_text import TOOLS
from turnloom.masks.template.environment import TRACED_NAMES, TracedEnvironment
from turnloom.masks.template.provenance.messages import traced_tools
from turnloom.masks.template.provenance.strings import plain, runs_of
from turnloom.masks.trajectory.programs.code import Code
from turnloom.masks.trajectory.programs.program import End, Items, Piece, Program, add_run, joined, origin
from turnloom.masks.trajectory.recording.environment import ENVIRONMENT, RECORDED_NAMES
from turnloom.masks.trajectory.recording.folds import Folded, with_folds
from turnloom.masks.trajectory.recording.handing import VARYING
from turnloom.masks.trajectory.recording.tape import Given
from turnloom.masks.trajectory.straight import source_of
from turnloom.masks.trajectory.walking import run_fold, walked

#: Paths that one template under one set of settings may have; senders choose what messages look like.
MOST_PATHS: Final = 8192
#: Literals around earlier turns whose beginning is remembered.
MOST_BEGINS: Final = 4096
#: Texts of tools that are remembered.
MOST_KEPT: Final = 256
_TRACED: Final = TracedEnvironment()
#: Functions of recordings, and the template's own.
_GLOBALS: Final = {
    ENVIRONMENT.globals[name]: _TRACED.globals[name] for name in ("namespace", "range", "dict", "raise_exception")
}
#: The variable under which a loop over tools finds them where the template itself prints it.
_ITEMS: Final = "_tools_of_this_loop"


@lru_cache(maxsize=64)
def compiled(source: str) -> tuple[Template, Folded] | None:
    """Compile a template whose loops are calls; None: it can't be followed."""
    tree = ENVIRONMENT.parse(source)
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        name = node.attr if isinstance(node, nodes.Getattr) else getattr(cast("nodes.Getitem", node).arg, "value", "")
        if isinstance(name, str) and name.startswith("_"):
            return None
    folded = with_folds(tree, ENVIRONMENT)
    if folded is None:
        return None
    template = Template.from_code(ENVIRONMENT, ENVIRONMENT.compile(folded.tree), ENVIRONMENT.make_globals(None))
    template.root_render_func.__globals__.update(RECORDED_NAMES)
    return template, folded


class Family:
    """All programs of one template under one set of settings; threads may share it."""

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        """Begin with nothing recorded.

        Args:
            source: of the template.
            variables: that it gets beside messages, tools and add_generation_prompt.
        """
        self.compiled = compiled(source)
        self.variables = dict(variables)
        self.code = Code()
        self.programs: dict[Hashable, Program] = {}
        self._tops: dict[tuple[bool, bool, str], Program] = {}
        self.paths = 0
        self.recorded = 0  #: renders that were recorded since this was looked at
        self.lock = threading.RLock()
        self.unwalked: set[Program] = set()  #: bodies of loops over tools that can't be recorded
        #: where an earlier turn begins in the literals before its text, by all that tells it; None: that is not told
        self.begins: BoundedCache[tuple[str, str, bool, str, str], tuple[int | None]] = BoundedCache(MOST_BEGINS)
        self._kept: dict[int, Template] = {}
        self._printed: BoundedCache[tuple[int, tuple[Hashable, ...], str], Piece] = BoundedCache(MOST_KEPT)

    def program(self, site: int, items: Items, kinds: tuple[Hashable, ...]) -> Program:
        """Return the program of a body under variables of these kinds."""
        key = (site, items, kinds)
        found = self.programs.get(key)
        if found is None:
            spaces = tuple(at for at, kind in enumerate(kinds) if kind == ("space",))
            told = tuple(at for at, kind in enumerate(kinds) if site >= 0 and kind[0] in VARYING)  # type: ignore[index]
            shown = tuple(at for at, kind in enumerate(kinds) if kind == ("message",))
            found = self.programs[key] = Program(site, items, kinds, spaces=spaces, told=told, shown=shown)
        return found

    def top(self, tools: Sequence[JSON] | None, kwargs: Mapping[str, JSON], *, prompt: bool) -> Program:
        """Return the program of everything outside loops, which alone sees kwargs that no body is handed."""
        key = (prompt, tools is None, repr(kwargs) if kwargs else "")
        found = self._tops.get(key)
        if found is None:
            found = self._tops[key] = self.program(-1, Items(messages=False), key)
        return found

    def forget(self) -> None:
        """Drop all programs."""
        self.programs.clear()
        self._tops.clear()
        self.unwalked.clear()
        self.code = Code()
        self.paths = 0

    def straightened(self, program: Program) -> Callable[..., tuple[End, list[Any]]] | None:
        """Return a program's tree as one function."""
        written = source_of(program)
        return None if written is None else self.code.function(*written, _run_fold=run_fold)

    def kept(self, program: Program, tools: Sequence[JSON] | None, sender: Any) -> Piece:
        """Print a loop over tools, which depends on no message; many conversations have the same tools.

        Args:
            program: of its body.
            tools: its items.
            sender: as for `walk`.

        Raises:
            MissError: the body was not recorded with such a tool.
        """
        key = (program.site, program.kinds, repr(tools))
        found = self._printed.get(key)
        if found is None:
            if tools and program not in self.unwalked:
                found = joined([walked(program, given, sender)[1] for given in given_tools(program, tools)])
            else:
                found = self._kept_anew(program, tools)
            self._printed[key] = found
        return found

    def _kept_anew(self, program: Program, tools: Sequence[JSON] | None) -> Piece:
        assert self.compiled is not None, "only then is there a loop"
        folded = self.compiled[1]
        site = folded.sites[program.site]
        template = self._kept.get(program.site)
        if template is None:
            loop = deepcopy(site.loop)
            loop.iter = nodes.Name(_ITEMS, "load")  # they may have another name here
            body = [*map(deepcopy, folded.macros), loop]
            tree = nodes.Template(body, lineno=1)
            tree.set_environment(_TRACED)
            template = Template.from_code(_TRACED, _TRACED.compile(tree), _TRACED.make_globals(None))
            template.root_render_func.__globals__.update(TRACED_NAMES)
            self._kept[program.site] = template
        items = traced_tools(tools)
        values = {name: _anew(kind, items) for name, kind in zip(site.names, program.kinds, strict=True)}
        text = template.render({**self.variables, **values, _ITEMS: items})
        runs: list[tuple[int, Any]] = []
        for length, tag in runs_of(text):
            add_run(runs, length, tag)  # type: ignore[arg-type]  # no generation block is kept
        return Piece(plain(text), runs)


def _anew(kind: Any, tools: list[JSON] | None) -> object:
    """Return what a variable of a loop over tools is to the template itself."""
    if kind == ("tools",):
        return tools
    if kind[0] == "undefined":
        return _TRACED.undefined(name=kind[1])
    return _GLOBALS.get(kind[-1], kind[-1]) if kind[0] == "object" else kind[-1]


def given_tools(program: Program, tools: Sequence[JSON]) -> Iterator[Given]:
    """Yield what the body of a loop over tools is given for each."""
    from_ = origin(TOOLS, "tools")
    values = [tools if kind == ("tools",) else None for kind in program.kinds]
    origins = [from_ if kind == ("tools",) else None for kind in program.kinds]
    for at, tool in enumerate(tools):
        yield Given([], len(tools), at, tool, from_, list(values), list(origins))
