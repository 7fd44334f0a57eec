"""From a conversation to views: rendered text, message spans, kinds, and which turns each view trains.

This is the one door of the mask engine's rendering half; `sandbox.pool.Sandbox.render_views` is the same for templates
sent by clients. It is the reference: `replay` may answer in its place, and is checked against it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.errors import HistoryDropped, NoAssistantTurn, PreprocessError, UnknownRole
from turnloom.masks.domain.options import Mask, OnUnextendable, Options, TrainOn
from turnloom.masks.domain.rendered_text import Located, RenderedText, View
from turnloom.masks.template.added_token_text import AddedTokenFinder
from turnloom.masks.template.compiled import CompiledTemplate
from turnloom.masks.template.message_checks import KNOWN_ROLES, check_messages, check_no_repr
from turnloom.masks.template.prompts import Chat
from turnloom.masks.template.render import Settings, render
from turnloom.masks.template.shape import Signature, signature
from turnloom.masks.turns.generation_blocks import block_spans
from turnloom.masks.turns.message_spans import MessageSpanFinder, has_text
from turnloom.masks.turns.prefixes import EXACT_MESSAGES, Cut, Prefixes, ViewPlanner

#: Shapes of conversations remembered under one set of settings, a few kB each.
PLANS: Final = 1024
#: Sets of settings (template kwargs, dates, ...) remembered for one model.
ENGINES: Final = 16
#: The day of templates that ask for none.
_NO_DATE: Final = datetime.date(1970, 1, 1)


class ChatFormat:
    """How a model reads chats: its template, and the tokenizer's tokens as far as text goes. Build it once.

    Instances compare by identity: what has been proved about a template is kept beside them.
    """

    __slots__ = ("__weakref__", "_engines", "added_tokens", "control_tokens", "special_tokens", "template")

    def __init__(
        self, template: CompiledTemplate, special_tokens: Mapping[str, str], control_tokens: Mapping[str, bool]
    ) -> None:
        """Build the format of one model.

        Args:
            template: its chat template.
            special_tokens: bos_token, eos_token, ...: the variables a template gets.
            control_tokens: every added token's text -> whether the tokenizer calls it special.
        """
        self.template = template
        self.special_tokens = special_tokens
        self.control_tokens = control_tokens
        self.added_tokens = AddedTokenFinder(control_tokens)
        self._engines: BoundedCache[tuple[object, ...], Engine] = BoundedCache(ENGINES)

    def engine(self, options: Options) -> Engine:
        """Return what has been proved about this template under these options."""
        date = _date(options.date) if options.date else None
        if not self.template.uses_date:
            date = _NO_DATE
        elif date is None:
            date = datetime.datetime.now(datetime.UTC).date()
        # The order of keys inside a value counts: a template may print it.
        kwargs = json.dumps(sorted(options.chat_template_kwargs.items())) if options.chat_template_kwargs else ""
        key = (date, kwargs, options.generation_prefill, options.mask)
        engine = self._engines.get(key)
        if engine is None:
            settings = Settings(date, self.special_tokens, options.chat_template_kwargs)
            engine = self._engines[key] = Engine(settings, MessageSpanFinder(), ViewPlanner(), BoundedCache(PLANS))
        return engine

    def forget(self) -> None:
        """Drop what has been proved; it is proved again when it is needed."""
        self._engines.clear()


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was decided for one shape of conversation."""

    cuts: tuple[Cut, ...]
    fresh: frozenset[int]  #: turns whose bounds must be proved anew: their prompt is not what their neighbours tell


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """What has been proved about one template under one set of settings."""

    settings: Settings
    message_spans: MessageSpanFinder
    views: ViewPlanner
    plans: BoundedCache[tuple[object, ...], _Plan]


