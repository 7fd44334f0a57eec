"""Check whether a render shows all that messages say, value by value.

Trained turns: omitted values are refused by their place, reasoning that templates drop gives a warning. Other
messages: a warning by place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from turnloom.masks.domain.conversation import JSON, REASONING_FIELDS, Message
from turnloom.masks.domain.errors import ContentNotCovered
from turnloom.masks.domain.rendered_text import TOOLS, UNKNOWN, Origin, RenderedText
from turnloom.masks.turns.leaves import Lost, closing, lost_calls, lost_of, repeated_calls, texts_of
from turnloom.masks.turns.span_parts import EMPTY_BLOCK, Piece, has_text
from turnloom.masks.turns.text_map import TextMap, next_foreign, pieces_between

_TEXTS: Final[Mapping[Lost, str]] = {
    Lost.PART: "the template leaves out or changes a part of this text",
    Lost.REASONING: "the template leaves out the reasoning in this text",
    Lost.SPACE: "the template changes white space inside this text",
    Lost.ESCAPED: "the template writes this text escaped",
    Lost.REPEATED: "the template prints this text, or a part of it, more than once",
}
#: What a text may stand elsewhere in the turn for, of no known origin.
_LEFT_OUT: Final = frozenset({Lost.PART, Lost.REASONING, Lost.SPACE})


class Shown:
    """The text of one message as it was printed, by field."""

    def __init__(self, pieces: Sequence[Piece], text: str) -> None:
        """Join the pieces of each field.

        Args:
            pieces: runs of the message's turn.
            text: all of the turn.
        """
        self.text = text
        self._by_field: dict[str, str] = {}
        for _, piece, origin in pieces:
            if origin is not None:
                self._by_field[origin.field] = self._by_field.get(origin.field, "") + piece
        self.literals = "".join(piece if origin is None else "\0" for _, piece, origin in pieces)

    def of(self, *fields: str) -> str:
        """Return the text of these fields; text of which only the message is known counts as each."""
        return "".join(self._by_field.get(field, "") for field in (*fields, ""))

    def lost(self, text: str, *fields: str, history: bool = False, closed: bool = True) -> Lost:
        """Compare a text of these fields with what is printed of it."""
        lost = lost_of(text, self.of(*fields), history=history, closed=closed)
        if lost is Lost.REPEATED and "" in self._by_field:
            return Lost.NOTHING  # text of other fields is among it
        return Lost.NOTHING if lost in _LEFT_OUT and text.strip() in self.text else lost

    def has(self, *fields: str) -> bool:
        """Whether a character of these fields other than white space is printed."""
        found = self.of(*fields)
        return bool(found) and not found.isspace()


def is_as_sent(pieces: Sequence[Piece], message: Message, index: int) -> bool:
    """Whether a turn holds its message's content and reasoning, each in one run, and no more, as most turns do.

    Then `trained_warnings` finds nothing to say.
    """
    if message.get("tool_calls"):
        return False
    reasoning = next((message[name] for name in REASONING_FIELDS if has_text(message.get(name))), "")
    wanted = {"content": message.get("content"), "reasoning": reasoning}
    for _, text, origin in pieces:
        if origin is None:
            continue
        said = wanted.pop("reasoning" if origin.field in REASONING_FIELDS else origin.field, None)
        if origin.message_index != index or not isinstance(said, str) or said.strip() != text.strip(" \t\r\n"):
            return False
    return not any(map(has_text, wanted.values()))


def trained_warnings(message: Message, index: int, shown: Shown) -> list[str]:
    """Check that a trained turn shows all that its message says; warnings for what may be left out.

    Raises:
        ContentNotCovered: naming the value.
    """
    warnings = []
    content = message.get("content")
    if has_text(content) and not shown.has("content"):
        raise ContentNotCovered("the template leaves this text out", message_index=index, field="content")
    for path, lost in _lost_content(content, shown, closed=closing(shown.literals)):
        if lost is Lost.PART:
            raise ContentNotCovered(_TEXTS[lost], message_index=index, field=f"content{path}")
        warnings.append(f"messages[{index}].content{path}: {_TEXTS[lost]}")
    return [
        *warnings,
        *_checked_calls(message.get("tool_calls"), index, shown),
        *reasoning_warnings(message, index, shown),
    ]


def _lost_content(
    content: JSON, shown: Shown, *, history: bool = False, closed: bool = True
) -> Iterator[tuple[str, Lost]]:
    for path, text, is_reasoning in texts_of(content):
        if not has_text(text):
            continue
        lost = shown.lost(text, "content", history=history, closed=closed)
        if lost is Lost.NOTHING or (lost is Lost.REPEATED and path):  # all parts stand in one text
            continue
        yield path, Lost.REASONING if is_reasoning and lost is Lost.PART else lost


def _checked_calls(calls: JSON, index: int, shown: Shown) -> list[str]:
    """Warn of calls that are printed twice; raises ContentNotCovered for those that are left out."""
    if not calls:
        return []
    if not shown.has("tool_calls"):
        raise ContentNotCovered("the template leaves the tool calls out", message_index=index, field="tool_calls")
    if not isinstance(calls, (list, tuple)):
        return []
    for path, whole, is_name in lost_calls(calls, shown.of("tool_calls"), shown.text):
        what = "call" if whole else "name" if is_name else "value"
        hint = _hint_of_id(calls, path, shown) if is_name and not whole else ""
        raise ContentNotCovered(f"the template leaves this {what} out{hint}", message_index=index, field=path)
    return [
        f"messages[{index}].tool_calls[{at}]: the template prints this call more than once"
        for at in repeated_calls(calls, shown.of("tool_calls"))
    ]


def _hint_of_id(calls: Sequence[JSON], path: str, shown: Shown) -> str:
    """Return what to do where a template identifies a call by its id alone."""
    position = int(path[len("tool_calls[") : path.index("]")])
    call = calls[position]
    given = call.get("id") if isinstance(call, Mapping) else None
    if given and str(given) not in shown.of("tool_calls"):
        return ""
    return (
        " and tells the call by its id; send ids of the form functions.NAME:0, counted through the conversation, or set"
        " make_tool_call_ids"
    )


def reasoning_warnings(message: Message, index: int, shown: Shown) -> list[str]:
    """Warn of reasoning that is left out; raises ContentNotCovered where an empty block stands in its place."""
    given = next((name for name in REASONING_FIELDS if has_text(message.get(name))), None)
    if given is None:
        return []
    text = message[given]
    if not shown.has(*REASONING_FIELDS):
        if EMPTY_BLOCK.search(shown.literals):
            raise ContentNotCovered(
                "the template prints an empty block in the place of this turn's reasoning, which would teach the model"
                " not to think; remove the reasoning, or leave the message untrained",
                message_index=index,
                field=given,
            )
        return [f"messages[{index}].{given}: the template leaves the reasoning of this turn out"]
    lost = shown.lost(text, *REASONING_FIELDS) if isinstance(text, str) else Lost.NOTHING
    if lost is Lost.REPEATED:
        return [f"messages[{index}].{given}: {_TEXTS[lost]}"]
    if lost is not Lost.NOTHING:
        return [f"messages[{index}].{given}: the template leaves out or changes a part of this reasoning"]
    return []


class UntrainedMessages:
    """Looks for what untrained messages say that renders do not show; what is printed of a message is compared once."""

    def __init__(self) -> None:
        """Begin with nothing compared."""
        #: message index -> its text and runs in the last render, and the warnings about them
        self._known: dict[int, tuple[str, Sequence[tuple[int, Origin | None]], list[str]]] = {}

    def warnings(self, messages: Sequence[Message], rendered: RenderedText, trained: Collection[int]) -> list[str]:
        """Warn of what messages say that the render does not show, where they are not trained.

        Args:
            messages: the first messages of one conversation, the same in every call.
            rendered: their text.
            trained: indices of those that are looked at elsewhere.
        """
        text = TextMap(rendered)
        found: list[str] = []
        for index, message in enumerate(messages):
            if index in trained or index not in text.runs_of:
                continue  # a message of which nothing is printed has its own warning
            content = message.get("content")
            own = text.runs_of[index]
            if not message.get("tool_calls") and isinstance(content, str) and len(own) == 1:
                origin = rendered.runs[own[0]][1]
                if text.literal(own[0]) == content and origin is not None and origin.field == "content":
                    continue
            stop = max(own[-1] + 1, next_foreign(text, own[0], index))
            printed = rendered.text[text.starts[own[0]] : text.starts[stop]]
            runs = rendered.runs[own[0] : stop]
            known = self._known.get(index)
            if known is None or known[0] != printed or known[1] != runs:
                known = self._known[index] = printed, runs, lost_warnings(message, index, printed, runs)
            found += known[2]
        return found


def lost_warnings(message: Message, index: int, printed: str, runs: Sequence[tuple[int, Origin | None]]) -> list[str]:
    """Warn of what a message says that is not printed.

    Args:
        message: untrained.
        index: its own.
        printed: the text from its first character on.
        runs: of that text.
    """
    own = RenderedText(printed, runs)
    pieces = [
        piece
        for piece in pieces_between(TextMap(own), 0, len(printed))
        if piece[2] is None or piece[2].message_index == index
    ]
    shown = Shown(pieces, printed)
    is_reply = message.get("role") == "assistant"
    warnings = [
        f"messages[{index}].content{path}: {_TEXTS[lost]}"
        for path, lost in _lost_content(message.get("content"), shown, history=is_reply)
        if lost is not Lost.ESCAPED  # as templates write results of tools
    ]
    calls = message.get("tool_calls")
    if isinstance(calls, (list, tuple)) and calls:
        warnings += [
            f"messages[{index}].{path}: the template leaves this out of the prompt"
            for path, _, _ in lost_calls(calls, shown.of("tool_calls"), shown.text)
        ]
    return warnings


#: Keys that messages have; others are somebody's own, or another tool's.
KEYS: Final = frozenset({"role", "content", "tool_calls", "tool_call_id", "name", *REASONING_FIELDS})


def unread_warnings(
    messages: Sequence[Message], tools: Sequence[JSON] | None, rendered: RenderedText, names: Collection[str]
) -> list[str]:
    """Warn of keys that the template neither names nor prints, and of tools of which it prints nothing."""
    others = dict.fromkeys(
        key for message in messages for key, value in message.items() if key not in KEYS and value not in (None, "")
    )
    if not (others or tools):
        return []
    printed = {origin.field for _, origin in rendered.runs if origin is not None}
    warnings = [
        f"the key {key} of messages is passed over: the template reads no such key"
        for key in others
        if key not in names and key not in printed
    ]
    if tools and not any(origin.message_index in (TOOLS, UNKNOWN) for _, origin in rendered.runs if origin is not None):
        warnings.append("tools: the template prints nothing of them")
    return warnings
