"""The cache of replays: when they are made, used, checked and dropped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from enum import Enum
from types import FunctionType
from typing import Final, Generic

from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.domain.conversation import Message
from turnloom.masks.replay.compile import Replay, Result
from turnloom.masks.replay.symbols import RefusedError

#: Shapes of conversations whose replays are kept, some kB each.
SHAPES: Final = 512
#: Replays of one shape: conversations of one shape may take so many ways through the template.
WAYS: Final = 8
#: Conversations longer than this have rarely the shape of another.
LONGEST: Final = 24
#: One of so many replays is compared with a render, for ever.
SHADOW: Final = 512
#: Bytes of byte code that all replays of a model may have; with names and constants they take five times as much.
MOST_CODE: Final = 12 << 20
#: After so many attempts a template of which less than half could be replayed is left alone.
TRIAL: Final = 2048
_LOG: Final = logging.getLogger(__name__)


class Miss(Enum):
    """The reason why nothing was replayed."""

    UNKNOWN = "unknown"  # no replay of this conversation, or none yet
    CHECK = "check"  # there is one, and this time it is to be compared with a render


class Budget:
    """The memory limit shared by all replays of one model.

    Senders choose shapes and options. When the budget is spent, all replays are dropped and learned again.
    """

    def __init__(self, forget: Callable[[], None], most: int = MOST_CODE) -> None:
        """Start with nothing spent.

        Args:
            forget: drops all replays.
            most: bytes of byte code.
        """
        self._forget = forget
        self._most = most
        self._spent = 0

    def spend(self, replays: Sequence[Replay[Result]]) -> None:
        """Count new replays; over budget, drop all replays, these included."""
        self._spent += sum(len(replay.__code__.co_code) for replay in replays if isinstance(replay, FunctionType))
        if self._spent > self._most:
            self._spent = 0
            self._forget()


class Replays(Generic[Result]):
    """Replays of conversations under one set of settings. Threads may share it: counts are approximate then."""

    def __init__(self, budget: Budget, shapes: int = SHAPES) -> None:
        """Begin with none.

        Args:
            budget: of the model.
            shapes: whose replays are kept.
        """
        self._budget = budget
        self._ways: BoundedCache[object, tuple[tuple[Replay[Result], ...], ...]] = BoundedCache(shapes)
        self._closed: BoundedCache[object, bool] = BoundedCache(shapes)  #: shapes of which no more replays are made
        self._seen: BoundedCache[object, bool] = BoundedCache(2 * shapes)
        self._asked = self._given = 0
        self._off = False
        self.hits = 0  #: conversations replayed so far

    def switch_off(self) -> None:
        """Render everything from now on."""
        self._off = True

    def due(self, key: object, messages: Sequence[Message]) -> bool:
        """Whether to learn from a conversation of this shape: there was one before, and more may come."""
        seen = self._seen.get(key)
        self._seen[key] = True
        return bool(seen) and not self._off and len(messages) <= LONGEST

    def replayed(self, key: object, messages: Sequence[Message]) -> list[Result] | Miss:
        """Return the replayed results of a conversation of this shape, or why it must be rendered."""
        if self._off or len(messages) > LONGEST:
            return Miss.UNKNOWN
        self._asked += 1
        for way in self._ways.get(key) or ():
            results = []
            for replay in way:
                result = replay(messages)
                if result is None:
                    break
                results.append(result)
            else:
                self._given += 1
                self.hits += 1
                return Miss.CHECK if self.hits % SHADOW == 0 else results
        if self._asked >= TRIAL:
            self._off = self._given * 2 < self._asked
            self._asked = self._given = 0
        return Miss.UNKNOWN

    def learn(
        self,
        key: object,
        messages: Sequence[Message],
        results: Sequence[Result],
        make: Callable[[Result], Replay[Result]],
    ) -> None:
        """Compare the known replays of this shape with rendered results, or make replays of these.

        Args:
            key: the shape.
            messages: the conversation.
            results: its results, by rendering.
            make: makes a replay of one of the results; raises RefusedError where there can be none.
        """
        if self._off or len(messages) > LONGEST:
            return
        ways = self._ways.get(key) or ()
        for way in ways:
            replayed = [replay(messages) for replay in way]
            if None in replayed:
                continue
            if replayed != list(results):
                _LOG.error("a replay differs from the render; replays are off for this template")
                self.switch_off()
            return
        if len(ways) >= WAYS or self._closed.get(key):
            return
        try:
            way = tuple(make(result) for result in results)
        except RefusedError as refusal:
            _LOG.debug("no replay: %s", refusal)
            self._closed[key] = True
            return
        if [replay(messages) for replay in way] != list(results):
            _LOG.error("a replay differs from the render it was made of; it is not kept")
            self._closed[key] = True
            return
        self._ways[key] = (*ways, way)
        self._budget.spend(way)
