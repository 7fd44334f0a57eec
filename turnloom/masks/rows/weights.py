"""Which characters of a view carry which weight, as spans in characters of the rendered text.

weight = policy (`train_on`) x weight of the message x weight of the part; only assistant turns have parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from turnloom.masks.domain.conversation import Conversation, Training, row_weight
from turnloom.masks.domain.errors import InvalidTraining
from turnloom.masks.domain.options import Options, PartWeights, TrainOn, TrainOnEot
from turnloom.masks.domain.rendered_text import Kind, MessageSpan, Part, View, WeightSpan
from turnloom.plural import counted

ASSISTANT: Final = "assistant"
_NOTHING_SAID: Final = (Training(),)
EVEN: Final = PartWeights()  #: no part weighs otherwise than its message


class MessageWeights(NamedTuple):
    """What the options and the sender say of each message, whatever the template makes of it."""

    chosen: frozenset[int]  #: indices of the messages that `train_on` chooses
    message_weights: tuple[float, ...]  #: one per message, >= 0
    assistants: frozenset[int]  #: indices of the assistant messages, chosen or not
    last: int  #: the last chosen assistant message, -1 where there is none


def plan_weights(conversation: Conversation, options: Options) -> MessageWeights:
    """Apply the policy to the roles, and read what the sender said of each message.

    Raises:
        InvalidTraining: `training` has another length than `messages`, or a weight is negative, not finite, or so
            with the weight of a part, as float32.
    """
    roles = [str(message.get("role", "")) for message in conversation.messages]
    training = conversation.training or _NOTHING_SAID * len(roles)
    chosen = frozenset(TRAIN_ON[options.train_on](roles, training))
    if conversation.training:
        chosen -= _forbidden(roles, training, options)
    assistants = frozenset([index for index, role in enumerate(roles) if role == ASSISTANT])
    return MessageWeights(
        chosen=chosen,
        message_weights=_message_weights(conversation.training, roles, options.part_weights),
        assistants=assistants,
        last=max(chosen & assistants, default=-1),
    )


def _forbidden(roles: Sequence[str], training: Sequence[Training], options: Options) -> frozenset[int]:
    """Return the messages that their sender keeps from being trained, whatever the policy."""
    kept = frozenset([index for index, said in enumerate(training) if said.trainable is False])
    if options.train_on is TrainOn.ALL_TOKENS and kept:
        raise InvalidTraining(
            "is false, but train_on=all_tokens trains every token; choose another train_on",
            message_index=min(kept),
            field="trainable",
        )
    return kept


def _message_weights(training: Sequence[Training], roles: Sequence[str], parts: PartWeights) -> tuple[float, ...]:
    if not training:
        return (1.0,) * len(roles)
    if len(training) != len(roles):
        raise InvalidTraining(
            f"training is {len(training)} long, for {counted(len(roles), 'message')}; give one per message, or none",
            field="training",
        )
    for index, entry in enumerate(training):
        if entry.weight is not None and row_weight(entry.weight) is None:
            raise InvalidTraining(
                f"is {entry.weight}; give a finite number from 0 to 3.4e38", message_index=index, field="weight"
            )
        if entry.weight and parts != EVEN and roles[index] == ASSISTANT:
            _check_product(entry.weight, parts, index)
    return tuple([1.0 if entry.weight is None else entry.weight for entry in training])


def _check_product(weight: float, parts: PartWeights, index: int) -> None:
    """Refuse a weight that a row can't hold once it is multiplied: it would be infinite, or nothing."""
    for name in ("reasoning", "content", "tool_call"):
        factor = getattr(parts, name)
        if factor and not row_weight(weight * factor):
            raise InvalidTraining(
                f"is {weight:g}, and with part_weights.{name} {factor:g} too"
                f" {'large' if weight * factor > 1 else 'small'} for a weight (1e-45 to 3.4e38); give other factors",
                message_index=index,
                field="weight",
            )


def _with_roles(*wanted: str) -> Callable[[Sequence[str], Sequence[Training]], Sequence[int]]:
    return lambda roles, _: [index for index, role in enumerate(roles) if role in wanted]


def _last_assistant_message(roles: Sequence[str], _: Sequence[Training]) -> Sequence[int]:
    return [index for index, role in enumerate(roles) if role == ASSISTANT][-1:]


