"""Read tool calls as other tools write them: arguments under another name, a place in a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from turnloom.foreign.json_text import JSON, object_in

#: Names of a call's arguments at LangChain, Anthropic and in Llama's own form.
_ARGUMENTS: Final = ("args", "input", "parameters")
#: A call's number in a streamed reply, which LiteLLM and OpenHands keep. The order of the calls says the same.
_NUMBER: Final = "index"


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
