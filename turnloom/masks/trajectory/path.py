"""The path of agent trajectories: weighted texts from walked renders, or nothing, and then the reference makes them.

The reference path (turns, rows) does not import it. It stays the judge: one in SHADOW conversations is compared with
it, for as long as the process lives, and so is every render in which something was recorded.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.options import (
    ControlTokens,
    GenerationPrefill,
    Mask,
    OnUnextendable,
    Options,
    Tokenization,
    TrainOn,
    TrainOnEot,
)
from turnloom.masks.domain.rendered_text import View
from turnloom.masks.model import Model
from turnloom.masks.replay.symbols import RefusedError
from turnloom.masks.rows.weigh import WeightedText, planned, weighted_texts_of
from turnloom.masks.rows.weights import EVEN, MessageWeights
from turnloom.masks.template.render import variables_of
from turnloom.masks.trajectory.examples import weighted_texts
from turnloom.masks.trajectory.family import Family
from turnloom.masks.trajectory.programs.program import UnreplayableError
from turnloom.masks.turns.views import ENGINES, ChatFormat, Engine

#: Plain conversations up to this length are replayed by their shape (replay.cache.LONGEST).
LONGEST_PLAIN: Final = 24
#: One of so many conversations is compared with the reference, for ever.
SHADOW: Final = 512
#: After so many conversations of which less than half could be walked, or that had as many renders recorded, a template
#: is left alone.
TRIAL: Final = 256
_LOG: Final = logging.getLogger(__name__)


class _Memory:
    """What is recorded for one chat format; threads may share it."""

    def __init__(self) -> None:
        self.families: BoundedCache[Engine, Family] = BoundedCache(ENGINES)
        self.paths: BoundedCache[object, TrajectoryPath] = BoundedCache(ENGINES * 4)


_MEMORIES: Final[weakref.WeakKeyDictionary[ChatFormat, _Memory]] = weakref.WeakKeyDictionary()
_MEMORIES_LOCK: Final = threading.Lock()


@dataclass(slots=True, eq=False)
class TrajectoryPath:
    """Weighted texts of trajectories under one set of options. Threads may share it: counts are approximate then."""

    family: Family
    off: bool = False
    hits: int = 0  #: conversations walked so far
    asked: int = 0  #: conversations since the last look at how many could be walked
    given: int = 0

    def weighted_texts(
        self, conversation: Conversation, options: Options, model: Model
    ) -> tuple[MessageWeights, list[WeightedText]] | None:
        """Return what `planned` and `weighted_texts_of` return; None: ask them.

        Raises:
            PreprocessError: the policy can't be applied.
        """
        if self.off or not is_trajectory(conversation):
            return None
        plan = planned(conversation, options, model)
        if self.asked >= TRIAL:
            # Recording costs as much as several renders: it must be rare, and good for most.
            self.off = self.given * 2 < self.asked or self.family.recorded > self.asked
            self.asked = self.given = self.family.recorded = 0
            if self.off:
                return None
        self.asked += 1
        try:
            found = weighted_texts(conversation, plan, options, model, self.family)
        except (UnreplayableError, RefusedError, PreprocessError, RecursionError) as error:
            _LOG.debug("a conversation is left to the reference: %s", error)
            return None
        except Exception:
            # Whatever else: the reference answers, and what misbehaved once is not asked again.
            _LOG.exception("trajectories of this template are left to the reference")
            self.off = True
            return None
        self.given += 1
        self.hits += 1
        if self.hits % SHADOW == 0:
            return plan, self._judged(found, conversation, plan, options, model)
        again = partial(_view_again, conversation, plan, options, model)
        return plan, [one._replace(made=partial(again, part)) for part, one in enumerate(found)]

    def _judged(
        self,
        found: Sequence[WeightedText],
        conversation: Conversation,
        plan: MessageWeights,
        options: Options,
        model: Model,
    ) -> list[WeightedText]:
        wanted = weighted_texts_of(conversation, plan, options, model)
        if [one[1:4] for one in found] != [one[1:4] for one in wanted]:
            _LOG.error("walked renders differ from the reference; they are off for this template")
            self.off = True
        return wanted


def is_trajectory(conversation: Conversation) -> bool:
    """Whether shapes do not repeat: tools, calls, or many messages."""
    messages = conversation.messages
    return (
        conversation.tools is not None
        or len(messages) > LONGEST_PLAIN
        or any(bool(message.get("tool_calls")) for message in messages)
    )


def trajectory_path_of(options: Options, model: Model) -> TrajectoryPath | None:
    """Return the path of trajectories under these options, None where they need more; ask once for a batch."""
    if not _follows(options, model):
        return None
    chat_format = model.chat_format
    with _MEMORIES_LOCK:
        memory = _MEMORIES.setdefault(chat_format, _Memory())
    engine = chat_format.engine(options)
    # The engine stands for what it was made of.
    key = (engine, replace(options, max_length=None, chat_template_kwargs=cast("dict[str, str]", ())))
    path = memory.paths.get(key)
    if path is None:
        family = memory.families.get(engine)
        if family is None:
            family = memory.families[engine] = Family(chat_format.template.source, variables_of(engine.settings))
        path = memory.paths[key] = TrajectoryPath(family, off=family.compiled is None)
    return path


def _follows(options: Options, model: Model) -> bool:
    return (
        options.chat_template is None
        and options.tokenization is Tokenization.EXACT
        and options.control_tokens is not ControlTokens.ALLOW
        and options.mask is Mask.REGIONS
        and options.on_unextendable in (OnUnextendable.SPLIT, OnUnextendable.ERROR)
        and options.generation_prefill is GenerationPrefill.DEFAULT
        and options.train_on is not TrainOn.ALL_TOKENS
        and options.train_on_eot is TrainOnEot.ALL
        and options.part_weights == EVEN
        and not (options.ensure_final_stop or options.include_trailing_whitespace)
        and model.vocabulary.table.plain
    )


def _view_again(conversation: Conversation, plan: MessageWeights, options: Options, model: Model, part: int) -> View:
    """Make the view of a weighted text that came without one."""
    return weighted_texts_of(conversation, plan, options, model)[part].view
