"""Conversations written for this project: an attic full of things, and three odd guides to it.

Every reply follows from its prompt: the system prompt names the speaker, and the question a thing and a property.
A follow-up ("And the kite?") repeats the question of the turn before. So a model that learned only the style of
replies stays clearly worse than one that reads the prompt: shuffled_replies() shows it.

python -m turnloom.embedded.sample_data FOLDER    writes conversations.jsonl and conversations.test.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

TRAIN = 340  #: conversations
TEST = 60  #: conversations, none of which occurs in the train split as a whole


class SampleMessage(TypedDict):
    """One message in the form that OpenAI's API takes."""

    role: str
    content: str


class SampleConversation(TypedDict):
    """One line of a JSONL file."""

    messages: list[SampleMessage]


@dataclass(frozen=True, slots=True)
class Guide:
    """A persona that knows the attic."""

    system: str
    answer: str  #: holds {fact}
    farewell: str


GUIDES = (
    Guide("You are an old sailor who guards an attic.", "Aye, {fact}, matey!", "Fair winds to you, friend."),
    Guide("You are a polite robot in an attic.", "Beep. I report: {fact}.", "Beep. Please mind the step."),
    Guide("You are a proud cat who owns an attic.", "Meow. Naturally {fact}.", "You may scratch my ears now."),
)

THINGS = {  # thing: colour, size, place
    "kite": ("red", "as wide as a door", "behind the chimney"),
    "drum": ("blue", "as round as the moon", "under the stairs"),
    "lantern": ("golden", "as small as a plum", "at the window"),
    "teapot": ("green", "as big as a pumpkin", "on the top shelf"),
    "clock": ("silver", "as tall as a giraffe", "behind the chimney"),
    "trunk": ("brown", "as big as a pumpkin", "under the stairs"),
    "globe": ("blue", "as round as the moon", "on the top shelf"),
    "violin": ("golden", "as light as a feather", "at the window"),
    "umbrella": ("green", "as wide as a door", "under the stairs"),
    "mirror": ("silver", "as tall as a giraffe", "at the window"),
    "slipper": ("red", "as small as a plum", "behind the chimney"),
    "map": ("brown", "as light as a feather", "on the top shelf"),
}

FACTS = ("the {thing} is {value}", "the {thing} is {value}", "you find the {thing} {value}")  # colour, size, place
QUESTIONS = (
    ("What colour is the {thing}?", "Tell me the colour of the {thing}."),
    ("How big is the {thing}?", "Tell me the size of the {thing}."),
    ("Where is the {thing}?", "Tell me where you keep the {thing}."),
)
FOLLOW_UP = "And the {thing}?"
THANKS = "Thank you!"


def train_conversations() -> list[SampleConversation]:
    """Return the training conversations."""
    return _conversations()[:TRAIN]


def held_out_conversations() -> list[SampleConversation]:
    """Return the held-out conversations."""
    return _conversations()[TRAIN:]


def shuffled_replies(conversations: Sequence[SampleConversation]) -> list[SampleConversation]:
    """Swap every assistant message for one from another place in these conversations.

    The set of replies stays the same, so their style costs nothing; only their fit to the prompts is gone.
    Deterministic; works for any conversations.
    """
    replies = [m for c in conversations for m in c["messages"] if m["role"] == "assistant"]  # calls of tools included
    order = sorted(range(len(replies)), key=lambda index: _number("shuffle", index))
    successor = {index: order[(place + 1) % len(order)] for place, index in enumerate(order)}
    shuffled: list[SampleConversation] = []
    place = 0
    for conversation in conversations:
        messages: list[SampleMessage] = []
        for message in conversation["messages"]:
            if message["role"] == "assistant":
                messages.append(replies[successor[place]])
                place += 1
            else:
                messages.append(message)
        shuffled.append({**conversation, "messages": messages})
    return shuffled


def write_jsonl(path: Path, conversations: Iterable[SampleConversation]) -> None:
    """Write one conversation per line, UTF-8."""
    lines = (json.dumps(conversation, ensure_ascii=False) + "\n" for conversation in conversations)
    path.write_text("".join(lines), encoding="utf-8")


def _conversations() -> list[SampleConversation]:
    """Return train and test conversations, all different from each other."""
    unique: dict[str, SampleConversation] = {}
    number = 0
    while len(unique) < TRAIN + TEST:
        conversation = _conversation(number)
        unique.setdefault(json.dumps(conversation), conversation)
        number += 1
    return list(unique.values())


def _conversation(number: int) -> SampleConversation:
    """Build the conversation with that number: one to three turns about one property of the things."""
    guide = GUIDES[_number("guide", number) % len(GUIDES)]
    asked = _number("property", number) % len(FACTS)
    turns = 1 + _number("turns", number) % 3
    messages: list[SampleMessage] = [{"role": "system", "content": guide.system}]
    for turn in range(turns):
        thing = list(THINGS)[_number("thing", number, turn) % len(THINGS)]
        wording = QUESTIONS[asked][_number("wording", number, turn) % 2] if turn == 0 else FOLLOW_UP
        if turn == 2:
            messages += _exchange(THANKS, guide.farewell)
        else:
            fact = FACTS[asked].format(thing=thing, value=THINGS[thing][asked])
            messages += _exchange(wording.format(thing=thing), guide.answer.format(fact=fact))
    return {"messages": messages}


def _exchange(question: str, answer: str) -> list[SampleMessage]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _number(*words: str | int) -> int:
    """Return a pseudo-random number that is the same in every Python release."""
    return int.from_bytes(hashlib.sha256(":".join(map(str, words)).encode()).digest()[:8])


def main(folder: Path) -> None:
    """Write both files."""
    write_jsonl(folder / "conversations.jsonl", train_conversations())
    write_jsonl(folder / "conversations.test.jsonl", held_out_conversations())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m turnloom.embedded.sample_data",
        description="Write the sample conversations: conversations.jsonl and conversations.test.jsonl.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write to, which is there")
    main(parser.parse_args().folder)
