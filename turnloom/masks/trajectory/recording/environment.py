"""The Jinja environment in which bodies are recorded: it follows what it knows and refuses all other operations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from jinja2 import pass_context
from jinja2.runtime import Context
from jinja2.utils import _PassArg

from turnloom.masks.replay.symbols import (
    RefusedError,
    Symbol,
    SymbolLength,
    SymbolParts,
    between,
    contains,
    is_plain,
    is_symbolic,
    joined,
)
from turnloom.masks.template.environment import PlainEnvironment
from turnloom.masks.trajectory.programs.program import Missing
from turnloom.masks.trajectory.recording.chosen import Chosen
from turnloom.masks.trajectory.recording.handing import is_constant
from turnloom.masks.trajectory.recording.made import MadeDict, MadeList, piece_source
from turnloom.masks.trajectory.recording.numbers import Fraction, Number
from turnloom.masks.trajectory.recording.ranges import positions
from turnloom.masks.trajectory.recording.safe import Safe
from turnloom.masks.trajectory.recording.spaces import Space
from turnloom.masks.trajectory.recording.values import Dict, Json, List, Loop, Messages, Pairs, Unusable
from turnloom.masks.trajectory.recording.written import printed, written

if TYPE_CHECKING:
    from collections.abc import Iterable

#: The variable under which a template finds the recorder.
RECORDER: Final = "_recorder"
_METHODS: Final = frozenset({"strip", "lstrip", "rstrip", "split", "rsplit", "startswith", "endswith", "replace"})
_STR_ATTRIBUTES: Final = frozenset(dir(str))
_DICT_ATTRIBUTES: Final = frozenset(dir(dict))
_LIST_ATTRIBUTES: Final = frozenset(dir(list))
#: Tests that ask for the type alone, or by operators that are recorded.
_TESTS: Final = frozenset(
    {"defined", "undefined", "none", "string", "mapping", "number", "boolean", "true", "false", "integer", "float"}
    | {"eq", "==", "equalto", "ne", "!=", "in", "odd", "even", "divisibleby"}
    | {"gt", "greaterthan", ">", "ge", ">=", "lt", "lessthan", "<", "le", "<="}
)


#: Values that tests would take for something else.
_UNTOLD: Final = frozenset({Safe, Pairs, Loop, Space, Unusable})


class BodyEnvironment(PlainEnvironment):
    """Hugging Face's settings, for bodies that are recorded."""

    concat = staticmethod(joined)  # type: ignore[assignment]  # gives symbols where Jinja expects str

    def __init__(self) -> None:
        super().__init__()
        for name, filter_ in list(self.filters.items()):
            self.filters[name] = _followed_filter(name, filter_)
        for name, test in list(self.tests.items()):
            self.tests[name] = _followed_test(name, cast("Callable[..., Any]", test))
        self.globals["namespace"] = _namespace
        self.globals["range"] = positions

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up `obj.attribute`."""
        if type(obj) is Space:
            return self._there(obj.attribute(attribute), obj, attribute)
        if not is_symbolic(obj):
            return super().getattr(obj, attribute)
        if type(obj) is Loop:
            return self._there(obj.attribute(attribute), None, attribute)
        if type(obj) is Symbol and attribute in _METHODS:
            return getattr(obj, attribute)
        if isinstance(obj, Dict | MadeDict):
            if attribute == "get" or (attribute == "items" and isinstance(obj, Dict)):
                return getattr(obj, attribute)
            if attribute not in _DICT_ATTRIBUTES and not attribute.startswith("_"):
                return self._there(obj.value_of(attribute), None, attribute)
        elif type(obj) in (List, Messages, Chosen, MadeList, SymbolParts):
            if attribute not in _LIST_ATTRIBUTES and not attribute.startswith("_"):
                return self.undefined(name=attribute)
        elif type(obj) is Symbol and attribute not in _STR_ATTRIBUTES and not attribute.startswith("_"):
            return self.undefined(name=attribute)  # strings have no such attribute, whatever they say
        raise RefusedError(f".{attribute}")

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look up `obj[argument]`."""
        if type(obj) is SymbolParts:
            try:
                return obj[argument]
            except IndexError:
                return self.undefined(name=argument)
        if not is_symbolic(obj) and type(obj) is not Space:
            if is_symbolic(argument):
                raise RefusedError("an item by a text")
            return super().getitem(obj, argument)
        if type(obj) is Messages:
            if type(argument) is int or type(argument) is Number:
                return self._there(obj.at(argument), None, "item")
        elif type(obj) in (List, Chosen, MadeList) and type(argument) is int:
            return self._there(obj.at(argument), None, argument)
        elif isinstance(obj, Dict | MadeDict) and type(argument) is str and not argument.startswith("_"):
            if argument in _DICT_ATTRIBUTES:  # an item comes before an attribute here
                raise RefusedError(f"[{argument}]")
            return self._there(obj.value_of(argument), None, argument)
        elif isinstance(obj, Dict) and type(argument) is Symbol:
            return self._there(obj.item(argument), None, "item")
        elif type(obj) is Symbol and type(argument) is int:
            end = argument + 1 if argument != -1 else None
            found = obj[argument:end]
            return found or self.undefined(name="item")
        elif type(obj) in (Space, Loop, Symbol) and type(argument) is str and argument not in _METHODS:
            return self.getattr(obj, argument)
        raise RefusedError("an item")

    def _there(self, found: Any, obj: object, name: object) -> Any:
        return self.undefined(name=cast("str", name)) if found is Missing else found

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # Jinja's own
        """Call a function from the template."""
        given = {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}
        if __obj is __context.get("_fold"):
            return __obj(*args, **given)
        if is_symbolic(getattr(__obj, "__self__", None)):
            return __obj(*args, **given)
        return super().call(__context, __obj, *args, **kwargs)