@dataclass(frozen=True, slots=True)
class Request:
    """One conversation to be rendered, and what is known of its shape."""

    messages: Sequence[Message]
    turns: Sequence[int]  #: indices of the assistant messages to be located
    others: Sequence[int]  #: indices of other messages to be located
    options: Options
    engine: Engine
    chat: Chat
    shapes: tuple[Signature, ...]  #: of all messages
    undated: tuple[str, ...]  #: the warning about a date that was not given
    key: tuple[object, ...]  #: of the shape

    @property
    def plan(self) -> _Plan | None:
        """What was decided for this shape; None: it is new."""
        return self.engine.plans.get(self.key)

    @property
    def settled(self) -> bool:
        """Whether the shape alone decides about views and turns, whatever the texts."""
        plan = self.plan
        return (
            plan is not None
            and not (plan.fresh or self.others or self.chat.tools is not None)
            and self.options.mask is Mask.REGIONS
        )

    def check(self) -> None:
        """Hold the options against what was decided for this shape.

        Raises:
            HistoryDropped: the template drops history and the options forbid it.
        """
        if self.plan is not None:
            _check_choice(self.plan.cuts, self.options)


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
    return rendered(request_for(conversation, options, chat_format, trained))


def request_for(
    conversation: Conversation, options: Options, chat_format: ChatFormat, trained: Collection[int] | None = None
) -> Request:
    """Check a conversation and look up what is known of its shape; arguments as for `render_views`.

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
    engine = chat_format.engine(options)
    shapes = tuple([signature(message, template.needles, template.mark) for message in messages])
    key = (_short(shapes), tuple(turns), tools is None or len(tools), _choice(options))
    chat = Chat(template, engine.settings, tools, chat_format.added_tokens, options.generation_prefill)
    return Request(messages, turns, others, options, engine, chat, shapes, _undated(options, chat_format), key)


def rendered(request: Request) -> list[View]:
    """Render and locate; what is decided for this shape of conversation is kept under its key.

    Raises:
        PreprocessError: one of the tree in errors.py, naming the message.
    """
    plan, messages, options = request.plan, request.messages, request.options
    fresh_turns = set(plan.fresh) if plan is not None else set()
    work = _Work(
        request.chat, request.engine, options.mask, _choice(options), request.shapes, fresh_turns, request.undated
    )
    cuts = _cuts(work, messages, request.turns) if plan is None else plan.cuts
    _check_choice(cuts, options)
    views = []
    for at, cut in enumerate(cuts):
        shown_before = cuts[at - 1].messages if at else 0
        others = tuple(index for index in request.others if shown_before <= index < cut.messages)
        view, begins = _view(work, messages, cut, others)
        if plan is None and (doubtful := _doubtful(work, messages, view, begins) - work.fresh):
            work.fresh.update(doubtful)
            proved, _ = _view(work, messages, cut, others)
            if proved == view:
                work.fresh.difference_update(doubtful)
            view = proved
        views.append(view)
    if plan is None:
        request.engine.plans[request.key] = _Plan(cuts, frozenset(work.fresh))
    return views


@dataclass(slots=True)
class _Work:
    """One conversation in progress."""

    chat: Chat
    engine: Engine
    mask: Mask
    choice: OnUnextendable
    shapes: tuple[Signature, ...]  #: of all messages
    fresh: set[int]  #: as in _Plan; grows while a plan is made
    warnings: tuple[str, ...]  #: about the request, not about a message

    def rendered(self, messages: Sequence[Message]) -> RenderedText:
        return render(messages, self.chat.tools, self.chat.template, self.chat.settings)

    def located(
        self, messages: Sequence[Message], shapes: Sequence[Signature], rendered: RenderedText, wanted: Collection[int]
    ) -> Located:
        if self.mask is Mask.REGIONS:
            return self.engine.message_spans.locate(self.chat, messages, shapes, rendered, wanted, self.fresh)
        return block_spans(messages, rendered, wanted, self.chat.control)

    def end_of_last(self, messages: Sequence[Message], rendered: RenderedText) -> int:
        last = len(messages) - 1
        template = self.chat.template
        shapes = [signature(message, template.needles, template.mark) for message in messages]
        return self.located(messages, shapes, rendered, (last,)).message_spans[-1].end


def _undated(options: Options, chat_format: ChatFormat) -> tuple[str, ...]:
    if options.date is not None or not chat_format.template.uses_date:
        return ()
    return ("the template prints the date and none was given: the same conversation has other tokens tomorrow",)


def _short(shapes: tuple[Signature, ...]) -> object:
    """A key for a conversation's shape that stays small when the conversation is long."""
    return shapes if len(shapes) <= EXACT_MESSAGES else hashlib.sha256(repr(shapes).encode()).digest()


