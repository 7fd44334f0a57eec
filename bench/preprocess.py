"""messages -> ids and weights: Turnloom beside its peers, in interleaved rounds of one process.

    taskset -c 0 python -m bench.preprocess [--conversations 2000] [--rounds 5]

Needs the Qwen3 vocabulary and templates (TURNLOOM_TOKENIZERS, TURNLOOM_TEMPLATES). A peer that is not installed is left
out and named. bench/README.md says how to read the table.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from bench.program import PEERS, libraries, usage

PROGRAM: Final = usage("bench.preprocess", __doc__)
PROGRAM.add_argument("--conversations", type=int, default=2000)
PROGRAM.add_argument("--rounds", type=int, default=5)

with libraries(PEERS, __name__, PROGRAM):
    import transformers

    from bench import material
    from bench.chats import chats
    from turnloom.masks.domain.conversation import Conversation, Message
    from turnloom.masks.domain.example import PreprocessedConversation
    from turnloom.masks.domain.options import Options, TrainOn
    from turnloom.masks.model import Model, build_model
    from turnloom.masks.pipeline import preprocess_batch

BATCH = 500


@dataclass(slots=True)
class Contender:
    """One way from messages to ids and weights."""

    name: str
    work: Callable[[Sequence[Conversation]], int]  #: returns how many tokens carry weight
    cpu: list[float] = field(default_factory=list)  #: seconds per round
    wall: list[float] = field(default_factory=list)
    trained: int = 0


def turnloom(model: Model, options: Options) -> Callable[[Sequence[Conversation]], int]:
    def work(conversations: Sequence[Conversation]) -> int:
        trained = 0
        for first in range(0, len(conversations), BATCH):
            for outcome in preprocess_batch(conversations[first : first + BATCH], options, model):
                assert isinstance(outcome, PreprocessedConversation), outcome
                for example in outcome.examples:
                    trained += sum(length for length, weight in example.weight_runs if weight)
        return trained

    return work


def _texts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return cast("list[dict[str, str]]", list(messages))


def transformers_mask(
    tokenizer: transformers.PreTrainedTokenizerFast, template: str
) -> Callable[[Sequence[Conversation]], int]:
    def work(conversations: Sequence[Conversation]) -> int:
        trained = 0
        for first in range(0, len(conversations), BATCH):
            encoded = tokenizer.apply_chat_template(
                [_texts(conversation.messages) for conversation in conversations[first : first + BATCH]],
                chat_template=template,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            masks = cast("dict[str, list[list[int]]]", encoded)["assistant_masks"]
            trained += sum(sum(mask) for mask in masks)
        return trained

    return work


def prefix_loop(
    tokenizer: transformers.PreTrainedTokenizerFast, template: str
) -> Callable[[Sequence[Conversation]], int]:
    """Tokenize every prefix and call what is new an assistant's: the loop of many examples, our own writing of it."""

    def ids(messages: Sequence[Message], prompt: bool) -> list[int]:
        encoded = tokenizer.apply_chat_template(
            _texts(messages), chat_template=template, add_generation_prompt=prompt, return_dict=False
        )
        return list(encoded)

    def work(conversations: Sequence[Conversation]) -> int:
        trained = 0
        for conversation in conversations:
            messages = list(conversation.messages)
            for index, message in enumerate(messages):
                if message["role"] == "assistant":
                    trained += len(ids(messages[: index + 1], False)) - len(ids(messages[:index], True))
            ids(messages, False)
        return trained

    return work


def contenders() -> list[Contender]:
    stock, marked = material.template(), material.template(material.MARKED)
    model = build_model("qwen3", material.tokenizer_json(), stock, material.SPECIAL)
    marked_model = build_model("qwen3", material.tokenizer_json(), marked, material.SPECIAL)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(material.QWEN3)
    date = "2026-01-01"
    last = Options(max_length=None, date=date, train_on=TrainOn.LAST_ASSISTANT_MESSAGE)
    found = [
        Contender("transformers, assistant mask, batched (marked template)", transformers_mask(tokenizer, marked)),
        Contender(
            f"turnloom, stock template, {model.encoder_name}", turnloom(model, Options(max_length=None, date=date))
        ),
        Contender("turnloom, stock template, last message only", turnloom(model, last)),
        Contender(
            "turnloom, marked template, the same work", turnloom(marked_model, Options(max_length=None, date=date))
        ),
        Contender("every prefix tokenized (stock template)", prefix_loop(tokenizer, stock)),
    ]
    if importlib.util.find_spec("trl") is None:
        sys.stderr.write("trl is not installed (bench/requirements-peers.txt); its row is left out\n")
        return found
    peer = importlib.import_module("bench.peer_trl")
    name = f"TRL {importlib.metadata.version('trl')} _prepare_dataset (marked template)"
    return [
        *found,
        Contender(name, peer.prepare(transformers.PreTrainedTokenizerFast.from_pretrained(material.QWEN3), marked)),
    ]


def measure(found: Sequence[Contender], conversations: Sequence[Conversation], rounds: int) -> None:
    for contender in found:  # caches, compiled templates and traces are warm, for all alike
        contender.work(conversations[:BATCH])
    for _ in range(rounds):
        for contender in found:
            cpu, wall = time.process_time(), time.perf_counter()
            contender.trained = contender.work(conversations)
            contender.cpu.append(time.process_time() - cpu)
            contender.wall.append(time.perf_counter() - wall)


def main() -> int:
    asked = PROGRAM.parse_args()
    material.need()
    conversations = chats(asked.conversations)
    found = contenders()
    measure(found, conversations, asked.rounds)
    peer = found[0]
    cores = sorted(os.sched_getaffinity(0))
    print(f"{asked.conversations} chats, medians of {asked.rounds} interleaved rounds, cores {cores}")
    print(f"{'who':<58} {'conv/s':>8} {'CPU us/conv':>12} {'x peer':>7} {'trained':>9}")
    for contender in found:
        cpu = statistics.median(contender.cpu) / len(conversations)
        ratio = statistics.median(theirs / ours for theirs, ours in zip(peer.cpu, contender.cpu, strict=True))
        rate = len(conversations) / statistics.median(contender.wall)
        print(f"{contender.name:<58} {rate:>8.0f} {cpu * 1e6:>12.0f} {ratio:>7.2f} {contender.trained:>9}")
    print(f"peak memory of the whole process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
