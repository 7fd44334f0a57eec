"""Find which of a message's values a printed text lacks, value by value.

A text counts as printed where it stands as a whole, white space at its ends aside. It also counts where it stands
escaped as JSON, Python or HTML escape it. What appears twice among the values must appear twice in the text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from math import inf
from typing import Final, NamedTuple

from turnloom.masks.domain.conversation import JSON, STRUCTURE

#: What opens and closes reasoning inside content, as the templates at hand spell it.
_THINK: Final = re.compile(
    r"<think>|</think>|<thinking>|</thinking>|\[/?THINK\]|</?seed:think>|<\|(?:start|end)_thinking\|>"
    r"|<\|(?:START|END)_THINKING\|>"
)
#: What is left of such a marker that a template cut.
_BROKEN: Final = re.compile(r"think(?:ing)?[>\]]|[<\[]/?(?:seed:)?think", re.IGNORECASE)
#: What templates put around a text that they write as JSON.
_AROUND: Final = " \t\r\n\"'\\"
#: How templates and their filters write values that are no text.
_WORDS: Final[Mapping[object, tuple[str, ...]]] = {True: ("true", "True"), False: ("false", "False")}
#: Characters that some spelling writes otherwise.
_ESCAPED: Final = re.compile(r"""["'\\<>&\x00-\x1f\x7f-\U0010ffff]""")


class Lost(Enum):
    """What of a text is not printed."""

    NOTHING = "nothing"
    ESCAPED = "escaped"  # nothing, but it is written as JSON, Python or HTML escape it
    REPEATED = "repeated"  # nothing, but more than the text is printed
    SPACE = "space"  # white space inside it is another
    REASONING = "reasoning"  # what stands between markers of reasoning
    PART = "part"


class Leaf(NamedTuple):
    """One value inside a tool call."""

    path: str  #: behind the message: "tool_calls[0].function.arguments.zone"
    value: JSON  #: a scalar; of a key its name
    kind: str  #: "name", "key" or "value"


def lost_of(text: str, printed: str, *, history: bool = False, closed: bool = True) -> Lost:
    """Compare a text with what was printed of it.

    Args:
        text: as sent.
        printed: all that has its origin, joined.
        history: reasoning is known to be dropped; only what follows the last marker counts.
        closed: the template prints a closing marker of reasoning itself, or need not.
    """
    wanted = text.strip()
    if wanted in printed:
        return Lost.REPEATED if _repeated(text, wanted, printed) else Lost.NOTHING
    if any(form in printed for form in spellings(wanted)):
        return Lost.ESCAPED
    stretches = list(_stretches(wanted))
    if len(stretches) > 1 and history:
        stretches = stretches[-1:]
    forms, lost, rest = [], set(), printed
    for is_reasoning, stretch in sorted(
        stretches, key=lambda one: -len(one[1])
    ):  # what is short may be part of another
        form = next((form for form in spellings(stretch) if form in rest), "")
        if form:
            forms.append(form)
            rest = rest.replace(form, "\0", 1)
            lost.add(Lost.NOTHING if form == stretch else Lost.ESCAPED)
        elif "".join(stretch.split()) in "".join(rest.split()):
            lost.add(Lost.SPACE)
        else:
            lost.add(Lost.REASONING if is_reasoning else Lost.PART)
    if len(forms) == len(stretches) and not history:
        runs_on = closing(wanted) and not (closed or closing(printed))
        thought = any(is_reasoning for is_reasoning, _ in stretches[:-1])
        left = _THINK.sub(" ", rest).replace("\0", " ").strip(_AROUND)
        if (runs_on and thought) or _BROKEN.search(left):
            return Lost.PART
        if runs_on:
            lost.add(Lost.REASONING)  # an empty block
        if left and any(left in form for form in forms):
            lost.add(Lost.REPEATED)
    kinds = (Lost.PART, Lost.REASONING, Lost.SPACE, Lost.REPEATED, Lost.ESCAPED)
    return next((kind for kind in kinds if kind in lost), Lost.NOTHING)


def _repeated(text: str, wanted: str, printed: str) -> bool:
    """Whether a text, or a part of it, stands twice; template's own words around it may have its origin."""
    if len(printed) == len(wanted):
        return False
    whole = next((form for form in spellings(text) if form in printed), wanted)  # escaped white space is its own, too
    left = printed.replace(whole, " ", 1).strip(_AROUND)
    return bool(left) and (left in wanted or wanted in left)


def closing(text: str) -> bool:
    """Whether a marker in the text closes reasoning."""
    return any(_closes(marker[0]) for marker in _THINK.finditer(text))


def _closes(marker: str) -> bool:
    return "/" in marker or "end" in marker.lower()


