"""Loops and lists of messages that tell a step what is read of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, SupportsIndex

from jinja2.runtime import LoopContext
from jinja2.utils import missing

if TYPE_CHECKING:
    from turnloom.masks.template.chain import Chain


class Reads:
    """What a step read beside its message, the variables and the namespaces."""

    __slots__ = ("following", "reach", "whole")

    def __init__(self) -> None:
        """Begin with nothing."""
        self.whole = False  #: something that depends on all messages
        self.following = False  #: what follows
        self.reach = -1  #: the last message read by its position


class StepLoop(LoopContext):
    """A loop that tells a step what is read of it, and that can be set forward."""

    _reads: Reads | None = None
    _chain: Chain | None = None
    _step: tuple[object, tuple[Any, ...]] | None = None  #: the message that is being printed, and the variables

    def changed(self, *value: Any) -> bool:
        """Whether the value is another than last time."""
        _read_whole(self)
        return super().changed(*value)

    def forward(self, position: int) -> None:
        """Go to a later message of a list."""
        items = self.items
        assert items is not None, "only lists are walked forward"
        self.index0 = position
        self._current = list.__getitem__(items, position)
        self._before = list.__getitem__(items, position - 1) if position else missing
        self._iterator = list.__iter__(items)
        self._iterator.__setstate__(position + 1)  # type: ignore[attr-defined]  # of list iterators
        self._after = missing

    @property
    def items(self) -> list[Any] | None:
        """Return what it iterates over, where that is a list."""
        return self._iterable if isinstance(self._iterable, list) else None


def _read_whole(told: StepLoop | MessageList) -> None:
    if told._reads is not None:
        told._reads.whole = True


def _following(ask: Callable[[Any], Any]) -> property:
    def get(loop: StepLoop) -> Any:
        if loop._reads is not None:
            loop._reads.following = True
        return ask(loop)

    return property(get)


def _length(ask: Callable[[Any], Any]) -> property:
    def get(loop: StepLoop) -> Any:
        _read_whole(loop)
        return ask(loop)

    return property(get)


for _name in ("last", "nextitem"):
    setattr(StepLoop, _name, _following(getattr(LoopContext, _name).fget))
for _name in ("length", "revindex", "revindex0"):
    setattr(StepLoop, _name, _length(getattr(LoopContext, _name).fget))


class MessageList(list[Any]):
    """The messages, telling a step which of them are read."""

    _reads: Reads | None = None

    def __getitem__(self, key: SupportsIndex | slice) -> Any:
        if type(key) is not int or not 0 <= key < list.__len__(self):
            _read_whole(self)
        elif self._reads is not None:
            self._reads.reach = max(self._reads.reach, key)
        found = list.__getitem__(self, key)
        return MessageList(found) if type(key) is slice else found


def _told(name: str) -> Callable[..., Any]:
    method = getattr(list, name)

    def call(self: MessageList, *args: Any) -> Any:
        _read_whole(self)
        found = method(self, *args)
        return MessageList(found) if type(found) is list else found

    call.__name__ = name
    return call


for _name in ["iter", "reversed", "len", "contains", "eq", "ne", "lt", "le", "gt", "ge", "add", "mul", "rmul"]:
    setattr(MessageList, f"__{_name}__", _told(f"__{_name}__"))
for _name in ("index", "count", "copy"):
    setattr(MessageList, _name, _told(_name))
MessageList.__hash__ = None
# Jinja's error texts name the type of what they were given; a refusal must read as it does without steps.
for _kind, _own in ((MessageList, list), (StepLoop, LoopContext)):
    _kind.__module__, _kind.__name__ = _own.__module__, _own.__name__
