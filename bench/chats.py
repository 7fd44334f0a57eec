"""Synthetic chats as long as those of HuggingFaceH4/no_robots (2.8 messages, 1.6 kB each). Knows no tokenizer."""

from __future__ import annotations

import random

from turnloom.masks.domain.conversation import Conversation, Message

TEXT = """
the of and to in a is that for it as was with be by on not he this are or his from at which but have an had
they you were their one all we can her has there been if more when will would who so no out up said what its
about than into them only some could time these two may then do first any my now such like our over man me
even most made after also did many before must through back years where much your way well down should because
each just those people how too little state good very make world still own see men work long get here between
both life being under never day same another know while last might us great old year off come since against go
came right used take three states himself few house use during without again place around however home small
found thought went say part once general high upon school every don't it's we're can't I'm O'Neil's e.g. i.e.
U.S. 3.14 1,000 2024-05-01 42nd 7% $12.50 C++ café naïve résumé Zürich São 東京 Привет λ → … — “quoted”
(parenthesis) [bracket] `code` **bold** https://example.org/a?b=1
"""
WORDS = TEXT.split()


def chats(count: int, seed: int = 0) -> list[Conversation]:
    """Return chats of one to three turns, a third of them with a system prompt; the same for the same seed."""
    chance = random.Random(seed)
    return [_chat(chance) for _ in range(count)]


def _chat(chance: random.Random) -> Conversation:
    messages: list[Message] = []
    if chance.random() < 0.35:
        messages.append({"role": "system", "content": _text(chance, 5, 30)})
    for _ in range(chance.choice((1, 1, 1, 1, 2))):
        messages.append({"role": "user", "content": _text(chance, 10, 120)})
        messages.append({"role": "assistant", "content": _text(chance, 30, 330)})
    return Conversation(messages)


def unique_chats(count: int, seed: int) -> list[Conversation]:
    """Return chats of one turn whose every word is new, so that no cache of an encoder can know it."""
    chance = random.Random(seed)
    return [
        Conversation(
            [
                {"role": "user", "content": _made_up(chance, chance.randint(10, 80))},
                {"role": "assistant", "content": _made_up(chance, chance.randint(30, 200))},
            ]
        )
        for _ in range(count)
    ]


def _made_up(chance: random.Random, words: int) -> str:
    return " ".join(
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(3, 10))) for _ in range(words)
    )


def _text(chance: random.Random, least: int, most: int) -> str:
    words = chance.choices(WORDS, k=chance.randint(least, most))
    for place in range(12, len(words), 13):
        words[place] += chance.choice((".", ",", ".\n\n", ":\n- ", "!", "?"))
    return " ".join(words)
