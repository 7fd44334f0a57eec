"""The fast path: weighted texts of conversations whose shape is known, in one step from their texts.

The reference path (turns, rows) does not import it. A replay treats positions as constants plus lengths of texts. It
has a guard for every decision made by looking at a text. Where a guard answers otherwise, the reference is used. Views
are replayed for every set of options; cuts and weights as well, where no message spells a control token.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final, NamedTuple, cast

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import Conversation, Message
from turnloom.masks.domain.errors import TemplateRefused
from turnloom.masks.domain.options import ControlTokens, Mask, Options, Tokenization
from turnloom.masks.domain.rendered_text import View
from turnloom.masks.model import Model
from turnloom.masks.replay.cache import LONGEST, Budget, Miss, Replays
from turnloom.masks.replay.compile import (
    Layout,
    Replay,
    Trial,
    compile_view,
    compiled,
    guarded_layout,
    source_of,
    view_lines,
)
from turnloom.masks.replay.record import record
from turnloom.masks.replay.recording import Recording
from turnloom.masks.replay.symbols import RefusedError
from turnloom.masks.rows.weigh import WeightedText, planned, trained_of, weighted_text_of
from turnloom.masks.rows.weights import MessageWeights
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.render import Asked
from turnloom.masks.template.shape import signature
from turnloom.masks.tokenizer.segments import TEXT, Segments
from turnloom.masks.turns.views import (
    ENGINES,
    ChatFormat,
    Engine,
    Rendered,
    Request,
    check_choice,
    choice_of,
    rendered,
    request_for,
)

#: Sets of options remembered under one set of settings.
PATHS: Final = 4
#: Shapes of conversations whose weighted texts are replayed, some 10 kB each.
SHAPES: Final = 256
_NAMES: Final[dict[str, object]] = {kind.__name__: kind for kind in (WeightedText, Segments, partial)}


class _Memory:
    """The replays kept for one chat format, and their shared budget; threads may share it."""

    def __init__(self) -> None:
        self.views: BoundedCache[Engine, Replays[View]] = BoundedCache(ENGINES)
        self.paths: BoundedCache[object, FastPath] = BoundedCache(ENGINES * PATHS)
        self.budget = Budget(self._forget)

    def _forget(self) -> None:
        self.views.clear()
        self.paths.clear()


_MEMORIES: Final[weakref.WeakKeyDictionary[ChatFormat, _Memory]] = weakref.WeakKeyDictionary()
_MEMORIES_LOCK: Final = threading.Lock()


def memory_of(chat_format: ChatFormat) -> _Memory:
    """Return the replays of a chat format; they are freed with it."""
    with _MEMORIES_LOCK:
        return _MEMORIES.setdefault(chat_format, _Memory())


def view_replays(chat_format: ChatFormat, options: Options) -> Replays[View]:
    """Return the replays of views under one set of options."""
    memory, engine = memory_of(chat_format), chat_format.engine(options)
    replays = memory.views.get(engine)
    if replays is None:
        replays = memory.views[engine] = Replays(memory.budget)
    return replays


class Views(NamedTuple):
    """The views of one conversation, and how to follow the template through one of them."""

    views: list[View]
    #: runs the template of a view on symbols; None where texts may decide what a replay takes for constant
    trial: Callable[[View], Trial] | None


def replay_source(template: str, messages: Sequence[Message]) -> str:
    """Show the replay of a conversation's first view as Python source, for a look at what is generated.

    M is the list of messages; K0, K1, ... are constants; v0, v1, ... texts; n0, n1, ... their lengths, and p0, p1, ...
    the positions behind them. Where a guard returns None, the reference renders.

    >>> template = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}"
    >>> messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    >>> print(replay_source(template, messages))  # doctest: +NORMALIZE_WHITESPACE
    def replay(M):
     try:
      v0 = M[0][K0]
      v1 = M[1][K0]
      v2 = v0.strip(K1)
      v3 = v1.strip(K1)
      if not (v2): return None
      if not (v3): return None
      if (v2.isspace()): return None
      if (v3.isspace()): return None
      n0 = len(v2)
      p0 = 6 + n0
      n1 = len(v3)
      p1 = p0 + 14 + n1
      return View(RenderedText(''.join((K2, v2, K3, v3, K4, )), ((6, K1), (n0, K5), (14, K1), (n1, K6), (3, K1), ), ()),
        (MessageSpan(1, K10, p0 + 3, p1, p1 + 3, p1 + 3, K11,
          (Part(p0 + 3, p0 + 14, K7), Part(p0 + 14, p1, K8), Part(p1, p1 + 3, K9), )), ),
        K12, 2, K13, (p0 + 3, ), K14)
     except Exception: return None
    <BLANKLINE>

    Raises:
        RefusedError: the template can't be followed.
    """
    chat_format = ChatFormat(compile_template(template), {}, {})
    request = request_for(Conversation(list(messages)), Options(date="2026-01-01"), chat_format)
    made = rendered(request)
    return source_of(*view_lines(_Followed(request, made).trial(made.views[0]), made.views[0]))


def replayed_views(
    conversation: Conversation, options: Options, chat_format: ChatFormat, trained: Collection[int] | None = None
) -> list[View]:
    """Return what `render_views` returns, from a replay where there is one; arguments and errors as there."""
    return _views(conversation, options, chat_format, trained).views


def _views(
    conversation: Conversation,
    options: Options,
    chat_format: ChatFormat,
    trained: Collection[int] | None,
    *,
    check: bool = False,
) -> Views:
    """Replay the views, or render them; with `check`, render even where there is a replay."""
    request = request_for(conversation, options, chat_format, trained)
    messages, template = request.messages, chat_format.template
    if request.others or conversation.tools is not None or options.mask is Mask.TEMPLATE or len(messages) > LONGEST:
        return Views(rendered(request).views, None)
    replays = view_replays(chat_format, options)
    shapes = tuple([signature(message, template.needles, template.mark) for message in messages])
    ends = options.next_header_stop, options.ensure_final_stop
    key = (shapes, tuple(request.turns), choice_of(options), request.undated, ends)
    found = Miss.CHECK if check else replays.replayed(key, messages)
    if isinstance(found, list):
        check_choice(len(found), max(found[0].trained, default=0), options)
        return Views(found, _Followed(request).trial)
    made = rendered(request)
    followed = _Followed(request, made)
    if replays.due(key, messages):
        replays.learn(key, messages, made.views, lambda view: compile_view(followed.trial(view), view))
    return Views(made.views, followed.trial)


class _Followed:
    """One conversation whose renders are traced with symbols in place of texts."""

    def __init__(self, request: Request, made: Rendered | None = None) -> None:
        """Take the rendered views; None: render on first use."""
        self._request = request
        self._made = made
        self._settings = request.settings

    def trial(self, view: View) -> Trial:
        """Follow the template through every render that decided about the views, and through that of one of them.

        So every comparison with a text becomes a guard: in the views, and where their turns were located.

        Raises:
            RefusedError: it can't be followed.
        """
        if self._made is None:
            self._made = rendered(self._request)
        chat, messages, recording = self._request.chat, self._request.messages, Recording()
        shown, source = messages[: view.messages], chat.template.source
        if chat.text(shown) != view.rendered.text:
            raise RefusedError("the render differs from plain Jinja's")
        try:
            atoms = record(source, messages, Asked(shown, prompt=False, kwargs={}), self._settings, recording)
        except TemplateRefused as refusal:
            raise RefusedError(refusal.message) from refusal
        for asked in chat.renders.asked:
            with suppress(TemplateRefused):  # there, too: the guards before it are the same
                record(source, messages, asked, self._settings, recording)
        return Trial(recording, atoms, messages, self._made.prefills)


@dataclass(frozen=True, slots=True)
class FastPath:
    """Weighted texts under one set of options: from a replay where there is one, else from the reference.

    One in SHADOW replays is compared with the reference, for as long as the process lives.
    """

    engine: Engine
    replays: Replays[WeightedText] | None  #: None: these options leave too much to each text
    plans: BoundedCache[object, MessageWeights]  #: by the key of replays

    def weighted_texts(
        self, conversation: Conversation, options: Options, model: Model
    ) -> tuple[MessageWeights, list[WeightedText]]:
        """Return what `planned` and `weighted_texts_of` return.

        Raises:
            PreprocessError: whatever is wrong with this conversation under these options.
        """
        messages, replays = conversation.messages, self.replays
        if replays is None or conversation.tools is not None or not 0 < len(messages) <= LONGEST:
            plan, views = _planned_views(conversation, options, model)
            return plan, [weighted_text_of(view, plan, options, model) for view in views.views]
        template = model.chat_format.template
        needles, mark = template.needles, template.mark
        shapes = tuple([signature(message, needles, mark) for message in messages])
        key = (shapes, tuple(conversation.training))
        known = self.plans.get(key)
        found: list[WeightedText] | Miss = Miss.UNKNOWN
        if known is not None:
            found = replays.replayed(key, messages)
            if isinstance(found, list):
                return known, found
        plan, views = _planned_views(conversation, options, model, check=found is Miss.CHECK)
        weighted_texts = [weighted_text_of(view, plan, options, model) for view in views.views]
        if views.trial is not None and replays.due(key, messages) and not _spell_control_tokens(messages, model):
            self.plans[key] = plan
            again = partial(_view_again, options, model, plan)
            replays.learn(key, messages, weighted_texts, partial(_replay, views, messages, again, model))
        return plan, weighted_texts


def _planned_views(
    conversation: Conversation, options: Options, model: Model, *, check: bool = False
) -> tuple[MessageWeights, Views]:
    plan = planned(conversation, options, model)
    return plan, _views(conversation, options, model.chat_format, trained_of(plan, options), check=check)


def fast_path_of(options: Options, model: Model) -> FastPath | None:
    """Return the fast path of these options, None for a client's own template; ask once for a batch."""
    if options.chat_template is not None:
        return None
    memory, engine = memory_of(model.chat_format), model.chat_format.engine(options)
    # The engine stands for what it was made of.
    key = (engine, replace(options, max_length=None, chat_template_kwargs=cast("dict[str, str]", ())))
    path = memory.paths.get(key)
    if path is None:
        replays = Replays[WeightedText](memory.budget, SHAPES) if _weights_follow_shape(options, model) else None
        path = memory.paths[key] = FastPath(engine, replays, BoundedCache(SHAPES))
    return path


