"""From a conversation to views: rendered text, regions, kinds, and which turns each view trains. Knows no tokenizer.

This is the one door of the mask engine's rendering half; `sandbox.Sandbox.lay_out` is the same for templates sent by
clients.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from services.preprocess.bounded import BoundedCache
from services.preprocess.checks import KNOWN_ROLES, check_messages, check_no_repr
from services.preprocess.control_tokens import ControlTokens
from services.preprocess.conversation import Conversation, Message
from services.preprocess.errors import NoAssistantTurn, PreprocessError, UnknownRole
from services.preprocess.generation_blocks import block_regions
from services.preprocess.options import Mask, OnUnextendable, Options, TrainOn
from services.preprocess.regions import RegionFinder, has_text
from services.preprocess.rendered import Region, RenderedText, View
from services.preprocess.rendering import Settings, render
from services.preprocess.templates import CompiledTemplate
from services.preprocess.turn_markers import Chat
from services.preprocess.views import Cut, Prefixes, ViewPlanner


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a model reads chats: its template, and the tokenizer's tokens as far as text goes. Build it once."""

    template: CompiledTemplate
    special_tokens: Mapping[str, str]  #: bos_token, eos_token, ...: the variables a template gets
    control_tokens: Mapping[str, bool]  #: every added token's text -> whether the tokenizer calls it special
    _control: ControlTokens = field(init=False, compare=False, repr=False)
    _engines: BoundedCache[tuple[object, ...], _Engine] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_control", ControlTokens(self.control_tokens))
        object.__setattr__(self, "_engines", BoundedCache(64))

    def engine(self, options: Options) -> _Engine:
        """What has been proved about this template under these options."""
        date = options.date or datetime.datetime.now(datetime.UTC).date().isoformat()
        kwargs = json.dumps(options.chat_template_kwargs, sort_keys=True) if options.chat_template_kwargs else ""
        key = (date if self.template.uses_date else "", kwargs, options.generation_prefill, options.mask)
        engine = self._engines.get(key)
        if engine is None:
            settings = Settings(_date(date), self.special_tokens, options.chat_template_kwargs)
            engine = _Engine(settings, RegionFinder(), ViewPlanner())
            self._engines[key] = engine
        return engine


@dataclass(frozen=True, slots=True)
class _Engine:
    settings: Settings
    regions: RegionFinder
    views: ViewPlanner


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
    messages = conversation.messages
    check_messages(messages)
    turns = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
    if trained is not None:
        turns = [index for index in turns if index in trained]
    if not turns and not trained:
        raise NoAssistantTurn("no assistant message is to be trained; add a reply or choose another train_on")
    engine = chat_format.engine(options)
    chat = Chat(chat_format.template, engine.settings, conversation.tools, chat_format._control, options.generation_prefill)
    work = _Work(chat, engine, options.mask)
    cuts = _cuts(work, messages, turns, options)
    others = [index for index in trained or () if index not in turns]
    return [_view(work, messages, cut, others, cuts[at - 1].messages if at else 0) for at, cut in enumerate(cuts)]


@dataclass(frozen=True, slots=True)
class _Work:
    """One conversation in progress."""

    chat: Chat
    engine: _Engine
    mask: Mask

    def rendered(self, messages: Sequence[Message]) -> RenderedText:
        return render(messages, self.chat.tools, self.chat.template, self.chat.settings)

    def regions(
        self, messages: Sequence[Message], rendered: RenderedText, wanted: Collection[int]
    ) -> tuple[tuple[Region, ...], tuple[str, ...]]:
        if self.mask is Mask.REGIONS:
            return self.engine.regions.locate(self.chat, messages, rendered, wanted)
        return block_regions(messages, rendered, wanted, self.chat.control), ()

    def end_of_last(self, messages: Sequence[Message], rendered: RenderedText) -> int:
        regions, _ = self.regions(messages, rendered, (len(messages) - 1,))
        return regions[-1].end


def _cuts(work: _Work, messages: Sequence[Message], turns: Sequence[int], options: Options) -> tuple[Cut, ...]:
    whole = len(messages)
    if not turns or options.train_on is TrainOn.ALL_TOKENS:
        return (Cut(whole, tuple(turns)),)
    if len(turns) == 1 and turns[0] + 1 == whole and options.on_unextendable is not OnUnextendable.ERROR:
        return (Cut(whole, tuple(turns)),)
    prefixes = Prefixes(work.rendered, work.end_of_last)
    limit = options.max_examples_per_conversation
    return work.engine.views.plan(work.chat, messages, turns, prefixes, options.on_unextendable, limit)


def _view(work: _Work, messages: Sequence[Message], cut: Cut, others: Sequence[int], shown_before: int) -> View:
    shown = messages[: cut.messages] if cut.messages < len(messages) else messages
    rendered = work.rendered(shown)
    check_no_repr(shown, rendered)
    trained = frozenset(cut.trained) | {index for index in others if shown_before <= index < cut.messages}
    regions, warnings = work.regions(shown, rendered, trained)
    return View(rendered, regions, trained, cut.messages, (*_dropped(shown, rendered), *warnings))


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
