"""The whole pipeline, from conversations to training rows. Imports no protobuf.

lay out (rendering, message spans) -> cut into segments and weigh -> encode -> fit into max_length -> shift to targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from operator import is_
from typing import Final, NamedTuple

import numpy as np

from turnloom.masks.domain.conversation import REASONING_FIELDS, Conversation, Message, row_weight
from turnloom.masks.domain.errors import (
    InvalidOption,
    NothingToTrain,
    PreprocessError,
    RoundTripFailed,
)
from turnloom.masks.domain.example import ControlTokenSpan, PreprocessedConversation, TokenizedExample
from turnloom.masks.domain.gc_pause import collections_paused
from turnloom.masks.domain.options import Options, Tokenization, is_iso_date
from turnloom.masks.domain.reading import too_deep_error
from turnloom.masks.model import Model
from turnloom.masks.replay.fast_path import FastPath, fast_path_of
from turnloom.masks.rows.fit import Fitted, fit
from turnloom.masks.rows.weigh import Example, WeightedText, encode, planned, weighted_texts_of
from turnloom.masks.rows.weights import MessageWeights
from turnloom.masks.template.call_ids import with_call_ids
from turnloom.masks.template.foreign_keys import obeyed, unheard
from turnloom.masks.template.message_checks import check_content
from turnloom.masks.template.normalize import normalized, normalized_tools
from turnloom.masks.tokenizer.encode import target_runs, trained_bytes
from turnloom.masks.trajectory.path import TrajectoryPath, trajectory_path_of

#: Conversations whose rows are made at a time: what is made of some 400 leaves a core's own cache.
AT_ONCE: Final = 128
#: Keys of a message that says something without content.
_SAYINGS: Final = ("tool_calls", "function_call", *REASONING_FIELDS)


def preprocess(conversation: Conversation, options: Options, model: Model) -> PreprocessedConversation:
    """Make training rows from one conversation.

    Raises:
        PreprocessError: why no row can be made that is certainly right.
    """
    outcome = preprocess_batch([conversation], options, model)[0]
    if isinstance(outcome, PreprocessError):
        raise outcome
    return outcome


def preprocess_batch(
    conversations: Sequence[Conversation], options: Options, model: Model
) -> list[PreprocessedConversation | PreprocessError]:
    """Make training rows from many conversations, AT_ONCE with one call of the encoder; batches from 64 on are good.

    Returns:
        One entry per conversation, in order: its rows, or why there are none. A bad one does not affect the others.

    Raises:
        InvalidOption: the options are wrong whatever the conversation.
    """
    check_options(options)
    compared = compares(options, model)
    with collections_paused():
        return [
            _assembled(fitted, options, model, compared) if isinstance(fitted, Fits) else fitted
            for first in range(0, len(conversations), AT_ONCE)
            for fitted in fitted_batch(conversations[first : first + AT_ONCE], options, model)
        ]


def preprocess_each(
    items: Sequence[Conversation | PreprocessError], options: Options, model: Model
) -> list[PreprocessedConversation | PreprocessError]:
    """Make training rows from conversations of which some could not be read: these stay the errors they are.

    Raises:
        InvalidOption: as preprocess_batch().
    """
    good = [item for item in items if not isinstance(item, PreprocessError)]
    made = iter(preprocess_batch(good, options, model) if good else ())
    return [item if isinstance(item, PreprocessError) else next(made) for item in items]


class Fits(NamedTuple):
    """All examples of one conversation, each within max_length."""

    examples: Sequence[Fitted]
    warnings: Sequence[str] = ()  #: about the conversation as it was sent


def fitted_batch(conversations: Sequence[Conversation], options: Options, model: Model) -> list[Fits | PreprocessError]:
    """Run the pipeline up to the shift, and return what rows are made of and previews show."""
    check_options(options)
    path, trajectories = fast_path_of(options, model), trajectory_path_of(options, model)
    laid_out = [_laid_out(conversation, options, model, path, trajectories) for conversation in conversations]
    encoded = iter(
        encode([weighted for one in laid_out if not isinstance(one, PreprocessError) for weighted in one[2]], model)
    )
    outcomes: list[Fits | PreprocessError] = []
    for sent, one in zip(conversations, laid_out, strict=True):
        if isinstance(one, PreprocessError):
            outcomes.append(one)
            continue
        conversation, plan, weighted_texts = one
        made = _fitted(list(islice(encoded, len(weighted_texts))), conversation, plan, options, model)
        if isinstance(made, Fits) and (silent := _silent(sent, plan)):
            made = made._replace(warnings=[*made.warnings, *silent])
        outcomes.append(made)
    return outcomes


def check_options(options: Options) -> None:
    """Refuse meaningless option values.

    Raises:
        InvalidOption: naming the option, its value and what it may be.
    """
    if options.max_length is not None and options.max_length < 2:
        raise InvalidOption(f"max_length is {options.max_length}; a row needs at least 2 tokens", field="max_length")
    if options.max_examples_per_conversation < 1:
        raise InvalidOption(
            f"max_examples_per_conversation is {options.max_examples_per_conversation}; give at least 1",
            field="max_examples_per_conversation",
        )
    if options.date is not None and not is_iso_date(options.date):
        raise InvalidOption(f"date is {options.date!r}; give an ISO date such as 2026-01-31", field="date")
    for name in ("reasoning", "content", "tool_call"):
        weight = getattr(options.part_weights, name)
        if row_weight(weight) is None:
            raise InvalidOption(
                f"part_weights.{name} is {weight}; give a finite number from 0 to 3.4e38", field="part_weights"
            )


def ready(conversation: Conversation, options: Options, model: Model) -> Conversation:
    """Return the conversation as templates and policies get it: foreign keys read, messages and tools normalized.

    Raises:
        PreprocessError: a key says what can't be obeyed, or arguments are not a JSON object.
    """
    if conversation.tools and options.normalize_messages:
        tools = normalized_tools(conversation.tools)
        if tools is not conversation.tools:
            conversation = replace(conversation, tools=tools)
    if _is_plain(conversation.messages):
        return conversation  # most conversations: nothing but roles and texts
    conversation = obeyed(conversation)
    messages, template = conversation.messages, model.chat_format.template
    own = options.chat_template is None  # a client's template is looked at in the sandbox alone
    names = template.names if own else frozenset()
    check_content(messages, names)
    if options.normalize_messages:
        messages = normalized(messages, names, only_text=own and template.takes_only_text)
    if options.make_tool_call_ids:
        messages = with_call_ids(messages, options.chat_template or template.source)
    if all(map(is_, messages, conversation.messages)):
        return conversation
    return replace(conversation, messages=messages)


def _is_plain(messages: Sequence[Message]) -> bool:
    try:
        for message in messages:
            if len(message) != 2 or type(content := message["content"]) is not str or not content:
                return False
    except KeyError:
        return False
    return True


def _laid_out(
    conversation: Conversation,
    options: Options,
    model: Model,
    path: FastPath | None,
    trajectories: TrajectoryPath | None,
) -> tuple[Conversation, MessageWeights, list[WeightedText]] | PreprocessError:
    """Return the conversation as templates get it, its weights, and its texts; or why there are none."""
    try:
        conversation = ready(conversation, options, model)
        if trajectories is not None:
            found = trajectories.weighted_texts(conversation, options, model)
            if found is not None:
                return conversation, *found
        if path is not None:
            return conversation, *path.weighted_texts(conversation, options, model)
        plan = planned(conversation, options, model)
        return conversation, plan, weighted_texts_of(conversation, plan, options, model)
    except PreprocessError as error:
        return error
    except RecursionError:  # lists in lists in lists: of this conversation, and no reason to refuse its batch
        return too_deep_error(conversation)


def _fitted(
    examples: Sequence[Example | RoundTripFailed],
    conversation: Conversation,
    plan: MessageWeights,
    options: Options,
    model: Model,
) -> Fits | PreprocessError:
    fitted: list[Fitted] = []
    try:
        for example in examples:
            if isinstance(example, RoundTripFailed):
                return example
            fitted += fit(example, conversation, plan, options, model)
    except PreprocessError as error:
        return error
    return Fits(fitted, _unheard(conversation, plan))


def _unheard(conversation: Conversation, plan: MessageWeights) -> Sequence[str]:
    return unheard(conversation.messages, conversation.training, plan.chosen) if conversation.training else ()


def _silent(sent: Conversation, plan: MessageWeights) -> Sequence[str]:
    """Return a warning for each trained reply that is null: most likely it is missing from a table."""
    missing = [index for index in plan.chosen if sent.messages[index].get("content") is None]
    if not missing:
        return ()
    return [
        f"messages[{index}].content is null, and there is no call: the model learns to say nothing here; leave the"
        " conversation out if its reply is missing"
        for index in sorted(missing)
        if plan.message_weights[index] > 0 and index in plan.assistants
        if not any(sent.messages[index].get(key) for key in _SAYINGS)
    ]


def _assembled(fits: Fits, options: Options, model: Model, compared: bool) -> PreprocessedConversation | NothingToTrain:
    rows: list[TokenizedExample] = []
    warnings: list[str] = [*fits.warnings]
    unchecked = 0
    for part, fitted in enumerate(fits.examples):
        row, loss_tokens = fitted.row, fitted.row.loss_tokens()
        if not loss_tokens or fitted.example.weighted.warnings or fitted.warnings or fitted.example.text.unknown:
            warnings += warnings_of(fitted, options, model)
        if not loss_tokens:
            continue
        unchecked += not compared or (fitted.example.text.unknown and has_unknown(fitted, model))
        rows.append(
            TokenizedExample(
                row.token_ids,
                target_runs(row.spans, len(row.token_ids)),
                part,
                trained_bytes(fitted.example.text, row, model.vocabulary),
                fitted.truncated_tokens,
                fitted.truncated_loss_tokens,
            )
        )
    if not rows:
        last = fits.examples[-1]
        field = "max_length" if last.truncated_loss_tokens else ""
        return NothingToTrain(_nothing_left(last, options), field=field)
    return PreprocessedConversation(
        rows, tuple(dict.fromkeys(warnings)) if warnings else (), escaped_spans(fits.examples), unchecked
    )


def compares(options: Options, model: Model) -> bool:
    """Whether ids are compared with the text that they stand for."""
    return options.tokenization is not Tokenization.HF and model.vocabulary.round_trips


def has_unknown(fitted: Fitted, model: Model) -> bool:
    """Whether a token stands for text that the vocabulary does not have: then the ids are not compared with it."""
    unknown = model.vocabulary.parts.unknown_id
    return unknown is not None and unknown in fitted.example.text.token_ids


def warnings_of(fitted: Fitted, options: Options, model: Model) -> list[str]:
    """Return the warnings that a person should read about one example."""
    weighted = fitted.example.weighted
    warnings = [*weighted.warnings, *fitted.warnings]
    if model.vocabulary.parts.unknown_id is not None and fitted.example.text.unknown:
        warnings += _unknown(fitted, model.vocabulary.parts.unknown_id)
    if not fitted.row.loss_tokens():
        warnings.append(f"one example is left out: {_nothing_left(fitted, options)}")
    return warnings


def _nothing_left(fitted: Fitted, options: Options) -> str:
    if fitted.truncated_loss_tokens:
        return (
            f"truncation={options.truncation.value} cuts every trained token ({fitted.truncated_loss_tokens} of "
            f"{fitted.truncated_tokens} that it cuts) to fit max_length={options.max_length}; raise it"
        )
    return "no token has weight: the messages that train_on chooses are empty, or weigh 0"


def _unknown(fitted: Fitted, unknown: int) -> list[str]:
    count = int(np.count_nonzero(fitted.row.token_ids == unknown))
    said = "1 token stands" if count == 1 else f"{count} tokens stand"
    return (
        [f"{said} for text that the vocabulary does not have, so the ids are not compared with the text"]
        if count
        else []
    )


def escaped_spans(examples: Sequence[Fitted]) -> tuple[ControlTokenSpan, ...]:
    """Control tokens encoded as ordinary text; a message shown by several examples is reported for the last."""
    spans: list[ControlTokenSpan] = []
    seen: set[int] = set()
    for fitted in reversed(examples):
        segments = fitted.example.weighted.segments
        if segments is None or not segments.escaped:
            continue
        found = [_renumbered(span, fitted) for span in segments.escaped]
        spans = [*(span for span in found if span.message_index not in seen), *spans]
        seen.update(span.message_index for span in found)
    return tuple(spans)


def _renumbered(span: ControlTokenSpan, fitted: Fitted) -> ControlTokenSpan:
    if fitted.messages is None or span.message_index < 0:
        return span
    return ControlTokenSpan(fitted.messages[span.message_index], span.offset, span.text)
