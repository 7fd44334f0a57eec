"""Read tool calls, also as other tools write them: arguments under another name, a place in a stream.

Every way in reads them here, so that none takes a call that another refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from turnloom.errors import InvalidInput
from turnloom.foreign.json_text import JSON, kind_of, object_in, text_from
from turnloom.foreign.plain_values import text_of

#: Texts of `tool_calls` that say that there are none.
NO_CALLS: Final = ("", "null")
#: Names of a call's arguments at LangChain, Anthropic and in Llama's own form.
_ARGUMENTS: Final = ("args", "input", "parameters")
#: A call's number in a streamed reply, which LiteLLM and OpenHands keep. The order of the calls says the same.
_NUMBER: Final = "index"
_OUTER: Final = frozenset({"id", "type", "function"})
_FLAT: Final = frozenset({"id", "type", "name", "arguments"})
_INNER: Final = frozenset({"name", "arguments"})


def call_from(value: JSON, path: str) -> tuple[dict[str, JSON], str]:
    """Read a call in OpenAI's form, or in the flat form with name and arguments side by side.

    Args:
        value: the call.
        path: where it stands, for the error.

    Returns:
        The call in OpenAI's form without keys that say nothing, and the JSON text of arguments that are an object.

    Raises:
        InvalidInput: names the field, what it holds and what it must hold.
    """
    if not isinstance(value, Mapping):
        raise InvalidInput(f"is {kind_of(value)}; give an object.", field=path)
    value = with_known_keys(value)
    function: JSON = value.get("function", {k: v for k, v in value.items() if k in ("name", "arguments")})
    inner = f"{path}.function" if "function" in value else path
    if not isinstance(function, Mapping):
        raise InvalidInput(f"is {kind_of(function)}; give an object.", field=inner)
    only(value, _OUTER if "function" in value else _FLAT, path)
    only(function, _INNER, inner)
    said: dict[str, JSON] = {"name": text_from(function.get("name"), f"{inner}.name")}
    arguments, text = function.get("arguments"), ""
    if isinstance(arguments, Mapping):
        text = text_of(arguments, f"{inner}.arguments")
    elif arguments is not None and not isinstance(arguments, str):
        raise InvalidInput(f"is {kind_of(arguments)}; give an object or text.", field=f"{inner}.arguments")
    if arguments is not None:
        said["arguments"] = arguments
    call: dict[str, JSON] = {
        key: text_from(value[key], f"{path}.{key}") for key in ("id", "type") if value.get(key) not in (None, "")
    }
    call["function"] = said
    return call, text


def tool_text(tool: JSON, index: int) -> str:
    """Write a tool as JSON text. Raises InvalidInput: it is no object, or holds what JSON can't."""
    if not isinstance(tool, Mapping):
        raise InvalidInput(f"is {kind_of(tool)}; give an object.", field=f"tools[{index}]")
    return text_of(tool, f"tools[{index}]")


def only(value: Mapping[str, JSON], known: Iterable[str], path: str) -> None:
    """Refuse further keys: the contract has no field for them here, and they must not get lost silently.

    Raises:
        InvalidInput: names the first.
    """
    others = [key for key, item in value.items() if item is not None and key not in known]
    if others:
        raise InvalidInput(f"has the unknown key {others[0]}.", field=path, hint="Remove it: templates don't get it.")


def with_known_keys(call: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return a call whose arguments are under `arguments`, whatever name they had; the same object if nothing changes.

    Takes a call in OpenAI's form, also with JSON text as its function, or one with name and arguments side by side.
    Its number in a stream is left out.
    """
    if isinstance(call.get(_NUMBER), int):
        call = {key: value for key, value in call.items() if key != _NUMBER}
    given = call.get("function")
    function = object_in(given)
    if isinstance(function, Mapping):
        named = _named(function)
        return call if named is given else {**call, "function": named}
    return _named(call)


def _named(function: Mapping[str, JSON]) -> Mapping[str, JSON]:
    if function.get("arguments") is not None or "name" not in function:
        return function
    given = [name for name in _ARGUMENTS if function.get(name) is not None]
    if len(given) != 1:
        return function
    return {"arguments" if key == given[0] else key: value for key, value in function.items() if key != "arguments"}
