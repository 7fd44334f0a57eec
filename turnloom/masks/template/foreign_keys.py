"""Translate the keys by which other tools say what is trained in a message.

Such a key is removed from the message, as `trainable` and `weight` are: templates never see it. Its meaning goes into
the message's Training. A key that can't be obeyed is refused with its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from turnloom.masks.domain.conversation import JSON, Conversation, Message, Training, row_weight, said_truth
from turnloom.masks.domain.errors import InvalidTraining

#: Keys that say whether a message is trained -> what `true` means.
MASK_KEYS: Final = {
    **dict.fromkeys(("loss_mask", "step_loss_mask", "loss", "train", "training", "train_mask", "trained"), True),
    **dict.fromkeys(("masked", "no_loss", "ignore_loss"), False),
}
#: Keys of a factor on the loss.
FACTOR_KEYS: Final = frozenset({"loss_scale", "loss_weight"})
#: Keys whose true or false may mean either.
AMBIGUOUS_KEYS: Final = frozenset({"mask", "label"})
#: Keys of axolotl that mark characters inside a message.
DETAIL_KEYS: Final = frozenset({"train_detail", "training_detail"})
_KEYS: Final = frozenset(MASK_KEYS) | FACTOR_KEYS | AMBIGUOUS_KEYS | DETAIL_KEYS


def obeyed(conversation: Conversation) -> Conversation:
    """Return the conversation with foreign keys moved into its training; the same object where there are none.

    Raises:
        InvalidTraining: a key has a meaningless value, or one that contradicts other keys.
    """
    if not any(len(message) > 2 and not _KEYS.isdisjoint(message) for message in conversation.messages):
        return conversation
    given = conversation.training or (Training(),) * len(conversation.messages)
    if len(given) != len(conversation.messages):
        return conversation  # refused where weights are planned
    told = zip(conversation.messages, given, strict=True)
    training = [_training(message, said, index) for index, (message, said) in enumerate(told)]
    messages = [_without_keys(message) for message in conversation.messages]
    return replace(conversation, messages=messages, training=training)


def _training(message: Message, said: Training, index: int) -> Training:
    for key in message:
        value = message[key]
        if key not in _KEYS or value is None:
            continue
        if key in DETAIL_KEYS:
            if value:
                raise InvalidTraining(
                    "marks characters of this message, which is trained as a whole or not; remove the key, and write"
                    " trainable: false if it is not trained",
                    message_index=index,
                    field=key,
                )
            continue
        if key in AMBIGUOUS_KEYS:
            if said_truth(value) is None:
                continue
            raise InvalidTraining(
                "does not say whether it marks what is trained or what is not; write trainable: true or false",
                message_index=index,
                field=key,
            )
        trainable = None if key in FACTOR_KEYS else said_truth(value)
        if trainable is not None:
            trainable = trainable is MASK_KEYS[key]
            if said.trainable not in (None, trainable):
                raise InvalidTraining(
                    "says other than another key of this message; leave one of them out", message_index=index, field=key
                )
            said = replace(said, trainable=trainable)
        else:
            said = _weighed(said, key, value, index)
    return said


def _weighed(said: Training, key: str, value: JSON, index: int) -> Training:
    """Read a number other than 0 and 1 as a factor, under the names of factors and masks. Refuse a measured loss."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    factor = row_weight(value) if number and key not in ("loss", "masked") else None  # type: ignore[arg-type]  # a number
    if factor is None:
        raise InvalidTraining(
            f"is {_shown(value)}, which says not what is trained; write trainable: true or false, or weight: a number",
            message_index=index,
            field=key,
        )
    if said.weight not in (None, factor):
        raise InvalidTraining("and weight are two factors; leave one of them out", message_index=index, field=key)
    return replace(said, weight=factor)


def _without_keys(message: Message) -> Message:
    if _KEYS.isdisjoint(message):
        return message
    return {key: value for key, value in message.items() if not _said_by(key, value)}


def _said_by(key: str, value: JSON) -> bool:
    return key in MASK_KEYS or key in FACTOR_KEYS or key in DETAIL_KEYS or (key in AMBIGUOUS_KEYS and value is None)


def _shown(value: JSON) -> str:
    return repr(value)[:40] if isinstance(value, (str, int, float)) else f"a {type(value).__name__}"


def unheard(messages: Sequence[Message], training: Sequence[Training], chosen: frozenset[int]) -> tuple[str, ...]:
    """Return warnings for messages that their sender calls trained and that the policy does not choose."""
    return tuple(
        f"messages[{index}] is marked as trained, but train_on does not choose a {message.get('role')} message; use"
        " train_on=customized"
        for index, (message, said) in enumerate(zip(messages, training, strict=False))
        if said.trainable and index not in chosen and message.get("role") != "assistant"
    )
