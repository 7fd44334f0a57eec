"""Examples before they are made to fit: views, cut and weighed, with their tokens. Knows no limit on length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from services.preprocess.conversation import Conversation
from services.preprocess.errors import InvalidOption, NoAssistantTurn, RoundTripFailed
from services.preprocess.examples import ControlTokenSpan
from services.preprocess.final_stop import with_final_stop
from services.preprocess.layout import lay_out
from services.preprocess.models import Model
from services.preprocess.options import ControlTokens, Options, Tokenization, TrainOn
from services.preprocess.pieces import Pieces, cut, origin_at, rejection, spelled_by_messages, utf8_of
from services.preprocess.rendered import RenderedText, View
from services.preprocess.tokenizing import Mistaken, TokenizedText, token_spans, tokenize, tokenize_as_stock
from services.preprocess.truncation import Row
from services.preprocess.weights import Plan, WeightSpan, plan_weights, weight_spans


class Draft(NamedTuple):
    """One view, cut and weighed; a tuple, as all that is made once an example, since thousands are made a second."""

    view: View
    spans: Sequence[WeightSpan]
    pieces: Pieces | None  #: None: the stock tokenizer is given the whole text
    warnings: Sequence[str] = ()


class Example(NamedTuple):
    """A draft with its tokens."""

    draft: Draft
    text: TokenizedText
    row: Row


def lay_out_and_weigh(conversation: Conversation, options: Options, model: Model) -> tuple[Plan, list[Draft]]:
    """Apply the policy, render, find regions, cut and weigh: one draft per example the conversation gives.

    Raises:
        PreprocessError: whatever is wrong with this conversation under these options.
    """
    plan = plan_weights(conversation, options)
    if conversation.messages and not plan.chosen:
        raise NoAssistantTurn(
            f"train_on={options.train_on.value} chooses none of the {len(conversation.messages)} messages; "
            "choose another policy, or leave the conversation out"
        )
    return plan, drafts_of(conversation, plan, options, model)


def drafts_of(conversation: Conversation, plan: Plan, options: Options, model: Model) -> list[Draft]:
    """Lay out, cut and weigh a conversation whose messages' weights are planned."""
    return [_draft(view, plan, options, model) for view in _views(conversation, plan, options, model)]


def _views(conversation: Conversation, plan: Plan, options: Options, model: Model) -> list[View]:
    trained = None if options.train_on is TrainOn.ALL_TOKENS else plan.chosen
    chat_format = model.chat_format
    if options.chat_template is None:
        return lay_out(conversation, options, chat_format, trained)
    if model.sandbox is None:
        raise InvalidOption("can't be rendered here; register the template with a model", field="chat_template")
    return model.sandbox.lay_out(
        options.chat_template, conversation, options, chat_format.special_tokens, chat_format.control_tokens, trained
    )


def _draft(view: View, plan: Plan, options: Options, model: Model) -> Draft:
    if options.ensure_final_stop:
        view = with_final_stop(view, _stop_token(model))
    spans = weight_spans(view, plan, options)
    if options.tokenization is Tokenization.HF:
        utf8_of(view.rendered)
        return Draft(view, spans, None, _checked_for_stock(view.rendered, plan, options, model))
    rules = model.vocabulary.cut_rules
    return Draft(view, spans, cut(view.rendered, view.boundaries, plan.assistants, rules, options.control_tokens))


def _stop_token(model: Model) -> str:
    if model.stop_token not in model.vocabulary.table.by_content:
        raise InvalidOption(
            f"needs the tokenizer's eos_token, but {model.stop_token!r} is no token of {model.name}; leave it out",
            field="ensure_final_stop",
        )
    return model.stop_token


def _checked_for_stock(rendered: RenderedText, plan: Plan, options: Options, model: Model) -> Sequence[str]:
    """The stock tokenizer matches control tokens wherever they are spelled: refuse them, or say so."""
    if options.control_tokens is ControlTokens.ALLOW:
        return ()
    spelled: list[ControlTokenSpan] = spelled_by_messages(rendered, plan.assistants, model.vocabulary.table)
    if not spelled:
        return ()
    if options.control_tokens is ControlTokens.REJECT:
        raise rejection(spelled[0])
    return (
        f"tokenization=hf takes {len(spelled)} control tokens from text of messages, first {spelled[0].text!r} "
        f"at character {spelled[0].offset}; tokenization=exact would escape them",
    )


def encode(drafts: Sequence[Draft], model: Model) -> list[Example | RoundTripFailed]:
    """Give every draft its tokens, with one call of the encoder for all; one entry per draft, in order."""
    texts = iter(tokenize([draft.pieces for draft in drafts if draft.pieces is not None], model.vocabulary))
    examples: list[Example | RoundTripFailed] = []
    for draft in drafts:
        whole = draft.view.rendered.text
        text = tokenize_as_stock(whole, model.vocabulary) if draft.pieces is None else next(texts)
        if isinstance(text, Mistaken):
            examples.append(_round_trip_failed(draft.view.rendered, text))
            continue
        row = Row(text.token_ids, token_spans(text, draft.spans, model.vocabulary))
        examples.append(Example(draft, text, row))
    return examples


def _round_trip_failed(rendered: RenderedText, mistaken: Mistaken) -> RoundTripFailed:
    origin = origin_at(rendered, mistaken.character)
    return RoundTripFailed(
        f"the text at character {mistaken.character} of the rendered text {mistaken.reason}",
        message_index=origin.message_index if origin is not None and origin.message_index >= 0 else None,
        field=origin.field if origin is not None else "",
    )
