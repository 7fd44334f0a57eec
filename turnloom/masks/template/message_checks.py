"""Check a conversation before it is rendered, and its text afterwards."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Final

from turnloom.masks.domain.conversation import JSON, PART_ADVICE, Message
from turnloom.masks.domain.errors import EmptyConversation, UnknownRole, UnsupportedContent
from turnloom.masks.domain.rendered_text import RenderedText

#: Roles are printed into headers as literals, so they are words and can spell no control token.
_ROLE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_ -]{0,63}")
#: Roles that templates know. The text of one may be left out with no more than a warning: so it is at inference.
KNOWN_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function", "ipython", "model"})
#: What other data formats call the roles.
_OTHER_NAMES: Final = {
    **dict.fromkeys(("human", "prompter", "customer"), "user"),
    **dict.fromkeys(("ai", "bot", "gpt", "chatbot", "chatgpt"), "assistant"),
    **dict.fromkeys(("observation", "function_response", "tool_response", "tool_result"), "tool"),
}
#: Keys under which other tools keep what `content` holds: a refusal of OpenAI's, parts of Gemini's, ...
_OTHER_CONTENT: Final = ("text", "value", "message", "response", "refusal", "parts", "output")
#: Of these, keys that templates know of a part, so that their names tell nothing of a message.
_OF_PARTS: Final = ("text", "value")
_CALLS: Final = ("tool_calls", "function_call")
_TEXT: Final = "text"
_PART_TYPES: Final = frozenset({_TEXT, "thinking"})


def check_messages(messages: Sequence[Message], named: Collection[str]) -> None:
    """Refuse what no template can render rightly, and roles that this one prints without knowing them.

    Args:
        messages: as sent.
        named: words that the template spells; a role of its own is among them.

    Raises:
        EmptyConversation, UnknownRole, UnsupportedContent: naming the message.
    """
    if not messages:
        raise EmptyConversation("the conversation has no messages")
    check_roles(messages, named)
    for index, message in enumerate(messages):
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            _check_parts(content, index)


def check_content(messages: Sequence[Message], known: Collection[str]) -> None:
    """Refuse a message that says under another key what its content does not: an empty reply would be trained.

    Args:
        messages: as sent.
        known: names that the template reads; a key among them is left to it, unless parts of content have it.

    Raises:
        UnsupportedContent: naming the message and the key.
    """
    for index, message in enumerate(messages):
        content = message.get("content")
        if len(message) < 2 or (content and (isinstance(content, str) or not _is_blank(content))):
            continue
        if any(message.get(key) for key in _CALLS):
            continue
        for key in _OTHER_CONTENT:
            if message.get(key) and (key not in known or key in _OF_PARTS):
                raise UnsupportedContent(
                    "stands beside an empty content, and the template does not read it; rename it to content",
                    message_index=index,
                    field=key,
                )


def _is_blank(content: JSON) -> bool:
    """Whether a content is parts of which none has a text."""
    if not isinstance(content, (list, tuple)):
        return False
    return all(isinstance(part, Mapping) and part.get("type") == "text" and not part.get("text") for part in content)


def check_roles(messages: Sequence[Message], named: Collection[str]) -> None:
    """Refuse a role that neither all templates nor this one know, such as a mistyped one; arguments as above.

    Raises:
        UnknownRole: naming the message, and the role that may be meant.
    """
    for index, message in enumerate(messages):
        role = message.get("role")
        if role in KNOWN_ROLES:
            continue
        if not isinstance(role, str) or _ROLE.fullmatch(role) is None:
            raise UnknownRole(
                f"{role!r} is no role; a role is a word: {_advice(role)}", message_index=index, field="role"
            )
        if role not in named or role.lower() in KNOWN_ROLES:
            raise UnknownRole(
                f"{role!r} is no role that this chat template knows; {_advice(role)}", message_index=index, field="role"
            )


def _advice(role: JSON) -> str:
    known = "use system, developer, user, assistant or tool"
    if not isinstance(role, str):
        return known
    spelled = role.strip(" :<|>").lower()
    close = get_close_matches(spelled, sorted(KNOWN_ROLES | _OTHER_NAMES.keys()), n=1, cutoff=0.7)
    meant = [_OTHER_NAMES.get(one, one) for one in close]
    return f"write {meant[0]!r} if that is meant, or {known}" if meant else known


def _check_parts(content: JSON, index: int) -> None:
    if not isinstance(content, (list, tuple)):
        what = "an object" if isinstance(content, Mapping) else "neither text nor a list"
        raise UnsupportedContent(
            f"is {what}; give text, null, or a list of parts of type text",
            message_index=index,
            field="content",
        )
    for at, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if not isinstance(kind, str) or kind not in _PART_TYPES:
            advice = PART_ADVICE.get(kind, "only text can be trained on") if isinstance(kind, str) else "give it a type"
            raise UnsupportedContent(f"part {at} is of type {kind!r}; {advice}", message_index=index, field="content")
        if kind == _TEXT and (wrong := _wrong_with_text(part)):
            raise UnsupportedContent(f"part {at} {wrong}", message_index=index, field="content")


def _wrong_with_text(part: Mapping[str, JSON]) -> str:
    """Return what is wrong with a part of type text: a template would print "None", or a key that is no one's text."""
    if not isinstance(part.get(_TEXT), str):
        return "has no text; give it text, or leave it out"
    others = [key for key, value in part.items() if key not in ("type", _TEXT) and value is not None]
    return f"has the unknown key {others[0]!r}; remove it: templates read type and text" if others else ""


def check_no_repr(messages: Sequence[Message], rendered: RenderedText) -> None:
    """Refuse text in which the template printed a list of content parts as Python writes it.

    Raises:
        UnsupportedContent: naming the message.
    """
    reprs = {
        index: repr(list(content))[:16]
        for index, message in enumerate(messages)
        if isinstance(content := message.get("content"), (list, tuple)) and content
    }
    if not reprs:
        return
    position = 0
    for length, origin in rendered.runs:
        own = reprs if origin is None else {index: reprs[index] for index in (origin.message_index,) if index in reprs}
        for index, start in own.items():  # a filter such as trim prints a list, too, and hides where it came from
            if start in rendered.text[position : position + length]:
                raise UnsupportedContent(
                    "the template prints the list of content parts as Python code; send this content as one string",
                    message_index=index,
                    field="content",
                )
        position += length
