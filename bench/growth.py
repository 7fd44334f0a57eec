"""What longer conversations and longer messages cost: linear in messages, in emitted tokens and in bytes.

    taskset -c 0 python -m bench.growth [--rounds 7]

Medians of CPU time, the sizes of a row interleaved. `x first` is the cost of one unit beside that of the first size.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.program import MASKS, libraries, usage

PROGRAM: Final = usage("bench.growth", __doc__)
PROGRAM.add_argument("--rounds", type=int, default=7)

with libraries(MASKS, __name__, PROGRAM):
    from bench import material
    from bench.chats import chats
    from bench.trajectories import trajectories
    from turnloom.masks.domain.conversation import Conversation, Message
    from turnloom.masks.domain.options import OnUnextendable, Options
    from turnloom.masks.model import Model, build_model
    from turnloom.masks.pipeline import preprocess


@dataclass(frozen=True, slots=True)
class Growth:
    """One row of the table: conversations in several sizes."""

    name: str
    unit: str
    sizes: Sequence[int]  #: ascending
    make: Callable[[int, int], Conversation]  #: of a size and a seed
    options: Options
    #: units of work in a size; by default the size itself
    units: Callable[[int], int] = int


def turns(count: int, seed: int) -> Conversation:
    """A conversation of `count` messages, as long as those of chats."""
    found: list[Message] = []
    for one in chats(count, seed):
        found += [message for message in one.messages if message["role"] != "system"][:2]
    return Conversation(found[:count])


def agent(count: int, seed: int) -> Conversation:
    """A trajectory of about `count` messages with tools, parallel calls and results."""
    return trajectories(1, seed, least=count, most=count)[0]


def long_reply(size: int, seed: int) -> Conversation:
    """Two messages, the second of `size` kB."""
    words = " ".join(str(message["content"]) for one in chats(size + 20, seed) for message in one.messages)
    return Conversation([{"role": "user", "content": "Go on."}, {"role": "assistant", "content": words[: size * 1000]}])


def rows() -> list[Growth]:
    whole = Options(max_length=None, date="2026-01-01", on_unextendable=OnUnextendable.AS_RENDERED)
    split = Options(max_length=None, date="2026-01-01", max_examples_per_conversation=1000)
    return [
        Growth("as_rendered", "message", (10, 100, 1000), turns, whole),
        Growth("split", "message emitted", (10, 40, 160), turns, split, lambda size: size * (size + 2) // 4),
        Growth("with tools", "message", (10, 100, 1000), agent, whole),
        Growth("one long reply", "kB", (10, 100, 1000), long_reply, whole),
    ]


def measure(row: Growth, model: Model, rounds: int) -> list[tuple[int, float]]:
    """Size and CPU seconds per unit; every size has other text, as much as the largest."""
    made = {size: [row.make(size, seed) for seed in range(row.sizes[-1] // size)] for size in row.sizes}
    spent: dict[int, list[float]] = {size: [] for size in row.sizes}
    for conversation in [
        one for some in made.values() for one in some[:10] * 4
    ]:  # learn what can be learned of a shape
        preprocess(conversation, row.options, model)
    for _ in range(rounds):
        for size, conversations in made.items():
            before = time.process_time()
            for conversation in conversations:
                preprocess(conversation, row.options, model)
            spent[size].append((time.process_time() - before) / len(conversations) / row.units(size))
    return [(size, statistics.median(seconds)) for size, seconds in spent.items()]


def main() -> int:
    asked = PROGRAM.parse_args()
    material.need()
    model = build_model("qwen3", material.tokenizer_json(), material.template(), material.SPECIAL)
    for row in rows():
        found = measure(row, model, asked.rounds)
        for size, seconds in found:
            ratio = seconds / found[0][1]
            print(
                f"{row.name:<16} size {size:>5}: {seconds * 1e6:>8.1f} CPU us per {row.unit:<16} {ratio:>6.2f} x first"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
