"""From a conversation to views: rendered text, message spans, kinds, and which turns each view trains.

This is the only entry to the mask engine's rendering half; `sandbox.pool.Sandbox.render_views` is the same for
templates sent by clients. It is the reference: `replay` may answer in its place, and is checked against it. Nothing is
carried over from one conversation to another.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.errors import (
    HistoryDropped,
    LayoutError,
    NoAssistantTurn,
    PreprocessError,
    TemplateRefused,
    UnknownRole,
)
from turnloom.masks.domain.options import Mask, NextHeaderStop, OnUnextendable, Options, TrainOn
from turnloom.masks.domain.rendered_text import Located, RenderedText, View
from turnloom.masks.template.added_token_text import AddedTokenFinder
from turnloom.masks.template.compiled import CompiledTemplate
from turnloom.masks.template.message_checks import KNOWN_ROLES, check_messages, check_no_repr
from turnloom.masks.template.prompts import Chat, Known
from turnloom.masks.template.render import Renders, Settings
from turnloom.masks.template.shape import Signature, signature
from turnloom.masks.turns.advice import way_out, with_advice
from turnloom.masks.turns.bounds_by_render import TurnProver
from turnloom.masks.turns.coverage import UntrainedMessages, unread_warnings
from turnloom.masks.turns.generation_blocks import block_spans
from turnloom.masks.turns.message_spans import MessageSpanFinder
from turnloom.masks.turns.next_header import HeaderRule, ended_by_header, final_stop, unclosed, without_unclosed
from turnloom.masks.turns.prefixes import EXACT_MESSAGES, Cut, Prefixes, cuts
from turnloom.masks.turns.refusal_place import RefusedRequest, placed
from turnloom.masks.turns.span_parts import has_text

#: Sets of settings (template kwargs, dates, ...) remembered for one model.
ENGINES: Final = 16
#: The day of templates that ask for none.
_NO_DATE: Final = datetime.date(1970, 1, 1)


class ChatFormat:
    """How a model reads chats: its template, and the tokenizer's tokens as far as text goes. Build it once.

    Instances compare by identity: what has been proved about a template is kept beside them.
    """

    __slots__ = (
        "__weakref__", "_engines", "added_tokens", "control_tokens", "special_tokens", "stop_tokens", "template",
    )  # fmt: skip

    def __init__(
        self,
        template: CompiledTemplate,
        special_tokens: Mapping[str, str],
        control_tokens: Mapping[str, bool],
        stop_tokens: Collection[str] = (),
    ) -> None:
        """Build the format of one model.

        Args:
            template: its chat template.
            special_tokens: bos_token, eos_token, ...: the variables a template gets.
            control_tokens: every added token's text -> whether the tokenizer calls it special.
            stop_tokens: texts of the tokens at which the model's generation config stops; empty: not known.
        """
        self.stop_tokens = frozenset(stop_tokens)
        self.template = template
        self.special_tokens = special_tokens
        self.control_tokens = control_tokens
        self.added_tokens = AddedTokenFinder(control_tokens)
        self._engines: BoundedCache[tuple[object, ...], Engine] = BoundedCache(ENGINES)

    def engine(self, options: Options) -> Engine:
        """Return the settings under these options; what is kept for them is kept under their identity."""
        date = _date(options.date) if options.date else None
        if not self.template.uses_date:
            date = _NO_DATE
        elif date is None:
            date = datetime.datetime.now(datetime.UTC).date()
        # A template may print a value: the order of its keys counts, and whether it is a list or a tuple.
        kwargs = repr(sorted(options.chat_template_kwargs.items())) if options.chat_template_kwargs else ""
        key = (date, kwargs, options.generation_prefill, options.mask)
        engine = self._engines.get(key)
        if engine is None:
            # A copy: whoever gave them may change them.
            settings = Settings(date, self.special_tokens, deepcopy(options.chat_template_kwargs))
            engine = self._engines[key] = Engine(settings)
        return engine

    def forget(self) -> None:
        """Drop the settings, and with them what is kept under their identity."""
        self._engines.clear()


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """One template under one set of settings; compares by identity."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to be rendered."""

    messages: Sequence[Message]
    turns: Sequence[int]  #: indices of the assistant messages to be located
    others: Sequence[int]  #: indices of other messages to be located
    options: Options
    chat: Chat
    settings: Settings  #: of the chat's renders
    undated: tuple[str, ...]  #: the warning about a date that was not given
    header_rule: HeaderRule


@dataclass(frozen=True, slots=True)
class Rendered:
    """The views of one conversation."""

    views: list[View]
    prefills: tuple[str, ...]  #: of prompts that reach into replies: how far a text goes along decides where it begins


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise PreprocessError(f"date {text!r} is no ISO date such as 2026-01-31", field="date") from error