def _weights_follow_shape(options: Options, model: Model) -> bool:
    """Whether cuts and weights lie at a constant plus lengths of texts, whatever the texts."""
    return (
        options.tokenization is Tokenization.EXACT
        and options.control_tokens is not ControlTokens.ALLOW
        and options.mask is Mask.REGIONS
        and not options.ensure_final_stop
        and model.vocabulary.table.plain  # else what is a control token may depend on its neighbours
    )


def _spell_control_tokens(messages: Sequence[Message], model: Model) -> bool:
    """Whether a text spells one; the shape of such a conversation is learned from another."""
    pattern = model.vocabulary.table.pattern
    texts = (value for message in messages for value in message.values() if isinstance(value, str))
    return pattern is not None and any(pattern.search(text) for text in texts)


def _view_again(options: Options, model: Model, plan: MessageWeights, part: int, messages: Sequence[Message]) -> View:
    """Make the view of a weighted text that came without one."""
    return _views(Conversation(messages), options, model.chat_format, trained_of(plan, options)).views[part]


def _replay(
    views: Views,
    messages: Sequence[Message],
    again: Callable[[int, Sequence[Message]], View],
    model: Model,
    weighted: WeightedText,
) -> Replay[WeightedText]:
    """Compile the weighted text to a function of texts.

    Args:
        views: of the conversation that it is made of.
        messages: its messages.
        again: makes the view of a position among the weighted texts, on demand.
        model: the model.
        weighted: one of the weighted texts.

    Raises:
        RefusedError: it can't be replayed.
    """
    view, segments = weighted.view, weighted.segments
    assert views.trial is not None, "asked for only where there is one"
    assert segments is not None, "replayed under exact tokenization only"
    trial = views.trial(view)
    recording, layout = trial.recording, guarded_layout(trial, view)
    lines = [*recording.lines, *layout.lines]
    if model.vocabulary.table.pattern is not None:
        search = recording.constant(model.vocabulary.table.pattern.search)
        lines += [f"if {search}({author}) is not None: return None" for author in _authors(layout)]
    lines.append(f"t = {layout.text_source()}")
    starts = "".join(f"{layout.place(start)}, " for start in segments.starts)
    spans = "".join(
        f"({layout.place(start)}, {layout.place(end)}, {recording.constant(weight)}), "
        for start, end, weight in weighted.spans
    )
    fixed = {"SLOTS": segments.slots, "PREFIXED": segments.prefixed, "NONE": [], "SPANS": _in_slots(weighted, segments)}
    part = views.views.index(view)
    cut = f"Segments(t, t.encode(), [{starts}], SLOTS, [{_texts(layout, segments)}], PREFIXED, NONE)"
    warnings = recording.constant(tuple(weighted.warnings))
    result = f"WeightedText(partial(VIEW, {part}, M), [{spans}], {cut}, {warnings}, SPANS)"
    replay = cast(
        "Replay[WeightedText]", compiled(lines, result, {**_NAMES, **recording.constants, **fixed, "VIEW": again})
    )
    if replay(messages) is None:
        raise RefusedError("texts of one message spell a control token together")
    return replay


def _authors(layout: Layout) -> list[str]:
    """Return each stretch of one message's text as an expression: no control token spans two authors."""
    stretches = []
    for author, atoms in groupby(layout.shown, lambda atom: None if atom[2] is None else atom[2].message_index):
        if author is not None:
            stretches.append(" + ".join(name or layout.recording.constant(text) for name, text, _ in atoms))
    return stretches


def _texts(layout: Layout, segments: Segments) -> str:
    ends = [*segments.starts, len(segments.whole)][1:]  # a view that prints nothing has no slot
    bounds = zip(segments.slots, segments.starts, ends, strict=True)
    return "".join(f"{layout.slice_source('t', start, end)}, " for slot, start, end in bounds if slot == TEXT)


def _in_slots(weighted: WeightedText, segments: Segments) -> Sequence[tuple[int, int, float]] | None:
    """Return the weighted spans counted in slots; None where one ends inside a piece, so that its tokens decide."""
    slot_at = {start: slot for slot, start in enumerate(segments.starts)} | {len(segments.whole): len(segments.starts)}
    if not all(start in slot_at and end in slot_at for start, end, _ in weighted.spans):
        return None
    return [(slot_at[start], slot_at[end], weight) for start, end, weight in weighted.spans]
