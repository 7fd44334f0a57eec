"""Compile chat templates, once per source."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from jinja2 import Template, meta, nodes
from jinja2.exceptions import TemplateSyntaxError

from turnloom.masks.domain.errors import TemplateError
from turnloom.masks.template.calls import with_kept_calls
from turnloom.masks.template.environment import (
    STEP_NAMES,
    TRACED_NAMES,
    UNSUPPORTED,
    PlainEnvironment,
    TracedEnvironment,
)
from turnloom.masks.template.steps import with_steps
from turnloom.masks.template.text_only import takes_only_text

_PLAIN: Final = PlainEnvironment()
_TRACED: Final = TracedEnvironment()
#: String methods whose arguments decide what a template does with a text.
_TESTING_METHODS: Final = frozenset(
    {"startswith", "endswith", "split", "rsplit", "find", "index", "partition", "count"}
)
#: Roles, keys and type names: templates compare them, and look for them in no text.
_WORD: Final = re.compile(r"[a-z_]+")


@dataclass(frozen=True)
class CompiledTemplate:
    """One chat template in both environments."""

    source: str
    sha256: str  #: hex digest of the source in UTF-8
    traced: Template  #: prints Traced strings
    needles: tuple[str, ...]  #: literals that the template looks for in texts; what it does depends on them
    words: frozenset[str]  #: every string that its code spells; roles that it knows are among them
    attributes: frozenset[str]  #: every attribute that its code names, such as keys of messages
    uses_date: bool  #: it may call strftime_now
    generation_blocks: bool  #: it has {% generation %}

    @cached_property
    def names(self) -> frozenset[str]:
        """Whatever it may read of a message by name."""
        return self.words | self.attributes

    @cached_property
    def mark(self) -> str:
        """A character that every needle holds, "" where there is none."""
        shared = set(self.needles[0]).intersection(*self.needles) if self.needles else set()
        return min(shared, default="")

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names that whoever renders may set, such as enable_thinking."""
        return frozenset(meta.find_undeclared_variables(_PLAIN.parse(self.source)))

    @cached_property
    def given(self) -> frozenset[str]:
        """Of these, the names that the template sets nowhere: only whoever renders can."""
        named = _PLAIN.parse(self.source).find_all(nodes.Name)
        return self.variables - {name.name for name in named if name.ctx != "load"}

    @cached_property
    def takes_only_text(self) -> bool:
        """It takes contents as one text, and certainly reads no parts of them."""
        return takes_only_text(_PLAIN.parse(self.source))

    @cached_property
    def plain(self) -> Template:
        """The reference without provenance; compiled when first asked for."""
        return _PLAIN.from_string(self.source)

    @cached_property
    def traced_steps(self) -> Template:
        """`traced`, whose loops are steps: it wants `Steps` and `Calls`."""
        return _stepped(_TRACED, self.source, {**TRACED_NAMES, **STEP_NAMES})

    @cached_property
    def plain_steps(self) -> Template:
        """`plain`, whose loops are steps: it wants `Steps` and `Calls`."""
        return _stepped(_PLAIN, self.source, STEP_NAMES)


@lru_cache(maxsize=256)
def compile_template(source: str) -> CompiledTemplate:
    """Compile a chat template.

    Raises:
        TemplateError: a syntax error, or a statement chat templates don't have (autoescape, include, import, extends).
    """
    try:
        tree = _TRACED.parse(source)
        unsupported = next(tree.find_all(UNSUPPORTED), None)
        if unsupported is not None:
            name = type(unsupported).__name__
            raise TemplateError(
                f"line {unsupported.lineno} of the chat template uses {name}; it can't be followed there"
            )
        traced = _TRACED.from_string(source)
        digest = hashlib.sha256(source.encode()).hexdigest()
    except TemplateSyntaxError as error:
        raise TemplateError(f"line {error.lineno} of the chat template: {error.message}") from error
    except RecursionError as error:
        raise TemplateError("the chat template is nested too deeply to be compiled") from error
    except (SyntaxError, ValueError) as error:  # of the Python that Jinja makes of it
        words = error.msg if isinstance(error, SyntaxError) else str(error)
        raise TemplateError(f"the chat template can't be compiled: {words}") from error
    traced.root_render_func.__globals__.update(TRACED_NAMES)
    return CompiledTemplate(
        source=source,
        sha256=digest,
        traced=traced,
        needles=_needles(tree),
        words=frozenset(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)),
        attributes=frozenset(node.attr for node in tree.find_all(nodes.Getattr)),
        uses_date="strftime_now" in source,
        generation_blocks="generation" in source and "endgeneration" in source,
    )


def _stepped(environment: PlainEnvironment, source: str, names: Mapping[str, object]) -> Template:
    tree = with_steps(with_kept_calls(environment.parse(source), environment), environment)
    template = Template.from_code(environment, environment.compile(tree), environment.make_globals(None))
    template.root_render_func.__globals__.update(names)
    return template


def _needles(tree: nodes.Template) -> tuple[str, ...]:
    found: set[str] = set()
    for compare in tree.find_all(nodes.Compare):
        for side in (compare.expr, *(operand.expr for operand in compare.ops)):
            found.update(_constants(side))
    for called in tree.find_all(nodes.Call):
        if isinstance(called.node, nodes.Getattr) and called.node.attr in _TESTING_METHODS:
            for argument in called.args:
                found.update(_constants(argument))
    return tuple(sorted(text for text in found if len(text) > 1 and not _WORD.fullmatch(text)))


def _constants(node: nodes.Node) -> list[str]:
    constants = [node, *node.find_all(nodes.Const)]
    return [c.value for c in constants if isinstance(c, nodes.Const) and isinstance(c.value, str)]