@pass_context
def _namespace(context: Context, *args: Any, **kwargs: Any) -> Space:
    """Make a namespace that is recorded."""
    if args:
        raise RefusedError("a namespace of a dict")
    made = context[RECORDER].space()
    for name, value in kwargs.items():
        if name not in ("_loop_vars", "_block_vars"):
            made[name] = value
    return cast("Space", made)


def _length(value: Any) -> Any:
    if type(value) in (Messages, Chosen, MadeList) or isinstance(value, Json):
        return value.length()
    if type(value) is MadeDict:
        return len(value.value)
    if type(value) is Symbol:
        return SymbolLength(value)
    if type(value) is SymbolParts:
        return len(value)
    raise RefusedError("|length")


def _string(value: Any) -> Any:
    if type(value) in (Number, Fraction):
        return value.printed()
    if type(value) is Symbol:
        return value
    if type(value) in (Dict, List):
        return printed(value, value.tape)
    raise RefusedError("|string")


def _int(value: Any) -> Any:
    if type(value) is Number:
        return value
    source, now, tape = _parsed(value, "int")
    return Number({source: 1}, now, tape)


def _float(value: Any) -> Any:
    return Fraction(*_parsed(value, "float"))


def _parsed(text: Any, kind: str) -> tuple[str, Any, Any]:
    """Return the expression of a number that a text spells, what it gives now, and its recording."""
    if type(text) is not Symbol:
        raise RefusedError(f"|{kind}")
    tape: Any = text._tape
    source = f"{kind}_of({piece_source(text)}.text)"
    return source, tape.run(source), tape


def _safe(value: Any) -> Any:
    if type(value) is Symbol:
        return Safe(value)
    raise RefusedError("|safe")