def _choice(options: Options) -> OnUnextendable:
    """What to do where turns don't extend; all tokens of a text are trained as it stands."""
    if options.train_on is TrainOn.ALL_TOKENS:
        return OnUnextendable.AS_RENDERED
    return OnUnextendable.SPLIT if options.on_unextendable is OnUnextendable.ERROR else options.on_unextendable


def _cuts(work: _Work, messages: Sequence[Message], turns: Sequence[int]) -> tuple[Cut, ...]:
    if not turns or work.choice is OnUnextendable.AS_RENDERED:
        return (Cut(len(messages), tuple(turns)),)
    if work.choice is OnUnextendable.LAST:
        turns = turns[-1:]
    return work.engine.views.cuts(work.chat, messages, work.shapes, turns, Prefixes(work.rendered, work.end_of_last))


def _check_choice(cuts: Sequence[Cut], options: Options) -> None:
    if len(cuts) > 1 and options.on_unextendable is OnUnextendable.ERROR:
        raise HistoryDropped(
            "the template renders this turn differently once the conversation goes on; use on_unextendable split, last"
            " or as_rendered",
            message_index=cuts[0].trained[-1],
        )
    limit = options.max_examples_per_conversation
    if len(cuts) > limit:
        raise HistoryDropped(
            f"the template drops history, so this conversation needs {len(cuts)} examples, more than"
            f" max_examples_per_conversation {limit}; raise it, or use on_unextendable last or as_rendered",
            field="max_examples_per_conversation",
        )


def _view(
    work: _Work, messages: Sequence[Message], cut: Cut, others: Sequence[int]
) -> tuple[View, Sequence[tuple[int, int]]]:
    """The view, and (message index, first character) of the assistant turns located in it."""
    shown = messages[: cut.messages] if cut.messages < len(messages) else messages
    rendered = work.rendered(shown)
    check_no_repr(shown, rendered)
    trained = frozenset((*cut.trained, *others))
    located = work.located(shown, work.shapes[: cut.messages], rendered, trained)
    warnings = (*work.warnings, *_dropped(shown, rendered), *located.warnings)
    boundaries = tuple(begin for _, begin in located.begins)
    return View(rendered, located.message_spans, trained, cut.messages, warnings, boundaries), located.begins


def _doubtful(work: _Work, messages: Sequence[Message], view: View, begins: Sequence[tuple[int, int]]) -> set[int]:
    """The self-check on every new shape: turns that do not begin where the prompt before them ends.

    Such a turn may stand so in every conversation (then it has its warning), or its prompt is not what its
    neighbours tell; proving it anew shows which.
    """
    if work.mask is Mask.TEMPLATE:
        return set()
    if work.choice is OnUnextendable.AS_RENDERED or len(messages) > EXACT_MESSAGES:
        begins = begins[-1:]
    doubtful = set()
    for index, begin in begins:
        prompt = work.chat.text(messages[:index], prompt=True)
        if prompt is None or begin != len(prompt) or not view.rendered.text.startswith(prompt):
            doubtful.add(index)
    return doubtful


def _dropped(messages: Sequence[Message], rendered: RenderedText) -> tuple[str, ...]:
    """Warnings for messages of which nothing was printed."""
    printed = {origin.message_index for _, origin in rendered.runs if origin is not None}
    if len(printed) >= len(messages):
        return ()
    warnings = []
    for index, message in enumerate(messages):
        role = message.get("role")
        if index in printed or not has_text(message.get("content")):
            continue
        if role not in KNOWN_ROLES:
            raise UnknownRole(f"the template prints nothing of role {role!r}", message_index=index, field="role")
        if role != "assistant":
            warnings.append(f"messages[{index}]: the template prints nothing of this {role} message")
    return tuple(warnings)
