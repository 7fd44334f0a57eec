"""Jinja's filters, calls and operators with provenance.

Every filter is wrapped unless it is known to return the very strings it was given. The result of a wrapped one is
blended with the origin of whatever went in.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from json import encoder
from typing import Any, Final

from jinja2 import pass_context
from jinja2.filters import FILTERS as DEFAULT_FILTERS
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.utils import Cycler, Joiner, _PassArg
from markupsafe import Markup

from turnloom.masks.template.provenance.markup import TracedMarkup, escaped, safe
from turnloom.masks.template.provenance.strings import Traced, blended, concat, plain, runs_of, to_text, traced

#: Filters that give numbers or the very objects inside what they were given (`list` iterates, which Traced follows),
#: or are one method that Traced follows. All others are blended, also where they give a Traced string: `indent`
#: adds lines joined in C to a first line that still has its runs.
FOLLOWED: Final = frozenset(
    {"length", "count", "list", "first", "last", "default", "d", "items", "selectattr", "rejectattr", "select"}
    | {"reject", "map", "dictsort", "sort", "unique", "int", "float", "round", "abs", "wordcount", "random", "batch"}
    | {"slice", "groupby", "min", "max", "sum", "attr", "upper", "lower", "trim", "capitalize"}
)

#: What hands on an object that was put in, or joins its text with runs.
_CARRIERS: Final = (dict, list, tuple, Traced, TracedMarkup, Macro, LoopContext, BlockReference, Cycler, Joiner)

_ENCODER: Final = json.JSONEncoder(ensure_ascii=False)
#: What the encoder makes anew for every value; None where Python has no such C code.
_MAKE: Final = getattr(encoder, "c_make_encoder", None)
_ENCODE: Final = _MAKE and _MAKE(
    None, _ENCODER.default, encoder.encode_basestring, None, ": ", ", ", False, False, True
)

#: Methods of a literal str that a promoted (traced) str of the same characters follows exactly.
_PROMOTED: Final = frozenset({"join", "replace"})


def carried(result: object, *sources: object) -> object:
    """Give a fresh str or Markup the blended origin of its sources; return anything else unchanged."""
    if type(result) is str:
        return blended(result, *sources)
    if type(result) is Markup:
        return safe(blended(plain(result), *sources))
    return result


def json_text(
    value: object, ensure_ascii: bool, indent: int | str | None, separators: tuple[str, str] | None, sort_keys: bool
) -> str:
    """Return what `json.dumps` does; the encoder of nearly all calls is made once."""
    if separators is None and not (ensure_ascii or sort_keys):
        if indent is None:
            return "".join(_ENCODE(value, 0)) if _ENCODE is not None else _ENCODER.encode(value)
        if isinstance(indent, int):
            try:
                return _indented(value, "\n", " " * indent)
            except (TypeError, RecursionError):
                pass  # json says what is wrong, or knows what to do
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _indented(value: object, line: str, step: str) -> str:
    """Return what `json.dumps` gives with an indent, which its code in C does not know, in half the time.

    Args:
        value: of JSON's types.
        line: a line break and the indent at hand.
        step: what each level adds to it.

    Raises:
        TypeError: the value, or a key, is of another type.
    """
    quoted = encoder.encode_basestring
    if isinstance(value, str):
        return quoted(value)
    kind = type(value)
    if kind is int:
        return int.__repr__(value)
    if value is None or isinstance(value, int | float):
        return _ENCODER.encode(value)
    inner = line + step
    if isinstance(value, dict):
        lines = [
            f"{quoted(key)}: {quoted(item) if type(item) is str else _indented(item, inner, step)}"
            for key, item in value.items()
        ]
        first, last = "{}"
    elif isinstance(value, list | tuple):
        lines = [_indented(item, inner, step) for item in value]
        first, last = "[]"
    else:
        raise TypeError(type(value))
    return f"{first}{inner}{f',{inner}'.join(lines)}{line}{last}" if lines else first + last


def tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Dump JSON as Hugging Face's tojson, without HTML escapes.

    The whole text has the origin of what it prints, punctuation included.
    """
    return blended(json_text(value, ensure_ascii, indent, separators, sort_keys), value)


@pass_context
def mark_safe(_: Context, value: object) -> TracedMarkup:
    """Mark as `|safe` does; takes the context so that Jinja folds no constant into a Markup without runs."""
    return safe(value)


@pass_context
def escape_html(_: Context, value: object) -> TracedMarkup:
    """Escape as `|escape` and `|forceescape` do."""
    return escaped(value)