def _written(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> Any:
    arguments = {"ensure_ascii": ensure_ascii, "indent": indent, "separators": separators, "sort_keys": sort_keys}
    tape = _tape_of(value)
    if tape is None:
        raise RefusedError("|tojson")
    return written(value, tape, arguments)


def _tape_of(value: Any) -> Any:
    """Return the recording that a value, or one inside it, belongs to."""
    if type(value) in (dict, list, tuple):
        inside = map(_tape_of, value.values() if type(value) is dict else value)
        return next((tape for tape in inside if tape is not None), None)
    return value._tape if type(value) is Symbol else getattr(value, "tape", None)


def _items(value: Any) -> Any:
    if type(value) is Dict:
        return value.items()
    raise RefusedError("|items")


def _dictsort(value: Any, *arguments: object) -> Any:
    if type(value) is Dict and not arguments:
        return Pairs(value, ordered=True)
    raise RefusedError("|dictsort")


def _trim(text: Any, chars: str | None = None) -> Any:
    if type(text) is not Symbol:
        raise RefusedError("|trim")
    return text.strip(chars)


def _replace(text: Any, old: str, new: str, count: int | None = None) -> Any:
    if type(text) is not Symbol:
        raise RefusedError("|replace")
    return text.replace(old, new, -1 if count is None else count)


def _cased(name: str) -> Callable[[Any], Any]:
    def cased(text: Any) -> Any:
        if type(text) is not Symbol:
            raise RefusedError(f"|{name}")
        return text._derived(name)

    return cased


def _list(value: Any) -> Any:
    if type(value) in (List, Messages, Chosen, MadeList):
        return value
    raise RefusedError("|list")


def _join(value: Any, d: Any = "", attribute: object = None) -> Any:
    if attribute is not None or type(value) not in (MadeList, list, tuple):
        raise RefusedError("|join")
    if type(value) is MadeList:
        return value.joined(d)
    return _str_join(between(d, value))


def _choosing(kept: bool) -> Callable[..., Chosen]:
    def choose(value: Any, *arguments: Any, **named: Any) -> Chosen:
        if type(value) is Messages and value.begin is None and not value.backwards:
            value = Chosen(value.start, (), value.tape)
        if type(value) is not Chosen:
            raise RefusedError("a choice of other items than messages")
        return value.also(kept, *arguments, **named)

    return choose


def _end(index: int, name: str) -> Callable[[Any], Any]:
    def end(value: Any) -> Any:
        if type(value) in (Messages, Chosen, List, MadeList):
            return ENVIRONMENT.getitem(value, index)
        raise RefusedError(f"|{name}")

    return end


_FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "length": _length, "count": _length, "string": _string, "safe": _safe, "int": _int, "float": _float,
    "tojson": _written, "items": _items, "trim": _trim, "replace": _replace, "list": _list, "dictsort": _dictsort,
    "upper": _cased("upper"), "lower": _cased("lower"), "first": _end(0, "first"), "last": _end(-1, "last"),
    "join": _join, "selectattr": _choosing(True), "rejectattr": _choosing(False),
}  # fmt: skip
#: Filters that hand on what they are given.
_HANDING: Final = frozenset({"default", "d"})


def _followed_filter(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    passed = 0 if _PassArg.from_obj(filter_) is None else 1

    @functools.wraps(filter_)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = args[passed:]
        if name in _HANDING:
            return filter_(*args, **kwargs)
        if given and is_symbolic(given[0]) and name in _FILTERS:
            if any(map(is_symbolic, (*given[1:], *kwargs.values()))):
                raise RefusedError(f"|{name} by a text")
            return _FILTERS[name](*given, **kwargs)
        if name in ("tojson", "join") and given and _tape_of(given[0]) is not None:
            return _FILTERS[name](*given, **kwargs)
        if name in ("length", "count") and len(given) == 1 and type(given[0]) in (list, tuple, dict):
            return len(given[0])  # the template's own, whatever is in it
        if not all(is_plain(one) or (name in _FILTERS and is_constant(one)) for one in (*given, *kwargs.values())):
            raise RefusedError(f"|{name}")
        return filter_(*args, **kwargs)

    return call


def _followed_test(name: str, test: Callable[..., Any]) -> Callable[..., Any]:
    passed = 0 if _PassArg.from_obj(test) is None else 1

    @functools.wraps(test)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = args[passed:]
        if any(map(is_symbolic, (*given, *kwargs.values()))) or type(given[0]) is Space:
            if name in ("defined", "undefined", "none"):
                return test(*args, **kwargs)
            if type(given[0]) in _UNTOLD or name not in (*_TESTS, "iterable", "sequence"):
                raise RefusedError(f"is {name}")
            if name in ("iterable", "sequence"):
                return type(given[0]) not in (Number, Fraction, SymbolLength)
            if name == "in" and all(type(one) in (Symbol, str) for one in given):
                return contains(given[1], given[0])
        return test(*args, **kwargs)

    return call


def _printed(value: object) -> Symbol | str:
    """Print as `{{ value }}` does."""
    if type(value) is Symbol:
        return value
    if type(value) is Safe:
        return value.text
    if type(value) in (Number, Fraction, Dict, List):
        return cast("Symbol", _string(value))
    if not is_plain(value):
        raise RefusedError(f"print {type(value).__name__}")
    return str(value)


def _str_join(items: Iterable[object]) -> Symbol | str:
    return joined(map(_printed, items))


def _refusing(*_: object) -> object:
    raise RefusedError("markup")


ENVIRONMENT: Final = BodyEnvironment()
#: Names that Jinja's compiled code looks up in its module.
RECORDED_NAMES: Final[dict[str, Callable[..., Any]]] = {
    "str": _printed, "str_join": _str_join, "markup_join": _refusing, "escape": _refusing, "Markup": _refusing,
}  # fmt: skip
