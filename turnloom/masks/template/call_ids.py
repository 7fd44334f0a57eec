"""Rewrite ids of tool calls to the form that a template demands, where make_tool_call_ids asks for it.

Kimi's templates print a call by its id alone, `functions.NAME:INDEX`, counted through the conversation. Mistral's
refuse ids that are not nine letters or digits. Results are given the new id of the call that they name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final

from turnloom.masks.domain.conversation import JSON, Message

#: What Mistral's templates compare the length of an id with.
_NINE: Final = re.compile(
    r"(?:length|len)[^%{}]{0,12}(?:!=|==|<|>)\s*9|9 (?:characters|alphanumeric)|alphanumeric", re.IGNORECASE
)
_ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def with_call_ids(messages: Sequence[Message], source: str) -> Sequence[Message]:
    """Return the messages with new call ids, of nine characters where the template's source mentions such.

    Args:
        messages: normalized.
        source: of the template.
    """
    nine = _NINE.search(source) is not None
    made: dict[str, str] = {}
    waiting: list[tuple[str, str]] = []  #: ids given and new of the last calls that have no result yet
    count = 0
    changed: list[Message] = []
    for message in messages:
        calls = message.get("tool_calls")
        if isinstance(calls, (list, tuple)) and calls:
            named: list[JSON] = []
            waiting = []
            for call in calls:
                new = _made(call, count, nine)
                given = call.get("id") if isinstance(call, Mapping) else None
                if given:
                    made[str(given)] = new
                waiting.append((str(given or ""), new))
                named.append({**call, "id": new} if isinstance(call, Mapping) else call)
                count += 1
            changed.append({**message, "tool_calls": named})
        elif message.get("role") == "tool":
            asked = str(message.get("tool_call_id") or "")
            # Of calls with one id, or with none, the first result belongs to the first.
            found = next((one for one in waiting if one[0] == asked), None)
            if found is None and not asked and waiting:
                found = waiting[0]
            if found is not None:
                waiting.remove(found)
            new = made.get(asked, asked) if found is None else found[1]
            changed.append({**message, "tool_call_id": new} if new else message)
        else:
            changed.append(message)
    return changed


def _made(call: JSON, index: int, nine: bool) -> str:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = str(function.get("name", "")) if isinstance(function, Mapping) else ""
    if not nine:
        return f"functions.{name}:{index}"
    digest = hashlib.sha256(f"{name}:{index}".encode()).digest()
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in digest[:9])
