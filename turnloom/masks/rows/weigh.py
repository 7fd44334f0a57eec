"""Examples before they are made to fit: views, cut and weighed, with their tokens. Knows no limit on length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import InvalidOption, NoAssistantTurn, RoundTripFailed
from turnloom.masks.domain.example import ControlTokenSpan, Row, TokenSpan
from turnloom.masks.domain.options import ControlTokens, Options, Tokenization, TrainOn
from turnloom.masks.domain.rendered_text import RenderedText, View, WeightSpan
from turnloom.masks.model import Model
from turnloom.masks.rows.final_stop import with_final_stop
from turnloom.masks.rows.weights import Plan, plan_weights, weight_spans
from turnloom.masks.tokenizer.encode import Mistaken, TokenizedText, token_spans, tokenize, tokenize_as_stock
from turnloom.masks.tokenizer.segments import Pieces, cut, origin_at, rejection, spelled_by_messages, utf8_of
from turnloom.masks.turns.views import render_views


class Draft(NamedTuple):  # noqa: PLW1641  # nobody keeps drafts in sets
    """One view, cut and weighed; a tuple, as all that is made once an example, since thousands are made a second."""

    made: View | Callable[[], View]  #: the view, or what makes it: rows need none
    spans: Sequence[WeightSpan]
    pieces: Pieces | None  #: None: the stock tokenizer is given the whole text
    warnings: Sequence[str] = ()  #: of the view and of the draft
    slots: Sequence[tuple[int, int, float]] | None = None  #: the spans in slots of the pieces; None: not known

    @property
    def view(self) -> View:
        """What is shown, and where its regions lie."""
        return self.made if isinstance(self.made, View) else self.made()

    def __eq__(self, other: object) -> bool:
        """Whether the same rows, previews and warnings come of it."""
        if not isinstance(other, Draft):
            return NotImplemented
        mine, others = self[1:4], other[1:4]
        return mine == others and self.view == other.view


class Example(NamedTuple):
    """A draft with its tokens."""

    draft: Draft
    text: TokenizedText
    row: Row


def planned(conversation: Conversation, options: Options) -> Plan:
    """Apply the policy.

    Raises:
        NoAssistantTurn: it chooses no message.
        InvalidTraining: what the sender said of the messages can't be used.
    """
    plan = plan_weights(conversation, options)
    if conversation.messages and not plan.chosen:
        raise NoAssistantTurn(
            f"train_on={options.train_on.value} chooses none of the {len(conversation.messages)} messages; "
            "choose another policy, or leave the conversation out"
        )
    return plan


def drafts_of(conversation: Conversation, plan: Plan, options: Options, model: Model) -> list[Draft]:
    """Lay out, cut and weigh a conversation whose messages' weights are planned: one draft per example it gives.

    Raises:
        PreprocessError: whatever is wrong with this conversation under these options.
    """
    return [draft_of(view, plan, options, model) for view in views_of(conversation, plan, options, model)]


def views_of(conversation: Conversation, plan: Plan, options: Options, model: Model) -> list[View]:
    """Lay out a conversation whose messages' weights are planned; raises PreprocessError."""
    trained, chat_format = trained_of(plan, options), model.chat_format
    if options.chat_template is None:
        return render_views(conversation, options, chat_format, trained)
    if model.sandbox is None:
        raise InvalidOption("can't be rendered here; register the template with a model", field="chat_template")
    return model.sandbox.render_views(
        options.chat_template, conversation, options, chat_format.special_tokens, chat_format.control_tokens, trained
    )


def trained_of(plan: Plan, options: Options) -> AbstractSet[int] | None:
    """The messages whose regions are to be found; None: those of all assistant messages."""
    return None if options.train_on is TrainOn.ALL_TOKENS else plan.chosen


def draft_of(view: View, plan: Plan, options: Options, model: Model) -> Draft:
    """Cut and weigh one view.

    Raises:
        PreprocessError: whatever is wrong with it.
    """
    if options.ensure_final_stop:
        view = with_final_stop(view, _stop_token(model))
    spans = weight_spans(view, plan, options)
    if options.tokenization is Tokenization.HF:
        utf8_of(view.rendered)
        return Draft(view, spans, None, (*view.warnings, *_checked_for_stock(view.rendered, plan, options, model)))
    rules = model.vocabulary.cut_rules
    pieces = cut(view.rendered, view.boundaries, plan.assistants, rules, options.control_tokens)
    return Draft(view, spans, pieces, view.warnings)


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
        if draft.pieces is None:
            text: TokenizedText | Mistaken = tokenize_as_stock(draft.view.rendered.text, model.vocabulary)
        else:
            text = next(texts)
        if isinstance(text, Mistaken):
            examples.append(_round_trip_failed(draft.view.rendered, text))
            continue
        examples.append(Example(draft, text, Row(text.token_ids, _token_spans(draft, text, model))))
    return examples


def _token_spans(draft: Draft, text: TokenizedText, model: Model) -> list[TokenSpan]:
    if draft.slots is None:
        return token_spans(text, draft.spans, model.vocabulary)
    first = text.slot_tokens
    return [(first[start], first[end], weight) for start, end, weight in draft.slots if first[start] < first[end]]


def _round_trip_failed(rendered: RenderedText, mistaken: Mistaken) -> RoundTripFailed:
    origin = origin_at(rendered, mistaken.character)
    return RoundTripFailed(
        f"the text at character {mistaken.character} of the rendered text {mistaken.reason}",
        message_index=origin.message_index if origin is not None and origin.message_index >= 0 else None,
        field=origin.field if origin is not None else "",
    )