def _last_assistant_turn(roles: Sequence[str], training: Sequence[Training]) -> Sequence[int]:
    last = max(_last_assistant_message(roles, training), default=-1)
    asked = max((index for index, role in enumerate(roles[:last]) if role == "user"), default=-1)
    return [index for index in range(asked + 1, last + 1) if roles[index] == ASSISTANT]


def _every_message(roles: Sequence[str], _: Sequence[Training]) -> Sequence[int]:
    return range(len(roles))


def _customized(_: Sequence[str], training: Sequence[Training]) -> Sequence[int]:
    return [index for index, entry in enumerate(training) if entry.trainable]


#: Roles and what the sender said, one of each per message -> indices of the messages that carry weight.
TRAIN_ON: Final[dict[TrainOn, Callable[[Sequence[str], Sequence[Training]], Sequence[int]]]] = {
    TrainOn.ALL_ASSISTANT_MESSAGES: _with_roles(ASSISTANT),
    TrainOn.LAST_ASSISTANT_MESSAGE: _last_assistant_message,
    TrainOn.LAST_ASSISTANT_TURN: _last_assistant_turn,
    TrainOn.ALL_MESSAGES: _every_message,
    TrainOn.ALL_TOKENS: _every_message,
    TrainOn.ALL_USER_AND_SYSTEM_MESSAGES: _with_roles("user", "system", "developer"),
    TrainOn.CUSTOMIZED: _customized,
}


def weight_spans(view: View, plan: MessageWeights, options: Options) -> list[WeightSpan]:
    """Return the weighted characters of one view, in order; spans of weight 0 are left out."""
    spans: list[WeightSpan] = []
    position = 0  # end of the last weighted message span: under ALL_TOKENS the text between message spans counts too
    for message_span in view.message_spans:
        if message_span.message_index not in plan.chosen or message_span.message_index not in view.trained:
            continue
        if options.train_on is TrainOn.ALL_TOKENS:
            spans.append((position, message_span.start, 1.0))
        spans += _region_spans(message_span, plan, options)
        position = spans[-1][1]
    if options.train_on is TrainOn.ALL_TOKENS:
        spans.append((position, len(view.rendered.text), 1.0))
    return _merged(spans)


def _merged(spans: Sequence[WeightSpan]) -> list[WeightSpan]:
    """Join neighbours of equal weight, so that tokens are located only where it changes; drop weightless spans."""
    merged: list[WeightSpan] = []
    for start, end, weight in spans:
        if start >= end or weight <= 0:
            continue
        if merged and merged[-1][1] == start and merged[-1][2] == weight:
            start = merged.pop()[0]  # noqa: PLW2901 - the joined span begins where its neighbour did
        merged.append((start, end, weight))
    return merged


def _region_spans(message_span: MessageSpan, plan: MessageWeights, options: Options) -> list[WeightSpan]:
    weight = plan.message_weights[message_span.message_index]
    if message_span.role != ASSISTANT:
        return [(message_span.start, message_span.end, weight)]
    eot = weight * _EOT[options.train_on_eot](message_span.message_index, plan.last)
    if options.part_weights == EVEN and eot == weight:
        return [
            (
                message_span.start,
                message_span.trailing_end if options.include_trailing_whitespace else message_span.end,
                weight,
            )
        ]
    factor = {
        Kind.REASONING: weight * options.part_weights.reasoning,
        Kind.CONTENT: weight * options.part_weights.content,
        Kind.TOOL_CALL: weight * options.part_weights.tool_call,
        Kind.EOT: eot,
    }
    parts = message_span.parts or _two_parts(message_span)
    spans = [(part.start, part.end, factor.get(part.kind, weight)) for part in parts]
    if options.include_trailing_whitespace:
        spans.append((message_span.end, message_span.trailing_end, eot))
    return spans or [(message_span.start, message_span.end, weight)]


def _two_parts(message_span: MessageSpan) -> tuple[Part, ...]:
    parts = (
        Part(message_span.start, message_span.eot_start, Kind.CONTENT),
        Part(message_span.eot_start, message_span.end, Kind.EOT),
    )
    return tuple(part for part in parts if part.start < part.end)


_EOT: Final[dict[TrainOnEot, Callable[[int, int], float]]] = {
    TrainOnEot.ALL: lambda index, last: 1.0,
    TrainOnEot.LAST: lambda index, last: float(index == last),
    TrainOnEot.NONE: lambda index, last: 0.0,
}
