"""Agent trajectories at first sight: Turnloom beside transformers, in interleaved rounds of one process, CPU time.

    taskset -c 0 python -m bench.agents [--conversations 40] [--rounds 3] [--only TEMPLATE]

Every round has new conversations of 6 to 60 messages with tools, parallel calls and reasoning in half of them. The peer
renders and tokenizes the whole conversation once with `return_assistant_tokens_mask`; a template without generation
blocks has its mask empty, which costs it less than a marked one would. Where a template forgets reasoning, Turnloom
makes several examples of a conversation. "x same" is the peer's time for the texts of these, one render each. Needs
what bench.preprocess needs.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from bench.program import PEERS, libraries, usage

#: The models people train agents with, by their templates; Qwen3's vocabulary stands in for all of theirs.
TEMPLATES: Final = {
    "Qwen3": "llamacpp__Qwen-Qwen3-0.6B.jinja",
    "Qwen3, marked": "trl__qwen3_training.jinja",
    "Qwen3-Coder": "llamacpp__Qwen3-Coder.jinja",
    "Llama 3.1": "trl__llama3_1.jinja",
    "GLM-4.6": "llamacpp__GLM-4.6.jinja",
    "gpt-oss": "trl__gptoss.jinja",
    "Nemotron 3": "trl__nemotron_3_super.jinja",
    "GLM-5.1": "hfjs__zai-org_GLM-5.1.jinja",
    "DeepSeek-V4": "llamacpp__deepseek-ai-DeepSeek-V4.jinja",
    "Devstral": "llamacpp__unsloth-mistral-Devstral-Small-2507.jinja",
    "Gemma 4": "llamacpp__google-gemma-4-31B-it.jinja",
    "Mistral 13": "mistralcommon__v13.jinja",
    "Mistral Small": "llamacpp__Mistral-Small-3.2-24B-Instruct-2506.jinja",
    "LFM2.5": "hfjs__LiquidAI_LFM2.5-VL-450M.jinja",
    "EXAONE 4": "axolotl__exaone4.jinja",
    "Reka Edge": "llamacpp__Reka-Edge.jinja",
}

PROGRAM: Final = usage("bench.agents", __doc__)
PROGRAM.add_argument("--conversations", type=int, default=40)
PROGRAM.add_argument("--rounds", type=int, default=3)
PROGRAM.add_argument("--only", choices=TEMPLATES, help="one template")

with libraries(PEERS, __name__, PROGRAM):
    import tokenizers
    import transformers

    from bench import material
    from bench.trajectories import trajectories, with_one_call
    from turnloom.masks.domain.conversation import Conversation
    from turnloom.masks.domain.example import PreprocessedConversation
    from turnloom.masks.domain.options import Options
    from turnloom.masks.model import Model, build_model
    from turnloom.masks.pipeline import Fits, fitted_batch, preprocess_batch

#: How these templates spell the control tokens that Qwen3's vocabulary lacks.
_TOKEN: Final = re.compile(r"<\|[a-z_]+\|>|</?[a-z_]+>")
BATCH: Final = 64
OPTIONS: Final = Options(max_length=None, date="2026-01-01")


@dataclass(slots=True)
class Times:
    """CPU microseconds a message, one per round."""

    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    same: list[float] = field(default_factory=list)  #: the peer's, for the texts that ours are of
    examples: list[float] = field(default_factory=list)  #: of a conversation, on average
    first_ms: float = 0.0  #: CPU time of the very first conversation: compiling and proving included
    refused: int = 0
    refused_by_peer: int = 0


def vocabulary(template: str) -> str:
    """Qwen3's tokenizer.json with the control tokens that a template spells."""
    tokenizer = json.loads(material.tokenizer_json())
    known = {token["content"] for token in tokenizer["added_tokens"]}
    first = 1 + max(token["id"] for token in tokenizer["added_tokens"])
    tokenizer["added_tokens"] += [
        {
            "id": first + at,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": content.startswith("<|"),
        }
        for at, content in enumerate(sorted(set(_TOKEN.findall(template)) - known))
    ]
    return json.dumps(tokenizer)