@pass_context
def join(context: Context, value: Iterable[object], d: object = "", attribute: str | int | None = None) -> str:
    """Join as Jinja's filter does."""
    if attribute is not None:
        value = context.environment.call_filter("map", value, kwargs={"attribute": attribute}, context=context)
    separator = to_text(d)
    pieces: list[str] = []
    for item in value:
        if pieces:
            pieces.append(separator)
            pieces.append(to_text(item))
        else:
            pieces = ["", to_text(item)]
    return concat(pieces)


def replace(s: object, old: object, new: object, count: int | None = None) -> str:
    """Replace as Jinja does where autoescape is off, as it always is here."""
    text, old_text, new_text = to_text(s), to_text(old), to_text(new)
    return settled(_promoted(text).replace(old_text, new_text, -1 if count is None else count))


def string(value: object) -> str:
    """Convert as `|string` does: return a str unchanged, anything else as it prints."""
    return value if isinstance(value, str) else to_text(value)


def modulo(left: Any, right: Any) -> Any:
    """Apply the % operator."""
    return percent_format(left, right) if isinstance(left, str) else left % right


def percent_format(pattern: str, values: Any) -> str:
    """Return `pattern % values`; plain %s are followed exactly, other conversions blend the whole text."""
    text = str.__mod__(pattern, values) if not isinstance(pattern, Markup) else pattern % values
    arguments = values if type(values) is tuple else (values,)
    literals = plain(pattern).split("%s")
    if (
        isinstance(pattern, Markup)
        or any("%" in literal for literal in literals)
        or len(literals) != len(arguments) + 1
    ):
        result = carried(text, pattern, values)
        return result if isinstance(result, str) else str(result)
    pieces: list[str] = [_promoted(pattern)[: len(literals[0])]]
    position = len(literals[0])
    for argument, literal in zip(arguments, literals[1:], strict=True):
        position += 2
        pieces += (to_text(argument), _promoted(pattern)[position : position + len(literal)])
        position += len(literal)
    return concat(pieces)


def format_filter(value: object, *args: Any, **kwargs: Any) -> str:
    """Format as Jinja's |format does, which is %-formatting."""
    if args and kwargs:
        raise TypeError("can't handle positional and keyword arguments at the same time")
    return percent_format(to_text(value) if not isinstance(value, str) else value, kwargs or args)


def blending(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a filter so that every string it returns is blended from all that went in."""

    @functools.wraps(filter_)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = filter_(*args, **kwargs)
        if not isinstance(result, str):
            return result
        text = blended(plain(result), args[passed:], kwargs)  # the context or environment is not a source of text
        return safe(text) if isinstance(result, Markup) else text

    passed = 0 if _PassArg.from_obj(filter_) is None else 1
    return call


def traced_filters() -> dict[str, Callable[..., Any]]:
    """Return all filters of a Jinja environment, wrapped so that none makes a literal of message text."""
    filters = {name: f if name in FOLLOWED else blending(f) for name, f in DEFAULT_FILTERS.items()}
    own: dict[str, Callable[..., Any]] = {
        "tojson": tojson,
        "safe": mark_safe,
        "escape": escape_html,
        "e": escape_html,
        "forceescape": escape_html,
        "join": join,
        "replace": replace,
        "string": string,
        "format": format_filter,
    }
    return filters | own


def call(context: Context, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `function(*args)` from a template; results of C functions, which carry no runs, are blended."""
    owner = getattr(function, "__self__", None)
    if type(owner) is Traced:
        return function(*args, **given(kwargs))
    if type(owner) is str and function.__name__ in _PROMOTED and args:
        return getattr(_promoted(owner), function.__name__)(*args, **given(kwargs))
    result = context.call(function, *args, **kwargs)
    if type(result) is not str and type(result) is not Markup:
        return result
    if isinstance(owner, _CARRIERS) or isinstance(function, _CARRIERS):
        return result
    return carried(result, owner, args, given(kwargs))


def given(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what the template itself passed: inside loops and blocks Jinja adds the variables in scope."""
    return kwargs and {name: value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")}


def settled(text: str) -> str:
    """Return an exact str where nothing but literals is left, so that Jinja can fold constants."""
    return text if any(tag is not None for _, tag in runs_of(text)) else plain(text)


def _promoted(text: str) -> Traced:
    return text if type(text) is Traced else traced(plain(text), runs_of(text))
