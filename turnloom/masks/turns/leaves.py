"""Find which of a message's values a printed text lacks, value by value.

A text counts as printed where it stands as a whole, white space at its ends aside, or escaped as JSON, Python or HTML
escape it. What appears twice among the values must appear twice in the text.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

from turnloom.masks.domain.conversation import JSON

#: What opens and closes reasoning inside content, as the templates at hand spell it.
_THINK: Final = re.compile(
    r"<think>|</think>|<thinking>|</thinking>|\[/?THINK\]|</?seed:think>|<\|(?:start|end)_thinking\|>"
    r"|<\|(?:START|END)_THINKING\|>"
)
#: How templates and their filters write values that are no text.
_WORDS: Final[Mapping[object, tuple[str, ...]]] = {True: ("true", "True"), False: ("false", "False")}
#: Characters that some spelling writes otherwise.
_ESCAPED: Final = re.compile(r"""["'\\<>&\x00-\x1f\x7f-\U0010ffff]""")


class Lost(Enum):
    """What of a text is not printed."""

    NOTHING = "nothing"
    SPACE = "space"  # white space inside it is another
    REASONING = "reasoning"  # what stands between markers of reasoning
    PART = "part"


class Leaf(NamedTuple):
    """One value inside a tool call."""

    path: str  #: behind the message: "tool_calls[0].function.arguments.zone"
    value: JSON  #: a scalar; of a key its name
    kind: str  #: "name", "key" or "value"


def lost_of(text: str, printed: str, *, history: bool = False) -> Lost:
    """Compare a text with what was printed of it.

    Args:
        text: as sent.
        printed: all that has its origin, joined.
        history: reasoning is known to be dropped; only what follows the last marker counts.
    """
    wanted = text.strip()
    if wanted in printed:
        return Lost.NOTHING
    stretches = list(_stretches(wanted))
    if len(stretches) > 1 and history:
        stretches = stretches[-1:]
    lost = {_lost_stretch(stretch, printed, is_reasoning) for is_reasoning, stretch in stretches}
    return next((kind for kind in (Lost.PART, Lost.REASONING, Lost.SPACE) if kind in lost), Lost.NOTHING)


def _lost_stretch(stretch: str, printed: str, is_reasoning: bool) -> Lost:
    if any(form in printed for form in spellings(stretch)):
        return Lost.NOTHING
    if "".join(stretch.split()) in "".join(printed.split()):
        return Lost.SPACE
    return Lost.REASONING if is_reasoning else Lost.PART


def _stretches(text: str) -> Iterator[tuple[bool, str]]:
    """Yield (whether it is reasoning, text) between markers; the marker behind reasoning is a closing one."""
    position = 0
    for marker in _THINK.finditer(text):
        closes = "/" in marker[0] or "end" in marker[0].lower()
        if stretch := text[position : marker.start()].strip():
            yield closes, stretch
        position = marker.end()
    if stretch := text[position:].strip():
        yield False, stretch


def spellings(text: str) -> Iterator[str]:
    """Yield the ways in which templates write a text."""
    yield text
    for ascii_only in (False, True):
        once = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield once
        yield json.dumps(once, ensure_ascii=ascii_only)[1:-1]  # JSON text inside JSON
    yield repr(text)[1:-1]
    yield html.escape(text)
    if text != text.strip():
        yield from spellings(text.strip())


def _written(value: JSON) -> Iterator[str]:
    if isinstance(value, str):
        yield from spellings(value)
    elif isinstance(value, bool):
        yield from _WORDS[value]
    else:
        yield json.dumps(value)
        yield str(value)


class LostCall(NamedTuple):
    """The parts of one call that are not printed."""

    path: str  #: of the call, or of the first value that is missing where others are there
    whole: bool  #: nothing of it is there
    is_name: bool


def lost_calls(calls: Sequence[JSON], own: str, shown: str) -> Iterator[LostCall]:
    """Yield what of tool calls is missing.

    Args:
        calls: as the template got them.
        own: printed text that came from the calls.
        shown: all that the turn shows. Numbers and some keys belong to no origin, and escaped text does in part.
    """
    seen: Counter[tuple[type, object]] = Counter()
    for at, call in enumerate(calls):
        leaves = [leaf for leaf in _leaves_of_call(call, f"tool_calls[{at}]") if leaf.value != ""]
        missing = []
        for leaf in leaves:
            key = (type(leaf.value), leaf.value)
            seen[key] += 1
            plain = isinstance(leaf.value, str) and leaf.kind != "key" and _ESCAPED.search(leaf.value) is None
            text = own if plain else shown
            if not any(text.count(form) >= seen[key] for form in _written(leaf.value)):
                missing.append(leaf)
        if missing:
            said = [
                leaf for leaf in leaves if leaf.kind == "name" or (isinstance(leaf.value, str) and leaf.kind == "value")
            ]
            whole = all(leaf in missing for leaf in said)  # what is short may stand anywhere
            yield LostCall(f"tool_calls[{at}]" if whole else missing[0].path, whole, missing[0].kind == "name")


def _leaves_of_call(call: JSON, path: str) -> Iterator[Leaf]:
    if not isinstance(call, Mapping):
        return
    inner = call.get("function")
    function, place = (inner, f"{path}.function") if isinstance(inner, Mapping) else (call, path)
    if isinstance(function.get("name"), str):
        yield Leaf(f"{place}.name", function["name"], "name")
    yield from _leaves(function.get("arguments"), f"{place}.arguments")


def _leaves(value: JSON, path: str) -> Iterator[Leaf]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield Leaf(f"{path}.{key}", key, "key")
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for at, item in enumerate(value):
            yield from _leaves(item, f"{path}[{at}]")
    elif value is not None:
        yield Leaf(path, value.strip() if isinstance(value, str) else value, "value")


def texts_of(content: JSON) -> Iterator[tuple[str, str, bool]]:
    """Yield the texts of a content: path behind "content", the text, whether it is a part of reasoning."""
    if isinstance(content, str):
        yield "", content, False
    elif isinstance(content, (list, tuple)):
        for at, part in enumerate(content):
            if isinstance(part, str):
                yield f"[{at}]", part, False
            elif isinstance(part, Mapping):
                kind = part.get("type")
                for key, value in part.items():
                    if key != "type":
                        yield from _part_texts(value, f"[{at}]", kind == "thinking")


def _part_texts(value: JSON, path: str, is_reasoning: bool) -> Iterator[tuple[str, str, bool]]:
    if isinstance(value, str):
        yield path, value, is_reasoning
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, Mapping):
                yield from _part_texts(item.get("text"), path, is_reasoning)
