"""Turn a conversation into the prompt that training used, and a reply's token ids into text.

The prompt is not rendered separately. A reply is appended to the conversation, and all of it goes through the training
pipeline. Whatever precedes the reply's message span is the prompt, id for id as in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.errors import RoundTripFailed, TemplateRefused
from turnloom.masks.domain.options import GenerationPrefill, OnUnextendable, Options, Tokenization, TrainOn
from turnloom.masks.domain.rendered_text import MessageSpan, RenderedText, View, first_runs, runs_behind
from turnloom.masks.model import Model
from turnloom.masks.pipeline import ready
from turnloom.masks.rows.weigh import WeightedText, encode, weighted_texts_of
from turnloom.masks.rows.weights import plan_weights
from turnloom.masks.template.added_token_text import AddedTokenFinder
from turnloom.masks.template.render import render
from turnloom.masks.tokenizer.segments import cut

REPLY: Final = "Certainly."  #: stands in for the one that is asked for
_NOTHING: Final = RenderedText("", ())


@dataclass(frozen=True, slots=True)
class Prompt:
    """The input of a sampler."""

    token_ids: NDArray[np.int32]  #: shape (N,), N >= 1
    stop_ids: tuple[int, ...]  #: tokens that end the reply: those that training put there


def prompt_of(conversation: Conversation, options: Options, model: Model) -> Prompt:
    """Return the prompt for a reply to a conversation.

    Args:
        conversation: whose last message is not the assistant's.
        options: of the dataset that the model was trained on; how long and how heavy rows are does not matter.
        model: that it was made with.

    Raises:
        PreprocessError: whatever training would refuse this conversation for, were it answered.
    """
    conversation = ready(conversation, options, model)
    asked = Conversation([*conversation.messages, _reply(conversation.messages)], conversation.tools)
    chosen = replace(
        options,
        train_on=TrainOn.LAST_ASSISTANT_MESSAGE,
        on_unextendable=OnUnextendable.LAST,
        ensure_final_stop=False,
        max_length=None,
    )
    plan = plan_weights(asked, chosen)
    view = weighted_texts_of(asked, plan, chosen, model)[-1].view
    reply = view.message_spans[-1]
    prompt = _before(view, reply, _generation_prompt(conversation, chosen, model))
    segments = None
    if chosen.tokenization is not Tokenization.HF:
        rules = model.vocabulary.cut_rules
        segments = cut(prompt.rendered, prompt.boundaries, plan.assistants, rules, chosen.control_tokens)
    example = encode([WeightedText(prompt, (), segments)], model)[0]
    if isinstance(example, RoundTripFailed):
        raise example
    return Prompt(example.row.token_ids, _stop_ids(view.rendered.text[reply.eot_start : reply.end], model))


def _reply(messages: Sequence[Message]) -> Message:
    """Return a reply, in parts where the conversation is in parts: some templates read nothing else."""
    parts = any(isinstance(message.get("content"), (list, tuple)) for message in messages)
    return {"role": "assistant", "content": [{"type": "text", "text": REPLY}] if parts else REPLY}


def _generation_prompt(conversation: Conversation, options: Options, model: Model) -> RenderedText:
    """Return what the template prints before a coming reply.

    It is empty where that does not count as prompt, or is unknown. A client's own template is rendered in the sandbox,
    which takes whole conversations only.
    """
    if options.chat_template is not None or options.generation_prefill is not GenerationPrefill.DEFAULT:
        return _NOTHING
    chat_format = model.chat_format
    settings = chat_format.engine(options).settings
    try:
        return render(
            conversation.messages, conversation.tools, chat_format.template, settings, add_generation_prompt=True
        )
    except TemplateRefused:  # it takes whole conversations only
        return _NOTHING


def _before(view: View, reply: MessageSpan, generation_prompt: RenderedText) -> View:
    """Return the view before a reply, plus what the template's own prompt adds, such as an opened `<think>`."""
    head = view.rendered.text[: reply.start]
    runs = first_runs(view.rendered.runs, reply.start)
    rendered = RenderedText(head, tuple(runs))
    if generation_prompt.text.startswith(head):
        # Message text that only this prompt repeats is not a literal either.
        rendered = RenderedText(generation_prompt.text, (*runs, *runs_behind(generation_prompt.runs, reply.start)))
    return replace(
        view, rendered=rendered, message_spans=(), boundaries=tuple(at for at in view.boundaries if at < reply.start)
    )


def _stop_ids(end_of_turn: str, model: Model) -> tuple[int, ...]:
    """Return the ids of the control token that closes a turn and of the tokenizer's own end of text."""
    tokens = model.vocabulary.table.by_content
    first = next(AddedTokenFinder(model.chat_format.control_tokens).spans(end_of_turn), (0, 0))
    names = dict.fromkeys((end_of_turn[slice(*first)], model.stop_token))
    return tuple(tokens[name].id for name in names if name in tokens)


def reply_text(token_ids: Sequence[int], stop_ids: Sequence[int], model: Model) -> str:
    """Return the text of a reply without the stop token that ended it.

    Incomplete characters become U+FFFD.
    """
    end = len(token_ids) - (len(token_ids) > 0 and token_ids[-1] in stop_ids)
    vocabulary = model.vocabulary
    # A model may have more ids than its tokenizer, because its matrix is padded.
    known = [index for index in token_ids[:end] if 0 <= index < vocabulary.size]
    if vocabulary.round_trips:
        return vocabulary.decode(np.array(known, dtype=np.int32)).decode(errors="replace")
    return str(vocabulary.stock.decode(known, skip_special_tokens=False))
