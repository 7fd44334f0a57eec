"""Drafts of plain conversations in one step, from their texts: a view's replay that cuts and weighs as well. No tokens.

What a view's replay takes for constant (replay/compiling.py), and no control token spelled by any message: then every
cut and every weighted span lies at a constant plus lengths of texts. Anything else takes the long way, drafts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Final, cast

from services.preprocess.bounded import BoundedCache
from services.preprocess.conversation import Conversation, Message
from services.preprocess.drafts import Draft, draft_of, drafts_of, planned, trained_of, views_of
from services.preprocess.layout import Engine, Laid, lay_out_to_replay
from services.preprocess.models import Model
from services.preprocess.options import ControlTokens, Mask, Options, Tokenization
from services.preprocess.pieces import TEXT, Pieces
from services.preprocess.rendered import View
from services.preprocess.replay.compiling import Layout, Replay, compiled, guarded_layout
from services.preprocess.replay.store import LONGEST, Miss, Replays
from services.preprocess.replay.symbols import RefusedError
from services.preprocess.signatures import signature
from services.preprocess.weights import Plan

#: Shapes of conversations whose drafts are replayed, some 10 kB each.
SHAPES: Final = 256
_NAMES: Final[dict[str, object]] = {kind.__name__: kind for kind in (Draft, Pieces, partial)}


@dataclass(frozen=True, slots=True)
class Lane:
    """What is known of the drafts that one set of options makes; threads may share it."""

    engine: Engine
    replays: Replays[Draft]
    plans: BoundedCache[object, Plan]  #: by the key of replays

    def drafts(self, conversation: Conversation, options: Options, model: Model) -> tuple[Plan, list[Draft]]:
        """As `lay_out_and_weigh`."""
        messages = conversation.messages
        if conversation.tools is not None or not 0 < len(messages) <= LONGEST:
            return _the_long_way(conversation, options, model)
        template = model.chat_format.template
        needles, mark = template.needles, template.mark
        shapes = tuple([signature(message, needles, mark) for message in messages])
        key = (shapes, tuple(conversation.training), self.engine.regions.prefills)
        known = self.plans.get(key)
        found: list[Draft] | Miss = Miss.UNKNOWN
        if known is not None:
            found = self.replays.replayed(key, messages)
            if isinstance(found, list):
                return known, found
        plan = planned(conversation, options)
        laid = lay_out_to_replay(
            conversation, options, model.chat_format, trained_of(plan, options), anew=found is Miss.CHECK
        )
        drafts = [draft_of(view, plan, options, model) for view in laid.views]
        if laid.trial is not None and not _spell_control_tokens(messages, model):
            self.plans[key] = plan
            again = partial(_view_again, options, model, plan)
            self.replays.learn(key, messages, drafts, partial(_replay, laid, messages, again, model))
        return plan, drafts


def _spell_control_tokens(messages: Sequence[Message], model: Model) -> bool:
    """Whether a text does; the shape of such a conversation is learned of another."""
    pattern = model.vocabulary.table.pattern
    texts = (value for message in messages for value in message.values() if isinstance(value, str))
    return pattern is not None and any(pattern.search(text) for text in texts)


def lay_out_and_weigh(
    conversation: Conversation, options: Options, model: Model, lane: Lane | None
) -> tuple[Plan, list[Draft]]:
    """Apply the policy, render, find regions, cut and weigh: one draft per example the conversation gives.

    Raises:
        PreprocessError: whatever is wrong with this conversation under these options.
    """
    if lane is None:
        return _the_long_way(conversation, options, model)
    return lane.drafts(conversation, options, model)


def _the_long_way(conversation: Conversation, options: Options, model: Model) -> tuple[Plan, list[Draft]]:
    plan = planned(conversation, options)
    return plan, drafts_of(conversation, plan, options, model)


def lane_of(options: Options, model: Model) -> Lane | None:
    """The lane of these options, None where they leave too much to each text; ask once for a batch."""
    if (
        options.chat_template is not None
        or options.tokenization is not Tokenization.EXACT
        or options.control_tokens is ControlTokens.ALLOW
        or options.mask is not Mask.REGIONS
        or options.ensure_final_stop
        or not model.vocabulary.table.plain  # what is a control token may depend on its neighbours
    ):
        return None
    engine = model.chat_format.engine(options)
    key = replace(options, max_length=None, chat_template_kwargs=cast("dict[str, str]", ()))  # the engine's own
    lane = engine.lanes.get(key)
    if lane is None:
        lane = engine.lanes[key] = Lane(engine, Replays(engine.budget, SHAPES), BoundedCache(SHAPES))
    return lane


def _view_again(options: Options, model: Model, plan: Plan, part: int, messages: Sequence[Message]) -> View:
    """The view of a draft that came without one."""
    return views_of(Conversation(messages), plan, options, model)[part]


def _replay(
    laid: Laid, messages: Sequence[Message], again: Callable[[int, Sequence[Message]], View], model: Model, draft: Draft
) -> Replay[Draft]:
    """The draft as a function of texts.

    Args:
        laid: the conversation that it is made of, laid out.
        messages: its messages.
        again: gives the view of a position among the drafts, where somebody wants to see it.
        model: the model.
        draft: one of the drafts.

    Raises:
        RefusedError: where it is none.
    """
    view, pieces = draft.view, draft.pieces
    assert laid.trial is not None, "asked for only where there is one"
    assert pieces is not None, "lanes are for exact tokenization"
    trial = laid.trial(view)
    tape, layout = trial.tape, guarded_layout(trial, view)
    lines = [*tape.lines, *layout.lines]
    if model.vocabulary.table.pattern is not None:
        search = tape.constant(model.vocabulary.table.pattern.search)
        lines += [f"if {search}({author}) is not None: return None" for author in _authors(layout)]
    lines.append(f"t = {layout.text_source()}")
    starts = "".join(f"{layout.place(start)}, " for start in pieces.starts)
    spans = "".join(
        f"({layout.place(start)}, {layout.place(end)}, {tape.constant(weight)}), " for start, end, weight in draft.spans
    )
    fixed = {"SLOTS": pieces.slots, "PREFIXED": pieces.prefixed, "NONE": [], "SPANS": _in_slots(draft, pieces)}
    part = laid.views.index(view)
    cut = f"Pieces(t, t.encode(), [{starts}], SLOTS, [{_texts(layout, pieces)}], PREFIXED, NONE)"
    result = f"Draft(partial(VIEW, {part}, M), [{spans}], {cut}, {tape.constant(tuple(draft.warnings))}, SPANS)"
    replay = cast("Replay[Draft]", compiled(lines, result, {**_NAMES, **tape.constants, **fixed, "VIEW": again}))
    if replay(messages) is None:
        raise RefusedError("texts of one message spell a control token together")
    return replay


def _authors(layout: Layout) -> list[str]:
    """Each stretch of one message's text as an expression: no control token is made of two authors' characters."""
    stretches = []
    for author, atoms in groupby(layout.shown, lambda atom: None if atom[2] is None else atom[2].message_index):
        if author is not None:
            stretches.append(" + ".join(name or layout.tape.constant(text) for name, text, _ in atoms))
    return stretches


def _texts(layout: Layout, pieces: Pieces) -> str:
    ends = [*pieces.starts[1:], len(pieces.whole)]
    bounds = zip(pieces.slots, pieces.starts, ends, strict=True)
    return "".join(f"{layout.slice_source('t', start, end)}, " for slot, start, end in bounds if slot == TEXT)


def _in_slots(draft: Draft, pieces: Pieces) -> Sequence[tuple[int, int, float]] | None:
    """The weighted spans, counted in slots; None where one ends inside a piece, so that its tokens decide."""
    slot_at = {start: slot for slot, start in enumerate(pieces.starts)} | {len(pieces.whole): len(pieces.starts)}
    if not all(start in slot_at and end in slot_at for start, end, _ in draft.spans):
        return None
    return [(slot_at[start], slot_at[end], weight) for start, end, weight in draft.spans]