def render_views(
    conversation: Conversation, options: Options, chat_format: ChatFormat, trained: Collection[int] | None = None
) -> list[View]:
    """Render the views of the conversation that train something, in order; `part` of an example is its view's position.

    Args:
        conversation: as sent.
        options: all but chat_template is honoured (which template it is, is the caller's choice).
        chat_format: the model's template and tokens.
        trained: message indices that the policy weighs; None: every assistant message.

    Raises:
        PreprocessError: one of the tree in errors.py, naming the message.
    """
    return rendered(request_for(conversation, options, chat_format, trained)).views


def request_for(
    conversation: Conversation, options: Options, chat_format: ChatFormat, trained: Collection[int] | None = None
) -> Request:
    """Check a conversation; arguments as for `render_views`.

    Raises:
        PreprocessError: a message is malformed, or nothing is to be trained.
    """
    messages, tools, template = conversation.messages, conversation.tools, chat_format.template
    check_messages(messages, template.words)
    turns = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    others: list[int] = []
    if trained is not None:
        others = [index for index in trained if index not in turns]
        turns = [index for index in turns if index in trained]
    if not turns and not trained:
        raise NoAssistantTurn("no assistant message is to be trained; add a reply or choose another train_on")
    settings = chat_format.engine(options).settings
    renders = Renders(template, settings, tools)
    chat = Chat(template, renders, tools, chat_format.added_tokens, options.generation_prefill)
    tokens, finder = chat_format.control_tokens, chat_format.added_tokens
    # The template's own blocks are honoured as they stand.
    option = NextHeaderStop.NEVER if options.mask is Mask.TEMPLATE else options.next_header_stop
    rule = HeaderRule(option, tokens, finder, chat_format.stop_tokens)
    return Request(messages, turns, others, options, chat, settings, _undated(options, chat_format), rule)


def rendered(request: Request) -> Rendered:
    """Render and locate.

    Raises:
        PreprocessError: one of the tree in errors.py, naming the message; a way out is named where there is one.
    """
    try:
        return _rendered(request)
    except (LayoutError, TemplateRefused) as error:
        refusal: PreprocessError = error
        if isinstance(error, TemplateRefused):
            chat = request.chat
            asked = RefusedRequest(request.messages, chat.tools, chat.template, request.settings)
            refusal = placed(error, asked)
        advice = way_out(request.chat.template, request.options, request.settings, partial(_works, request))
        raise with_advice(refusal, advice) from None


def _rendered(request: Request) -> Rendered:
    work = _Work(request)
    found = _cuts(work, request.turns)
    check_choice(len(found), max(found[0].trained, default=0), request.options)
    views = []
    for at, cut in enumerate(found):
        shown_before = found[at - 1].messages if at else 0
        others = tuple(index for index in request.others if shown_before <= index < cut.messages)
        view, begins = _view(work, cut, others)
        if work.long and (doubtful := _doubtful(work, view, begins) - work.fresh):
            work.fresh.update(doubtful)
            view, _ = _view(work, cut, others)
        views.append(view)
    return Rendered(views, tuple(sorted(work.finder.prefills)))


def _works(request: Request, options: Options, settings: Settings) -> bool:
    """Whether a conversation is rendered under other options and settings."""
    chat = request.chat
    changed = replace(chat, renders=Renders(chat.template, settings, chat.tools), known=Known())
    try:
        _rendered(replace(request, options=options, chat=changed, settings=settings))
    except PreprocessError:
        return False
    return True


class _Work:
    """One conversation in progress."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.long = len(request.messages) > EXACT_MESSAGES  #: neighbours decide about turns, too
        self.choice = choice_of(request.options)
        self.regions = request.options.mask is Mask.REGIONS
        self.prover = TurnProver(request.chat, request.messages, keep=not self.long)
        self.finder = MessageSpanFinder(self.prover, self.shapes() if self.long else None)
        self.untrained = UntrainedMessages()
        self.fresh: set[int] = set()  #: turns whose prompt is not what their neighbours tell

    def shapes(self) -> Sequence[Signature]:
        template = self.request.chat.template
        return [signature(message, template.needles, template.mark) for message in self.request.messages]

    def located(self, rendered: RenderedText, shown: int, wanted: Collection[int]) -> Located:
        if self.regions:
            return self.finder.locate(rendered, shown, wanted, self.fresh)
        return block_spans(self.request.messages[:shown], rendered, wanted, self.request.chat.control)

    def prefixes(self, messages: Sequence[Message]) -> Prefixes:
        chat = self.request.chat
        prover = self.prover if messages is self.request.messages else TurnProver(chat, messages)

        def end(index: int) -> int:
            if self.regions:
                return prover.sampled(index)[1].end
            found = block_spans(messages[: index + 1], prover.shown(index + 1), (index,), chat.control)
            return found.message_spans[-1].end

        return Prefixes(messages, prover.whole if self.regions else prover.shown, end)


def _undated(options: Options, chat_format: ChatFormat) -> tuple[str, ...]:
    if options.date is not None or not chat_format.template.uses_date:
        return ()
    return ("the template prints the date and none was given: the same conversation has other tokens tomorrow",)


def choice_of(options: Options) -> OnUnextendable:
    """Return what to do where turns don't extend: AS_RENDERED where all tokens of a text are trained."""
    if options.train_on is TrainOn.ALL_TOKENS:
        return OnUnextendable.AS_RENDERED
    return OnUnextendable.SPLIT if options.on_unextendable is OnUnextendable.ERROR else options.on_unextendable