def _stretches(text: str) -> Iterator[tuple[bool, str]]:
    """Yield (whether it is reasoning, text) between markers; the marker behind reasoning is a closing one."""
    position = 0
    for marker in _THINK.finditer(text):
        if stretch := text[position : marker.start()].strip():
            yield _closes(marker[0]), stretch
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
    seen: dict[object, int] = {}
    for at, call in enumerate(calls):
        before = dict(seen)
        if _all_shown(call, seen, own, shown):
            continue
        seen = before
        leaves = [leaf for leaf in _leaves_of_call(call, f"tool_calls[{at}]") if leaf.value != ""]
        missing = [
            leaf
            for leaf in leaves
            if not _is_shown(leaf.value, leaf.kind, _met(leaf.value, leaf.kind, seen), own, shown)
        ]
        if missing:
            said = [
                leaf for leaf in leaves if leaf.kind == "name" or (isinstance(leaf.value, str) and leaf.kind == "value")
            ]
            whole = all(leaf in missing for leaf in said)  # what is short may stand anywhere
            yield LostCall(f"tool_calls[{at}]" if whole else missing[0].path, whole, missing[0].kind == "name")


def _all_shown(call: JSON, seen: dict[object, int], own: str, shown: str) -> bool:
    """Whether every value of a call is printed, as nearly always; their paths need not be written then."""
    for value, kind in _values_of_call(call):
        if value == "":
            continue
        if not _is_shown(value, kind, _met(value, kind, seen), own, shown):
            return False
    return True


def _met(value: JSON, kind: str, seen: dict[object, int]) -> int:
    """Count a value and return how often it was met; keys that templates spell themselves are no text of a call."""
    said = repr(value) if isinstance(value, float) else value  # 0.0 == -0.0
    key = (type(value), said, kind == "key" and value in STRUCTURE)
    seen[key] = times = seen.get(key, 0) + 1
    return times


def _values_of_call(call: JSON) -> list[tuple[JSON, str]]:
    """Return the values and kinds of `_leaves_of_call`."""
    found: list[tuple[JSON, str]] = []
    if isinstance(call, Mapping):
        inner = call.get("function")
        function = inner if isinstance(inner, Mapping) else call
        if isinstance(function.get("name"), str):
            found.append((function["name"], "name"))
        _add_values(function.get("arguments"), found)
    return found


def _add_values(value: JSON, found: list[tuple[JSON, str]]) -> None:
    if isinstance(value, str):
        found.append((value.strip(), "value"))
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add_values(item, found)
    elif isinstance(value, (int, float)):
        found.append((value, "value"))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            found.append((key, "key"))
            _add_values(item, found)
    elif value is not None:
        found.append((value, "value"))


def _is_shown(value: JSON, kind: str, times: int, own: str, shown: str) -> bool:
    """Whether a leaf is printed as often as it was met, in whatever spellings; what is short must stand by itself."""
    if isinstance(value, str) and kind != "key":
        text = own if _ESCAPED.search(value) is None else shown
        if times == 1 and value in text:
            return True
        forms = list(dict.fromkeys(_written(value)))
        return any(text.count(form) >= times for form in forms) or _occurrences(forms, text) >= times
    if kind == "key" and (f'"{value}"' in shown if times == 1 else shown.count(f'"{value}"') >= times):
        return True  # as JSON, which is what most templates print
    found = 0
    for form in dict.fromkeys(_written(value)):
        found += _times(form, shown, times)
        if found >= times:
            return True
    return False


def _occurrences(forms: Sequence[str], text: str) -> int:
    """Count where one of several spellings stands: a template may print one argument bare and another as JSON."""
    found = 0
    for form in sorted(forms, key=len, reverse=True):  # what is short may be part of another
        found += text.count(form)
        text = text.replace(form, "\0")
    return found


def repeated_calls(calls: Sequence[JSON], own: str) -> Iterator[int]:
    """Yield the positions of calls whose name and texts are all printed more often than they are said.

    Args:
        calls: as the template got them.
        own: printed text that came from the calls.
    """
    said = ""
    for at, call in enumerate(calls):
        texts = {text for text, kind in _values_of_call(call) if kind != "key" and isinstance(text, str) and text}
        if not texts or any(own.count(text) < 2 for text in texts):
            continue
        said = said or "\0".join(_strings(calls))
        if all(_times(text, own) > _times(text, said) for text in texts):
            yield at


def _times(text: str, within: str, enough: float = inf) -> int:
    """Count where a key or number stands as no part of a word or of a longer number, up to what is enough."""
    before, behind = is_word(text[:1]), is_word(text[-1:])
    times, at = 0, within.find(text)
    while at >= 0 and text and times < enough:
        end = at + len(text)
        is_part = (before and at > 0 and is_word(within[at - 1])) or (behind and _goes_on(within, end))
        times += not is_part
        at = within.find(text, at + 1 if is_part else end)
    return times


def is_word(character: str) -> bool:
    """Whether a character is part of words and numbers: a key or number beside it does not stand by itself."""
    return character.isascii() and (character.isalnum() or character == "_")


def _goes_on(text: str, at: int) -> bool:
    """Whether a word or number that ends there goes on."""
    return is_word(text[at : at + 1]) or (text[at : at + 1] == "." and text[at + 1 : at + 2].isdecimal())


def _strings(value: JSON) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        yield from _strings(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


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
