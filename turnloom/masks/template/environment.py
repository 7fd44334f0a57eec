"""The two Jinja environments that chat templates run in: Hugging Face's, and the same with provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import BuiltinMethodType
from typing import Any, Final

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from turnloom.masks.template.calls import Calls
from turnloom.masks.template.lookups import DICT_ATTRIBUTES, LookupGenerator
from turnloom.masks.template.provenance import filters
from turnloom.masks.template.provenance.filters import json_text
from turnloom.masks.template.provenance.markup import TracedMarkup, escaped
from turnloom.masks.template.provenance.runs import Block, Generated, origin_of
from turnloom.masks.template.provenance.strings import Traced, concat, plain, runs_of, to_text, traced
from turnloom.masks.template.step_reads import StepLoop

#: Attributes the sandbox allows on what templates use most; str.format and format_map it wraps, so they are not here.
_SAFE: Final[dict[type, frozenset[str]]] = {
    kind: frozenset(name for name in dir(kind) if not name.startswith("_")) - {"format", "format_map"}
    for kind in (str, Traced, LoopContext, StepLoop)
} | {dict: frozenset({"get", "items", "keys", "values", "copy"})}


class GenerationBlocks(Extension):
    """`{% generation %}...{% endgeneration %}`: prints its body."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse a call block, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class TracedGenerationBlocks(GenerationBlocks):
    """The same, marking what it prints: the mark moves with the text through macros and set blocks."""

    def _body(self, caller: Macro) -> str:
        text = caller()
        block = Block()
        return traced(plain(text), tuple((n, Generated(block, origin_of(tag))) for n, tag in runs_of(text)))


class TemplateDict:
    """`dict` without the class attributes that sandboxed code could climb."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """Make a dict as `dict(...)` does."""
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Make a dict as `dict.fromkeys(...)` does."""
        return dict.fromkeys(*args)


class TemplateNamespace(Namespace):
    """A namespace that takes no underscore names."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no `self`, so that namespace(self=1) works
        """Take what `dict` takes."""
        attributes = dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, got {name!r}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json_text(value, ensure_ascii, indent, separators, sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


#: Where a namespace keeps what it holds.
_ATTRIBUTES: Final = "_Namespace__attrs"


class PlainEnvironment(ImmutableSandboxedEnvironment):
    """Hugging Face's settings: the reference that every traced render must equal."""

    code_generator_class = LookupGenerator
    generation_blocks: type[GenerationBlocks] = GenerationBlocks

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[self.generation_blocks, loopcontrols])
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["dict"] = TemplateDict()
        self.globals["namespace"] = TemplateNamespace

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up `obj.attribute`; most are keys of plain dicts, which need not raise AttributeError first."""
        kind = type(obj)
        if kind is dict and attribute not in DICT_ATTRIBUTES:
            try:
                return obj[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        if kind is TemplateNamespace and not attribute.startswith("_"):
            try:
                return object.__getattribute__(obj, _ATTRIBUTES)[attribute]
            except KeyError:
                return self.undefined(obj=obj, name=attribute)
        if attribute in _SAFE.get(kind, ()):  # what the sandbox would find out again at every access
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # Jinja's own
        """Call a function from the template."""
        if type(__obj) is Calls:
            return __obj(*args, caller=kwargs["caller"])
        if type(__obj) is BuiltinMethodType and type(__obj.__self__) is dict:  # nothing that the sandbox looks for
            return __obj(*args, **filters.given(kwargs))
        return __self._called(__context, __obj, args, kwargs)

    def _called(self, context: Context, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call(context, function, *args, **kwargs)


class TracedEnvironment(PlainEnvironment):
    """The same with provenance: equal text, and no message text that passes for a literal."""

    generation_blocks = TracedGenerationBlocks
    concat = staticmethod(concat)
    intercepted_binops = frozenset({"%"})

    def __init__(self) -> None:
        super().__init__()
        self.filters.update(filters.traced_filters())

    def _called(self, context: Context, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self.is_safe_callable(function):
            raise SecurityError(f"{function!r} is not safely callable")
        return filters.call(context, function, args, kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply the % operator, the only one intercepted."""
        return filters.modulo(left, right)


def _str_join(items: Iterable[object]) -> str:
    return concat([to_text(item) for item in items])


#: Names that Jinja's compiled code looks up in its module, replaced by versions that keep runs.
TRACED_NAMES: Final[dict[str, Callable[..., Any]]] = {
    "str": to_text,
    "str_join": _str_join,
    "markup_join": _str_join,
    "escape": escaped,
    "Markup": TracedMarkup,
}
#: And one that says what is read of a loop.
STEP_NAMES: Final[dict[str, Callable[..., Any]]] = {"LoopContext": StepLoop}

#: Statements that would turn on escaping or load other templates; no chat template has them.
UNSUPPORTED: Final[tuple[type[nodes.Node], ...]] = (
    nodes.EvalContextModifier,
    nodes.Extends,
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
)
