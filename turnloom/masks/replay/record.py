"""The Jinja environment of a trial run: it records the operations it supports and refuses all others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, cast

from jinja2 import Template, nodes
from jinja2.runtime import Context
from jinja2.utils import _PassArg

from turnloom.masks.domain.conversation import REASONING_FIELDS, Message
from turnloom.masks.domain.rendered_text import Origin
from turnloom.masks.replay.recording import Recording
from turnloom.masks.replay.symbols import (
    Atom,
    RefusedError,
    Symbol,
    SymbolLength,
    SymbolParts,
    atoms_of,
    between,
    is_plain,
    is_symbolic,
    joined,
)
from turnloom.masks.template.environment import PlainEnvironment
from turnloom.masks.template.render import Asked, Settings, print_with

_METHODS: Final = frozenset({"strip", "lstrip", "rstrip", "split", "rsplit", "startswith", "endswith", "replace"})
_STR_ATTRIBUTES: Final = frozenset(dir(str)) | frozenset(dir(list))
#: Filters that move what is in a container and look at nothing.
_MOVING: Final = frozenset({"length", "count", "list", "first", "last", "items", "selectattr", "rejectattr", "map"})
#: Filters that hand on a string they are given.
_HANDING: Final = frozenset({"default", "d"})
_FILTERS: Final[dict[str, Callable[..., object]]] = {
    "length": SymbolLength,
    "count": SymbolLength,
    "trim": lambda text, chars=None: text.strip(chars),
    "string": lambda text: text,
    "replace": lambda text, old, new, count=None: text.replace(old, new, -1 if count is None else count),
}
#: Tests that ask for the type alone, or by operators that symbols record.
_TESTS: Final = frozenset(
    {"defined", "undefined", "none", "string", "mapping", "number", "boolean", "true", "false", "integer", "float"}
    | {"eq", "==", "equalto", "ne", "!=", "in"}
)
#: Tests that any string passes.
_PASSED: Final = frozenset({"iterable", "sequence"})


class RecordingEnvironment(PlainEnvironment):
    """Hugging Face's settings, for symbols."""

    concat = staticmethod(joined)  # type: ignore[assignment]  # gives symbols where Jinja expects str

    def __init__(self) -> None:
        super().__init__()
        for name, filter_ in list(self.filters.items()):
            self.filters[name] = _recorded_filter(name, filter_)
        self.filters["join"] = _join
        self.filters["random"] = self.globals["lipsum"] = _chance
        for name, test in list(self.tests.items()):
            self.tests[name] = _recorded_test(name, cast("Callable[..., Any]", test))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up `obj.attribute`."""
        if not is_symbolic(obj):
            return super().getattr(obj, attribute)
        if attribute in _METHODS and type(obj) is Symbol:
            return getattr(obj, attribute)
        if attribute in _STR_ATTRIBUTES or attribute.startswith("_"):
            raise RefusedError(attribute)
        return self.undefined(name=attribute)  # strings have no such attribute, whatever they say

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look up `obj[argument]`."""
        if type(obj) is SymbolParts:
            try:
                return obj[argument]
            except IndexError:
                return self.undefined(name=argument)
        if not is_symbolic(obj):
            return super().getitem(obj, argument)
        if type(argument) is str and argument not in _METHODS:
            return self.getattr(obj, argument)
        raise RefusedError(f"an item of a string: {argument}")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # Jinja's own
        """Call a function from the template."""
        if is_symbolic(getattr(__obj, "__self__", None)):
            given = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
            return __obj(*args, **given)
        return super().call(__context, __obj, *args, **kwargs)


