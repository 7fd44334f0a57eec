"""From a conversation to views: rendered text, regions, kinds, and which turns each view trains. Knows no tokenizer.

This is the one door of the mask engine's rendering half; `sandbox.Sandbox.lay_out` is the same for templates sent by
clients.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from services.preprocess.bounded import BoundedCache
from services.preprocess.chat import Chat
from services.preprocess.checks import KNOWN_ROLES, check_messages, check_no_repr
from services.preprocess.control_tokens import ControlTokens
from services.preprocess.conversation import Conversation, Message
from services.preprocess.errors import HistoryDropped, NoAssistantTurn, PreprocessError, TemplateRefused, UnknownRole
from services.preprocess.generation_blocks import block_regions
from services.preprocess.options import Mask, OnUnextendable, Options, TrainOn
from services.preprocess.regions import RegionFinder, has_text
from services.preprocess.rendered import Located, RenderedText, View
from services.preprocess.rendering import Settings, render
from services.preprocess.replay.compiling import Trial, compile_view
from services.preprocess.replay.recording import record
from services.preprocess.replay.store import Budget, Replays
from services.preprocess.replay.symbols import RefusedError, Tape
from services.preprocess.signatures import Signature, signature
from services.preprocess.templates import CompiledTemplate
from services.preprocess.views import EXACT_MESSAGES, Cut, Prefixes, ViewPlanner

if TYPE_CHECKING:
    from services.preprocess.lanes import Lane

#: Shapes of conversations remembered under one set of settings, a few kB each.
PLANS: Final = 1024
#: Sets of settings (template kwargs, dates, ...) remembered for one model.
ENGINES: Final = 16
#: Sets of options remembered under one set of settings.
LANES: Final = 4
#: The day of templates that ask for none.
_NO_DATE: Final = datetime.date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a model reads chats: its template, and the tokenizer's tokens as far as text goes. Build it once."""

    template: CompiledTemplate
    special_tokens: Mapping[str, str]  #: bos_token, eos_token, ...: the variables a template gets
    control_tokens: Mapping[str, bool]  #: every added token's text -> whether the tokenizer calls it special
    _control: ControlTokens = field(init=False, compare=False, repr=False)
    _engines: BoundedCache[tuple[object, ...], Engine] = field(init=False, compare=False, repr=False)
    _budget: Budget = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_control", ControlTokens(self.control_tokens))
        object.__setattr__(self, "_engines", BoundedCache(ENGINES))
        object.__setattr__(self, "_budget", Budget(self._engines.clear))

    def engine(self, options: Options) -> Engine:
        """What has been proved about this template under these options."""
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
            plans: BoundedCache[tuple[object, ...], _Plan] = BoundedCache(PLANS)
            replays: Replays[View] = Replays(self._budget)
            lanes: BoundedCache[object, Lane] = BoundedCache(LANES)
            engine = Engine(settings, RegionFinder(), ViewPlanner(), plans, replays, lanes, self._budget)
            self._engines[key] = engine
        return engine


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was decided for one shape of conversation."""

    cuts: tuple[Cut, ...]
    fresh: frozenset[int]  #: turns whose bounds must be proved anew: their prompt is not what their neighbours tell


@dataclass(frozen=True, slots=True)
class Engine:
    """What has been proved about one template under one set of settings."""

    settings: Settings
    regions: RegionFinder
    views: ViewPlanner
    plans: BoundedCache[tuple[object, ...], _Plan]
    replays: Replays[View]
    lanes: BoundedCache[object, Lane]  #: by the options that decide about drafts; filled in lanes.py
    budget: Budget  #: of the model's replays


@dataclass(frozen=True, slots=True)
class Laid:
    """A conversation laid out."""

    views: list[View]
    #: runs the template of a view on symbols; None where texts decided what a replay takes for constant
    trial: Callable[[View], Trial] | None


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise PreprocessError(f"date {text!r} is no ISO date such as 2026-01-31", field="date") from error


def lay_out(
    conversation: Conversation, options: Options, chat_format: ChatFormat, trained: Collection[int] | None = None
) -> list[View]:
    """Views of the conversation that train something, in order; `part` of an example is its view's position.

    Args:
        conversation: as sent.
        options: all but chat_template is honoured (which template it is, is the caller's choice).
        chat_format: the model's template and tokens.
        trained: message indices that the policy weighs; None: every assistant message.

    Raises:
        PreprocessError: one of the tree in errors.py, naming the message.
    """
    return lay_out_to_replay(conversation, options, chat_format, trained).views


def lay_out_to_replay(
    conversation: Conversation,
    options: Options,
    chat_format: ChatFormat,
    trained: Collection[int] | None = None,
    *,
    anew: bool = False,
) -> Laid:
    """The same, with what a replay of more than the views can be made of.

    Args:
        conversation: as for lay_out, and so the next three.
        options: see there.
        chat_format: see there.
        trained: see there.
        anew: render, even where the views could be replayed.

    Raises:
        PreprocessError: one of the tree in errors.py, naming the message.
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
    choice, undated = _choice(options), _undated(options, chat_format)
    key = (_short(shapes), tuple(turns), tools is None or len(tools), choice)
    plan = engine.plans.get(key)
    replayable = plan is not None and not (plan.fresh or others or tools is not None) and options.mask is Mask.REGIONS
    replay_key = (key, undated, engine.regions.prefills)
    chat = Chat(template, engine.settings, tools, chat_format._control, options.generation_prefill)
    trial = partial(_trial, chat, messages, engine.regions.prefills)
    if plan is not None and replayable and not anew:
        _check_choice(plan.cuts, options)
        replayed = engine.replays.replayed(replay_key, messages)
        if isinstance(replayed, list):
            return Laid(replayed, trial)
    work = _Work(chat, engine, options.mask, choice, shapes, set(), undated)
    proved = engine.regions.proved
    views = _laid_out(work, messages, turns, others, options, key)
    if not replayable or engine.regions.proved != proved:  # texts may have decided what a replay takes for constant
        return Laid(views, None)
    engine.replays.learn(replay_key, messages, views, lambda view: compile_view(trial(view), view))
    return Laid(views, trial)


def _trial(chat: Chat, messages: Sequence[Message], prefills: Sequence[str], view: View) -> Trial:
    """The view's render with symbols in the place of texts, where the template can be followed.

    Raises:
        RefusedError: it can't.
    """
    shown, tape = messages[: view.messages], Tape()
    if chat.text(shown) != view.rendered.text:
        raise RefusedError("the render differs from plain Jinja's")
    try:
        return Trial(tape, record(chat.template.source, shown, chat.settings, tape), messages, prefills)
    except TemplateRefused as refusal:
        raise RefusedError(refusal.message) from refusal


def _laid_out(
    work: _Work,
    messages: Sequence[Message],
    turns: Sequence[int],
    others: Sequence[int],
    options: Options,
    key: tuple[object, ...],
) -> list[View]:
    """Render and locate; what is decided for this shape of conversation is kept under the key."""
    plan = work.engine.plans.get(key)
    cuts = _cuts(work, messages, turns) if plan is None else plan.cuts
    _check_choice(cuts, options)
    if plan is not None:
        work.fresh.update(plan.fresh)
    views = []
    for at, cut in enumerate(cuts):
        shown_before = cuts[at - 1].messages if at else 0
        fresh = tuple(index for index in others if shown_before <= index < cut.messages)
        view, begins = _view(work, messages, cut, fresh)
        if plan is None and (doubtful := _doubtful(work, messages, view, begins) - work.fresh):
            work.fresh.update(doubtful)
            proved, _ = _view(work, messages, cut, fresh)
            if proved == view:
                work.fresh.difference_update(doubtful)
            view = proved
        views.append(view)
    if plan is None:
        work.engine.plans[key] = _Plan(cuts, frozenset(work.fresh))
    return views


@dataclass(frozen=True, slots=True)
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
            return self.engine.regions.locate(self.chat, messages, shapes, rendered, wanted, self.fresh)
        return block_regions(messages, rendered, wanted, self.chat.control)

    def end_of_last(self, messages: Sequence[Message], rendered: RenderedText) -> int:
        last = len(messages) - 1
        template = self.chat.template
        shapes = [signature(message, template.needles, template.mark) for message in messages]
        return self.located(messages, shapes, rendered, (last,)).regions[-1].end


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
    return View(rendered, located.regions, trained, cut.messages, warnings, boundaries), located.begins


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