def _cuts(work: _Work, turns: Sequence[int]) -> tuple[Cut, ...]:
    messages = work.request.messages
    if not turns or work.choice is OnUnextendable.AS_RENDERED:
        return (Cut(len(messages), tuple(turns)),)
    if work.choice is OnUnextendable.LAST:
        turns = turns[-1:]
    return cuts(work.prefixes(messages), turns, work.shapes, work.prefixes)


def check_choice(views: int, first: int, options: Options) -> None:
    """Check the options against what the template makes of a conversation.

    Args:
        views: how many it takes.
        first: the last turn that the first of them trains.
        options: what is allowed.

    Raises:
        HistoryDropped: the template drops history and the options forbid it.
    """
    if views > 1 and options.on_unextendable is OnUnextendable.ERROR:
        raise HistoryDropped(
            "the template renders this turn differently once the conversation goes on; use on_unextendable split, last"
            " or as_rendered",
            message_index=first,
        )
    limit = options.max_examples_per_conversation
    if views > limit:
        raise HistoryDropped(
            f"the template drops history, so this conversation needs {views} examples, more than"
            f" max_examples_per_conversation {limit}; raise it, or use on_unextendable last or as_rendered",
            field="max_examples_per_conversation",
        )


def _view(work: _Work, cut: Cut, others: Sequence[int]) -> tuple[View, Sequence[tuple[int, int]]]:
    """Return the view, and (message index, first character) of the assistant turns located in it."""
    shown = work.request.messages[: cut.messages]
    last = cut.messages - 1
    sampled = last in cut.trained and work.choice is not OnUnextendable.AS_RENDERED and work.regions
    rendered = (work.prover.whole if sampled else work.prover.shown)(cut.messages)
    check_no_repr(shown, rendered)
    trained = frozenset((*cut.trained, *others))
    rule = work.request.header_rule
    located = ended_by_header(work.located(rendered, cut.messages, trained), shown, rendered, rule)
    proved = trained if work.request.options.mask is Mask.REGIONS else ()
    chat = work.request.chat
    unread = unread_warnings(shown, chat.tools, rendered, chat.template.names)
    lost = [*unread, *work.untrained.warnings(shown, rendered, proved)]
    warnings = (*work.request.undated, *dropped(shown, rendered, proved), *lost, *located.warnings)
    boundaries = tuple(begin for _, begin in located.begins)
    spans = located.message_spans
    following = work.request.messages[cut.messages : cut.messages + 1]
    stop = final_stop(work.request.chat, shown, rendered, spans, rule, following)
    if stop:
        warnings = without_unclosed(warnings, spans[-1].message_index)
        if not (following or work.request.options.ensure_final_stop):
            warnings, stop = (*warnings, unclosed(spans[-1].message_index, stop)), ""
    return View(rendered, spans, trained, cut.messages, warnings, boundaries, stop), located.begins


def _doubtful(work: _Work, view: View, begins: Sequence[tuple[int, int]]) -> set[int]:
    """Check on long conversations that the last turn begins where the prompt before it ends; return it if not.

    Such a turn may stand so in every conversation (then it has its warning). Or its prompt is not what its neighbours
    show. Proving it again shows which.
    """
    if not work.regions:
        return set()
    doubtful = set()
    for index, begin in begins[-1:]:
        prompt = work.request.chat.text(work.request.messages[:index], prompt=True)
        if prompt is None or begin != len(prompt) or not view.rendered.text.startswith(prompt):
            doubtful.add(index)
    return doubtful


def dropped(messages: Sequence[Message], rendered: RenderedText, proved: Collection[int]) -> tuple[str, ...]:
    """Return warnings for messages of which nothing was printed, except those whose turns are proved to show them."""
    printed = {origin.message_index for _, origin in rendered.runs if origin is not None}
    if len(printed) >= len(messages):
        return ()
    warnings = []
    for index, message in enumerate(messages):
        role = message.get("role")
        if index in printed or not (has_text(message.get("content")) or message.get("tool_calls")):
            continue
        if role not in KNOWN_ROLES:
            raise UnknownRole(f"the template prints nothing of role {role!r}", message_index=index, field="role")
        if role != "assistant" or index not in proved:
            warnings.append(f"messages[{index}]: the template prints nothing of this {role} message")
    return tuple(warnings)
