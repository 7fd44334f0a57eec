"""Synthetic agent trajectories: tools, parallel calls, results, reasoning in half of them. Knows no tokenizer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Final, cast

from bench.chats import WORDS
from turnloom.masks.domain.conversation import JSON, Conversation, Message

_NAMES: Final = ("read_file", "search_code", "run_tests", "edit_file", "list_folder", "http_get", "query_database")


def trajectories(count: int, seed: int = 0, *, least: int = 6, most: int = 60) -> list[Conversation]:
    """Return conversations of `least` to `most` messages; the same for the same seed, no two of one shape as a rule."""
    chance = random.Random(seed)
    return [_trajectory(chance, chance.randint(least, most)) for _ in range(count)]


def with_one_call(conversation: Conversation, *, text_beside: bool = False) -> Conversation:
    """Leave out all but one call a reply, for templates that print no more.

    Args:
        conversation: a trajectory.
        text_beside: keep the text beside a call that has no reasoning.
    """
    kept: list[dict[str, Any]] = []
    for message in cast("Sequence[dict[str, Any]]", conversation.messages):
        if message.get("tool_calls"):
            kept.append({**message, "tool_calls": message["tool_calls"][:1]})
            if not text_beside or "reasoning_content" in message:
                kept[-1]["content"] = ""
        elif message["role"] != "tool" or kept[-1]["role"] != "tool":
            kept.append(dict(message))
    return Conversation(kept, tools=conversation.tools)


def _trajectory(chance: random.Random, length: int) -> Conversation:
    names = chance.sample(_NAMES, chance.randint(2, 5))
    tools: list[JSON] = [_tool(chance, name) for name in names]
    reasoned = chance.random() < 0.5
    messages: list[Message] = []
    if chance.random() < 0.7:
        messages.append({"role": "system", "content": _text(chance, 10, 60)})
    messages.append({"role": "user", "content": _text(chance, 10, 60)})
    while len(messages) < length - 1:
        if chance.random() < 0.15:
            messages += [_reply(chance, reasoned), {"role": "user", "content": _text(chance, 5, 40)}]
            continue
        called = [chance.choice(names) for _ in range(chance.choice((1, 1, 1, 2, 3)))]
        ids = [f"call{chance.randrange(10**5):05}" for _ in called]
        step = _reply(chance, reasoned, chance.choice(("", _text(chance, 3, 20))))
        messages.append({**step, "tool_calls": [_call(chance, *one) for one in zip(called, ids, strict=True)]})
        messages += [
            {"role": "tool", "name": name, "tool_call_id": id_, "content": _result(chance)}
            for name, id_ in zip(called, ids, strict=True)
        ]
    messages.append(_reply(chance, reasoned))
    return Conversation(messages, tools=tools)


def _reply(chance: random.Random, reasoned: bool, content: str | None = None) -> Message:
    message: Message = {"role": "assistant", "content": _text(chance, 20, 120) if content is None else content}
    if reasoned:
        message["reasoning_content"] = _text(chance, 15, 80)
    return message


def _call(chance: random.Random, name: str, id_: str) -> JSON:
    arguments: dict[str, JSON] = {"path": "/".join(chance.sample(WORDS, 3))}
    if chance.random() < 0.5:
        arguments["limit"] = chance.randint(1, 500)
    if chance.random() < 0.3:
        arguments["options"] = {"recursive": chance.random() < 0.5, "names": chance.sample(WORDS, 2)}
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(chance: random.Random) -> str:
    if chance.random() < 0.5:
        return json.dumps({"status": "ok", "lines": chance.randint(1, 900), "text": _text(chance, 10, 100)})
    return _text(chance, 10, 150)


def _tool(chance: random.Random, name: str) -> JSON:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": _text(chance, 5, 25),
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string", "description": _text(chance, 3, 10)},
                    "limit": {"type": "integer", "description": "Most items"},
                },
                "required": ["path"],
            },
        },
    }


def _text(chance: random.Random, least: int, most: int) -> str:
    words = chance.choices(WORDS, k=chance.randint(least, most))
    for place in range(12, len(words), 13):
        words[place] += chance.choice((".", ",", ".\n\n", ":\n- ", "!", "?"))
    return " ".join(words)
