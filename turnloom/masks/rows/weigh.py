"""Views cut, weighed and encoded: examples before they are fitted into max_length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import InvalidOption, NoAssistantTurn, RoundTripFailed
from turnloom.masks.domain.example import ControlTokenSpan, TokenSpan, WeightedTokens
from turnloom.masks.domain.options import ControlTokens, Options, Tokenization, TrainOn
from turnloom.masks.domain.rendered_text import RenderedText, View, WeightSpan
from turnloom.masks.model import Model
from turnloom.masks.rows.final_stop import with_final_stop
from turnloom.masks.rows.weights import MessageWeights, plan_weights, weight_spans
from turnloom.masks.template.message_checks import check_roles
from turnloom.masks.tokenizer.encode import RoundTripMismatch, TokenizedText, token_spans, tokenize, tokenize_as_stock
from turnloom.masks.tokenizer.segments import Segments, cut, origin_at, rejection, spelled_by_messages, utf8_of
from turnloom.masks.turns.views import render_views
from turnloom.plural import counted


class WeightedText(NamedTuple):  # noqa: PLW1641  # weighted texts are never kept in sets
    """One view, cut and weighed. A tuple, as all that is made per example: thousands are made a second."""

    made: View | Callable[[], View]  #: the view, or what makes it: rows need none
    spans: Sequence[WeightSpan]
    segments: Segments | None  #: None: the stock tokenizer is given the whole text
    warnings: Sequence[str] = ()  #: of the view and of the weighted text
    slots: Sequence[tuple[int, int, float]] | None = None  #: the spans in slots of the segments; None: not known

    @property
    def view(self) -> View:
        """What is shown, and where its message spans lie."""
        return self.made if isinstance(self.made, View) else self.made()

    def __eq__(self, other: object) -> bool:
        """Whether it gives the same rows, previews and warnings."""
        if not isinstance(other, WeightedText):
            return NotImplemented
        mine, others = self[1:4], other[1:4]
        return mine == others and self.view == other.view


class Example(NamedTuple):
    """A weighted text with its tokens."""

    weighted: WeightedText
    text: TokenizedText
    row: WeightedTokens


def planned(conversation: Conversation, options: Options, model: Model) -> MessageWeights:
    """Apply the policy.

    Raises:
        UnknownRole: it chooses no message, and a role is mistyped.
        NoAssistantTurn: it chooses no message.
        InvalidTraining: what the sender said of the messages can't be used.
    """
    plan = plan_weights(conversation, options)
    if conversation.messages and not plan.chosen:
        check_roles(conversation.messages, model.chat_format.template.words if options.chat_template is None else ())
        roles = ", ".join(dict.fromkeys(str(message.get("role")) for message in conversation.messages))
        raise NoAssistantTurn(
            f"train_on={options.train_on.value} chooses no message (roles: {roles}); "
            "choose another policy, or leave the conversation out"
        )
    return plan


def weighted_texts_of(
    conversation: Conversation, plan: MessageWeights, options: Options, model: Model
) -> list[WeightedText]:
    """Render, cut and weigh a conversation whose messages' weights are planned: one weighted text per example.

    Raises:
        PreprocessError: whatever is wrong with this conversation under these options.
    """
    return [weighted_text_of(view, plan, options, model) for view in views_of(conversation, plan, options, model)]


def views_of(conversation: Conversation, plan: MessageWeights, options: Options, model: Model) -> list[View]:
    """Lay out a conversation whose messages' weights are planned; raises PreprocessError."""
    trained, chat_format = trained_of(plan, options), model.chat_format
    if options.chat_template is None:
        return render_views(conversation, options, chat_format, trained)
    if model.sandbox is None:
        raise InvalidOption("can't be rendered here; register the template with a model", field="chat_template")
    return model.sandbox.render_views(
        options.chat_template, conversation, options, chat_format.special_tokens, chat_format.control_tokens, trained
    )


def trained_of(plan: MessageWeights, options: Options) -> AbstractSet[int] | None:
    """Return the messages whose spans must be located; None: those of all assistant messages."""
    return None if options.train_on is TrainOn.ALL_TOKENS else plan.chosen


def weighted_text_of(view: View, plan: MessageWeights, options: Options, model: Model) -> WeightedText:
    """Cut and weigh one view.

    Raises:
        PreprocessError: whatever is wrong with it.
    """
    if options.ensure_final_stop or view.final_stop:
        view = with_final_stop(view, view.final_stop or _stop_token(model))
    spans = weight_spans(view, plan, options)
    if options.tokenization is Tokenization.HF:
        utf8_of(view.rendered)
        return WeightedText(
            view, spans, None, (*view.warnings, *_checked_for_stock(view.rendered, plan, options, model))
        )
    rules = model.vocabulary.cut_rules
    segments = cut(view.rendered, view.boundaries, plan.assistants, rules, options.control_tokens)
    return WeightedText(view, spans, segments, view.warnings)


def _stop_token(model: Model) -> str:
    if model.stop_token not in model.vocabulary.table.by_content:
        raise InvalidOption(
            f"needs the tokenizer's eos_token, but {model.stop_token!r} is no token of {model.name}; leave it out",
            field="ensure_final_stop",
        )
    return model.stop_token


def _checked_for_stock(rendered: RenderedText, plan: MessageWeights, options: Options, model: Model) -> Sequence[str]:
    """Refuse or report control tokens that messages spell; the stock tokenizer matches them wherever they are."""
    if options.control_tokens is ControlTokens.ALLOW:
        return ()
    spelled: list[ControlTokenSpan] = spelled_by_messages(rendered, plan.assistants, model.vocabulary.table)
    if not spelled:
        return ()
    if options.control_tokens is ControlTokens.REJECT:
        raise rejection(spelled[0])
    return (
        f"tokenization=hf takes {counted(len(spelled), 'control token')} from text of messages, first "
        f"{spelled[0].text!r} at character {spelled[0].offset}; tokenization=exact escapes it",
    )


def encode(weighted_texts: Sequence[WeightedText], model: Model) -> list[Example | RoundTripFailed]:
    """Encode all weighted texts with one call of the encoder; return one entry per text, in order."""
    texts = iter(
        tokenize([weighted.segments for weighted in weighted_texts if weighted.segments is not None], model.vocabulary)
    )
    examples: list[Example | RoundTripFailed] = []
    for weighted in weighted_texts:
        if weighted.segments is None:
            text: TokenizedText | RoundTripMismatch = tokenize_as_stock(weighted.view.rendered.text, model.vocabulary)
        else:
            text = next(texts)
        if isinstance(text, RoundTripMismatch):
            examples.append(_round_trip_failed(weighted.view.rendered, text))
            continue
        examples.append(Example(weighted, text, WeightedTokens(text.token_ids, _token_spans(weighted, text, model))))
    return examples


def _token_spans(weighted: WeightedText, text: TokenizedText, model: Model) -> list[TokenSpan]:
    if weighted.slots is None:
        return token_spans(text, weighted.spans, model.vocabulary)
    first = text.slot_tokens
    return [(first[start], first[end], weight) for start, end, weight in weighted.slots if first[start] < first[end]]


def _round_trip_failed(rendered: RenderedText, mistaken: RoundTripMismatch) -> RoundTripFailed:
    origin = origin_at(rendered, mistaken.character)
    return RoundTripFailed(
        f"the text at character {mistaken.character} of the rendered text {mistaken.reason}",
        message_index=origin.message_index if origin is not None and origin.message_index >= 0 else None,
        field=origin.field if origin is not None else "",
    )