def suited(name: str, conversations: Sequence[Conversation]) -> list[Conversation]:
    """Return what a template can print: the messages themselves, or one call a message where it takes one alone.

    Llama 3.1 and Mistral Small print no text beside a call, gpt-oss none beside the reasoning of one.
    """
    if name not in ("Llama 3.1", "gpt-oss", "Mistral Small"):
        return list(conversations)
    return [with_one_call(conversation, text_beside=name == "gpt-oss") for conversation in conversations]


def ours(conversations: Sequence[Conversation], model: Model) -> int:
    """How many are refused."""
    refused = 0
    for first in range(0, len(conversations), BATCH):
        outcomes = preprocess_batch(conversations[first : first + BATCH], OPTIONS, model)
        refused += sum(not isinstance(outcome, PreprocessedConversation) for outcome in outcomes)
    return refused


def peer(conversations: Sequence[Conversation], tokenizer: transformers.PreTrainedTokenizerFast, template: str) -> int:
    """How many it refuses."""
    refused = 0
    for conversation in conversations:
        try:
            tokenizer.apply_chat_template(
                cast("Any", list(conversation.messages)),
                tools=cast("Any", conversation.tools),
                chat_template=template,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        except Exception:  # a template's refusal, whatever it raises
            refused += 1
    return refused


def shown(conversations: Sequence[Conversation], model: Model) -> list[Conversation]:
    """The messages that each example shows, as conversations of their own."""
    found: list[Conversation] = []
    for conversation, fits in zip(conversations, fitted_batch(conversations, OPTIONS, model), strict=True):
        if isinstance(fits, Fits):
            counts = [fitted.example.weighted.view.messages for fitted in fits.examples]
            found += [Conversation(conversation.messages[:count], tools=conversation.tools) for count in counts]
    return found


def measure(name: str, count: int, rounds: int) -> Times:
    """New conversations in every round; ours and the peer's take turns to go first."""
    template = material.template(TEMPLATES[name])
    tokenizer_json = vocabulary(template)
    model, judge = (build_model(name, tokenizer_json, template, material.SPECIAL) for _ in range(2))
    stock = tokenizers.Tokenizer.from_str(tokenizer_json)
    tokenizer = cast("Any", transformers.PreTrainedTokenizerFast)(tokenizer_object=stock, **material.SPECIAL)
    times = Times()
    started = time.process_time()
    ours(suited(name, trajectories(1, seed=10**6)), model)
    times.first_ms = (time.process_time() - started) * 1e3
    peer(suited(name, trajectories(1, seed=10**6)), tokenizer, template)
    for round_ in range(rounds):
        conversations = suited(name, trajectories(count, seed=round_))
        messages = sum(len(conversation.messages) for conversation in conversations)
        examples = shown(conversations, judge)  # another model, for ours must not have seen them
        times.examples.append(len(examples) / len(conversations))
        for who in ("ours", "peer", "same")[:: 1 if round_ % 2 else -1]:
            cpu = time.process_time()
            if who == "ours":
                times.refused += ours(conversations, model)
            elif who == "peer":
                times.refused_by_peer += peer(conversations, tokenizer, template)
            else:
                peer(examples, tokenizer, template)
            getattr(times, who).append((time.process_time() - cpu) / messages * 1e6)
    return times


def main() -> int:
    """Print a row per template."""
    asked = PROGRAM.parse_args()
    material.need(*([TEMPLATES[asked.only]] if asked.only else TEMPLATES.values()))
    print(f"{asked.conversations} new conversations a round, {asked.rounds} interleaved rounds, CPU us a message")
    print(
        f"{'template':<16} {'turnloom':>9} {'peer':>9} {'x peer':>7} {'examples':>9} {'x same':>7} {'first ms':>9}"
        f" {'refused':>8} {'by peer':>8}"
    )
    for name in [asked.only] if asked.only else TEMPLATES:
        times = measure(name, asked.conversations, asked.rounds)
        ratio, same = (
            statistics.median(theirs / own for theirs, own in zip(peers, times.ours, strict=True))
            for peers in (times.peer, times.same)
        )
        print(
            f"{name:<16} {statistics.median(times.ours):>9.0f} {statistics.median(times.peer):>9.0f} {ratio:>7.2f}"
            f" {statistics.median(times.examples):>9.1f} {same:>7.2f} {times.first_ms:>9.0f}"
            f" {times.refused:>8} {times.refused_by_peer:>8}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
