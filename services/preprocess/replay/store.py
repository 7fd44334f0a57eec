"""Which replays there are, when they are made, used, checked and given up. Knows no templates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from services.preprocess.bounded import BoundedCache
from services.preprocess.conversation import Message
from services.preprocess.rendered import View
from services.preprocess.replay.compiling import Replay
from services.preprocess.replay.symbols import RefusedError

#: Shapes of conversations whose replays are kept, some kB each.
SHAPES: Final = 512
#: Replays of one shape: conversations of one shape may take so many ways through the template.
WAYS: Final = 8
#: Conversations longer than this have rarely the shape of another.
LONGEST: Final = 24
#: One of so many replays is compared with a render, for ever.
SHADOW: Final = 512
#: After so many attempts a template of which less than half could be replayed is left alone.
TRIAL: Final = 2048
_LOG: Final = logging.getLogger(__name__)


class Replays:
    """Replays of conversations under one set of settings. Threads may share it: counts are approximate then."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ways: BoundedCache[object, tuple[tuple[Replay, ...], ...]] = BoundedCache(SHAPES)
        self._closed: BoundedCache[object, bool] = BoundedCache(SHAPES)  #: shapes of which no more replays are made
        self._asked = self._given = 0
        self._off = False
        self.hits = 0  #: conversations replayed so far

    def switch_off(self) -> None:
        """Render everything from now on."""
        self._off = True

    def views(self, key: object, messages: Sequence[Message]) -> list[View] | None:
        """The views of a conversation of this shape, or None where it must be rendered."""
        if self._off or len(messages) > LONGEST:
            return None
        self._asked += 1
        for way in self._ways.get(key) or ():
            views = []
            for replay in way:
                view = replay(messages)
                if view is None:
                    break
                views.append(view)
            else:
                self._given += 1
                self.hits += 1
                return None if self.hits % SHADOW == 0 else views
        if self._asked >= TRIAL:
            self._off = self._given * 2 < self._asked
            self._asked = self._given = 0
        return None

    def learn(
        self, key: object, messages: Sequence[Message], views: Sequence[View], make: Callable[[View], Replay]
    ) -> None:
        """Compare what is known of this shape with views that were rendered, or make a replay of them.

        Args:
            key: the shape.
            messages: the conversation.
            views: what laying it out gave.
            make: a replay of one of the views; raises RefusedError where there can be none.
        """
        if self._off or len(messages) > LONGEST:
            return
        ways = self._ways.get(key) or ()
        for way in ways:
            replayed = [replay(messages) for replay in way]
            if None in replayed:
                continue
            if replayed != list(views):
                _LOG.error("a replay differs from the render; replays are off for this template")
                self.switch_off()
            return
        if len(ways) >= WAYS or self._closed.get(key):
            return
        try:
            way = tuple(make(view) for view in views)
        except RefusedError as refusal:
            _LOG.debug("no replay: %s", refusal)
            self._closed[key] = True
            return
        if [replay(messages) for replay in way] != list(views):
            _LOG.error("a replay differs from the render it was made of; it is not kept")
            self._closed[key] = True
            return
        self._ways[key] = (*ways, way)