def _recorded_filter(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    passed = 0 if _PassArg.from_obj(filter_) is None else 1

    @functools.wraps(filter_)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = args[passed:]
        symbolic = [value for value in (*given, *kwargs.values()) if is_symbolic(value)]
        if symbolic and name in _FILTERS and type(given[0]) is Symbol:
            return _FILTERS[name](*given, **kwargs)
        if symbolic and not (name in _HANDING or (name in _MOVING and type(given[0]) is SymbolParts)):
            raise RefusedError(f"|{name}")
        if name not in _HANDING and name not in _MOVING and not all(map(is_plain, (*given, *kwargs.values()))):
            raise RefusedError(f"|{name} of a container")
        return filter_(*args, **kwargs)

    return call


def _recorded_test(name: str, test: Callable[..., Any]) -> Callable[..., Any]:
    passed = 0 if _PassArg.from_obj(test) is None else 1

    @functools.wraps(test)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = args[passed:]
        if any(map(is_symbolic, (*given, *kwargs.values()))):
            if name in _PASSED and len(given) == 1:
                return True
            if name not in _TESTS:
                raise RefusedError(f"is {name}")
        return test(*args, **kwargs)

    return call


def _printed(value: object) -> Symbol | str:
    """Print as `{{ value }}` does."""
    if type(value) is Symbol:
        return value
    if not is_plain(value):
        raise RefusedError(f"print {type(value).__name__}")
    return str(value)


def _chance(*_: object, **__: object) -> object:
    """Refuse whatever prints something else next time."""
    raise RefusedError("chance")


def _join(value: Iterable[object], d: object = "", attribute: object = None) -> Symbol | str:
    """Join as Jinja's filter does."""
    if attribute is not None:
        raise RefusedError("join by attribute")
    return _str_join(between(d, value))


def _str_join(items: Iterable[object]) -> Symbol | str:
    return joined(map(_printed, items))


_ENVIRONMENT: Final = RecordingEnvironment()
_NAMES: Final[dict[str, Callable[..., Any]]] = {"str": _printed, "str_join": _str_join, "markup_join": _str_join}


@functools.lru_cache(maxsize=64)
def compile_recording(source: str) -> Template:
    """Compile the template for trial runs.

    Raises:
        RefusedError: it names attributes that could look into a symbol.
    """
    for node in _ENVIRONMENT.parse(source).find_all((nodes.Getattr, nodes.Getitem)):
        name = node.attr if isinstance(node, nodes.Getattr) else getattr(cast("nodes.Getitem", node).arg, "value", "")
        if isinstance(name, str) and name.startswith("_"):
            raise RefusedError(name)
    template = _ENVIRONMENT.from_string(source)
    template.root_render_func.__globals__.update(_NAMES)
    return template


def record(
    source: str, own: Sequence[Message], asked: Asked, settings: Settings, recording: Recording
) -> tuple[Atom, ...]:
    """Run the template with symbols for all texts, and return what it prints as literals and variables.

    Args:
        source: the template.
        own: the conversation; any message not at its place in it is a constant.
        asked: what to render.
        settings: of the conversation.
        recording: records the template's questions.

    Raises:
        RefusedError: the template uses an unsupported operation, or a field of a message is neither text nor null.
        TemplateRefused: the template raised.
    """
    symbols = [
        _symbolic(message, index, recording) if index < len(own) and message is own[index] else {**message}
        for index, message in enumerate(asked.messages)
    ]
    template = compile_recording(source)
    merged = replace(settings, kwargs={**settings.kwargs, **asked.kwargs})
    return atoms_of(print_with(template.render, symbols, None, merged, add_generation_prompt=asked.prompt))


def _symbolic(message: Message, index: int, recording: Recording) -> dict[str, Any]:
    """Return the message as `render.with_reasoning_names` hands it on, with symbols for its texts."""
    given = next((name for name in REASONING_FIELDS if message.get(name) is not None), None)
    sources = {name: name for name in message}
    if given is not None:
        sources = {"thinking": given} | sources | {"reasoning_content": given}
    return {name: _symbol(message, index, name, source, recording) for name, source in sources.items()}


def _symbol(message: Message, index: int, name: str, source: str, recording: Recording) -> Symbol | str | None:
    value = message[source]
    if value is None or value == "" or name == "role":
        return cast("str | None", value)
    if type(value) is not str:
        raise RefusedError(f"messages[{index}].{source} is no text")
    return recording.symbol(f"M[{index}][{recording.constant(source)}]", value, Origin(index, name))
