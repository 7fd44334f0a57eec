"""Chats whose lengths are those of no_robots: log-normal, mean 384 tokens, 5 % above 1,000. Knows no tokenizer."""

from __future__ import annotations

import math
import random
from typing import Final, TypedDict

from bench.chats import WORDS

#: Of a log-normal with mean 384 and 95th percentile 1,000: exp(mu + sigma^2 / 2) = 384, exp(mu + 1.645 sigma) = 1000.
SIGMA: Final = 0.755
MU: Final = math.log(384) - SIGMA**2 / 2
MOST: Final = 2_000  #: tokens; so that no chat is cut at a max_length of 2,048
TOKENS_PER_WORD: Final = 1.31  #: of WORDS with the Qwen3 vocabulary
TOKENS_PER_MESSAGE: Final = 5  #: markers and role


class Message(TypedDict):
    """One message."""

    role: str
    content: str


class Chat(TypedDict):
    """One conversation, as a JSONL file holds it."""

    messages: list[Message]


def chats(count: int, seed: int = 0, scale: float = 1.0) -> list[Chat]:
    """Chats of one or two turns, a third of them with a system prompt; the same for the same seed.

    Args:
        count: how many.
        seed: of the random numbers.
        scale: factor on all lengths.
    """
    chance = random.Random(seed)
    return [_chat(chance, scale) for _ in range(count)]


def _chat(chance: random.Random, scale: float) -> Chat:
    tokens = scale * min(chance.lognormvariate(MU, SIGMA), MOST)
    roles = ["system"] if chance.random() < 0.35 else []
    roles += ["user", "assistant"] * chance.choice((1, 1, 1, 1, 2))
    words = max(4 * len(roles), round((tokens - TOKENS_PER_MESSAGE * len(roles)) / TOKENS_PER_WORD))
    shares = [{"system": 0.1, "user": 0.3, "assistant": 0.7}[role] for role in roles]
    return {
        "messages": [
            {"role": role, "content": _text(chance, max(2, round(words * share / sum(shares))))}
            for role, share in zip(roles, shares, strict=True)
        ]
    }


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words))
