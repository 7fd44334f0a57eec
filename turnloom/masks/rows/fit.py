"""Fit examples into max_length, and account for what was cut."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError, TooLong
from turnloom.masks.domain.example import WeightedTokens
from turnloom.masks.domain.options import Options, Truncation
from turnloom.masks.model import Model
from turnloom.masks.rows.truncate import CUTS
from turnloom.masks.rows.weigh import Example, encode, weighted_texts_of
from turnloom.masks.rows.weights import MessageWeights
from turnloom.plural import counted


class Fitted(NamedTuple):
    """One example that fits, and what it lost."""

    example: Example
    row: WeightedTokens  #: what is left of example.row
    truncated_tokens: int = 0
    truncated_loss_tokens: int = 0  #: of these, targets with weight > 0
    messages: Sequence[int] | None = None  #: position in the conversation of each message shown; None: as they are
    warnings: Sequence[str] = ()


def fit(
    example: Example, conversation: Conversation, plan: MessageWeights, options: Options, model: Model
) -> list[Fitted]:
    """Fit one example into options.max_length; dropping turns may split it into several.

    Raises:
        TooLong: it doesn't fit and may not be cut, or its last turn alone is too long.
        PreprocessError: what is left after dropping turns can't be laid out.
    """
    row, limit = example.row, options.max_length
    if limit is None or len(row.token_ids) <= limit:
        return [Fitted(example, row)]
    if options.truncation is Truncation.ERROR:
        raise TooLong(
            f"the example has {len(row.token_ids)} tokens, max_length is {limit}; raise it, or choose a truncation",
            field="max_length",
        )
    if options.truncation is Truncation.DROP_TURNS:
        return _drop_turns(example, conversation, plan, options, model)
    kept = CUTS[options.truncation](row, limit)
    return [Fitted(example, kept, len(row.token_ids) - limit, row.loss_tokens() - kept.loss_tokens())]


def _drop_turns(
    example: Example, conversation: Conversation, plan: MessageWeights, options: Options, model: Model
) -> list[Fitted]:
    """Drop the fewest oldest turns after the system prompt that make it fit; each try renders what is left."""
    limit = options.max_length
    assert limit is not None, "fit() has compared it"
    messages = conversation.messages[: example.weighted.view.messages]
    starts = _turn_starts([str(message.get("role", "")) for message in messages])
    tries: dict[int, list[Example]] = {}

    def fits(dropped: int) -> bool:
        kept = [*range(starts[0]), *range(starts[dropped], len(messages))]
        shorter, shorter_plan = _only(kept, example.weighted.view.trained, conversation, plan)
        tries[dropped] = _examples_of(shorter, shorter_plan, options, model)
        return all(len(one.row.token_ids) <= limit for one in tries[dropped])

    last = len(starts) - 1
    if last < 1 or not fits(last):
        longest = max(len(one.row.token_ids) for one in tries.get(last, [example]))
        raise TooLong(
            f"the last turn with the system prompt has {longest} tokens, max_length is {limit}, and no other turn can "
            "be dropped; raise it, or choose truncation=right or left",
            field="max_length",
        )
    low, high = 0, last  # dropping `low` turns is too few, `high` are enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    kept = [*range(starts[0]), *range(starts[high], len(messages))]
    found = tries[high]
    lost_tokens = max(0, len(example.row.token_ids) - sum(len(one.row.token_ids) for one in found))
    lost_loss = max(0, example.row.loss_tokens() - sum(one.row.loss_tokens() for one in found))
    warning = (
        f"messages[{starts[0]}] to messages[{starts[high] - 1}] were dropped, "
        f"{counted(lost_tokens, 'token')}, of which {lost_loss} trained, to fit max_length={limit}"
    )
    first, *others = [Fitted(one, one.row, messages=kept) for one in found]
    return [
        first._replace(truncated_tokens=lost_tokens, truncated_loss_tokens=lost_loss, warnings=(warning,)),
        *others,
    ]


def _turn_starts(roles: Sequence[str]) -> list[int]:
    """Return where turns begin: behind the system prompt, and at every later user message."""
    head = next((index for index, role in enumerate(roles) if role not in {"system", "developer"}), len(roles))
    return [head, *(index for index in range(head + 1, len(roles)) if roles[index] == "user")]


def _only(
    kept: Sequence[int], trained: AbstractSet[int], conversation: Conversation, plan: MessageWeights
) -> tuple[Conversation, MessageWeights]:
    """Return the conversation of the kept messages, planned to train what `trained` names of them."""
    shorter = replace(
        conversation,
        messages=[conversation.messages[index] for index in kept],
        training=[conversation.training[index] for index in kept] if conversation.training else (),
    )
    shorter_plan = MessageWeights(
        chosen=frozenset(position for position, index in enumerate(kept) if index in plan.chosen & trained),
        message_weights=tuple(plan.message_weights[index] for index in kept),
        assistants=frozenset(position for position, index in enumerate(kept) if index in plan.assistants),
        last=kept.index(plan.last) if plan.last in kept else -1,
    )
    return shorter, shorter_plan


def _examples_of(conversation: Conversation, plan: MessageWeights, options: Options, model: Model) -> list[Example]:
    examples: list[Example] = []
    for one in encode(weighted_texts_of(conversation, plan, options, model), model):
        if isinstance(one, PreprocessError):
            raise one
        examples.append(one)
    return examples
