"""Put random small templates through a comparison of a warm model with one that has seen nothing, and report it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from turnloom.masks.domain.conversation import Conversation


class Difference(NamedTuple):
    """A conversation that a warm model answers otherwise."""

    source: str
    conversation: Conversation
    warm: object
    fresh: object


class Seen(NamedTuple):
    """What one template was put through."""

    source: str
    conversations: int
    hits: int  #: of them, answered by what the warm model had learned
    differences: Sequence[Difference]


def runs(put_through: Callable[[Random], Seen], conversations: int, seed: int) -> Iterator[Seen]:
    """Templates until so many conversations were seen."""
    chance, seen = Random(seed), 0
    while seen < conversations:
        one = put_through(chance)
        seen += one.conversations
        yield one


def main(put_through: Callable[[Random], Seen], about: str, hit: str) -> int:
    """Print how many conversations were answered, how many of them by a `hit`, and a difference of each template."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    templates = conversations = hits = differences = 0
    for seen in runs(put_through, asked.conversations, asked.seed):
        templates, conversations, hits = templates + 1, conversations + seen.conversations, hits + seen.hits
        differences += len(seen.differences)
        for difference in seen.differences[:1]:
            sys.stdout.write(f"{difference}\n")
    line = f"{templates} templates, {conversations} conversations, {hits} by a {hit}, {differences} differences"
    sys.stdout.write(f"{line}\n")
    return bool(differences)
