"""Run one batch of conversations through the engine, each independently, with timing and counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from services.preprocess.api.metrics import PREPROCESS, PreprocessMetrics
from services.preprocess.api.work import Turns
from services.preprocess.domain.caller import ANYBODY, CALLER
from services.preprocess.domain.error_codes import code_of, code_of_class
from services.preprocess.models.registry import Registry
from turnloom.masks.domain import errors
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import InvalidOption, PreprocessError
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.options import Options
from turnloom.masks.model import Model
from turnloom.masks.pipeline import preprocess_each

Result = PreprocessedConversation | PreprocessError
SLICE_CONVERSATIONS: Final = 256  #: given to the engine at once
SLICE_CHARACTERS: Final = 1 << 20  #: likewise: what is in work beside the rows costs a multiple of it
MESSAGE_CHARACTERS: Final = 64  #: what a message costs beside its texts
#: What a conversation can be refused for; a wrong option or model ends the call instead.
CODES: Final = tuple(
    code_of_class(kind)
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, PreprocessError)
    and kind not in (PreprocessError, InvalidOption, errors.ModelNotUsable)
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A model and complete options: how a request or a stream is preprocessed."""

    name: str  #: of the served model
    model: Model
    options: Options  #: `date` is filled in

    @property
    def date(self) -> str:
        """Return the ISO date that templates see."""
        assert self.options.date is not None
        return self.options.date


def slices(
    items: Iterable[Conversation | PreprocessError], conversations: int, characters: int
) -> Iterator[list[Conversation | PreprocessError]]:
    """Split a batch into slices, bounded in conversations and roughly in characters."""
    part: list[Conversation | PreprocessError] = []
    held = 0
    for item in items:
        size = size_of(item) if isinstance(item, Conversation) else 0
        if part and (len(part) >= conversations or held + size > characters):
            yield part
            part, held = [], 0
        part.append(item)
        held += size
    if part:
        yield part


def size_of(conversation: Conversation) -> int:
    """Return roughly how many characters a conversation holds; even a short message counts as some."""
    texts = (value for message in conversation.messages for value in message.values() if isinstance(value, str))
    return sum(map(len, texts)) + MESSAGE_CHARACTERS * len(conversation.messages)


class Runner:
    """Runs plans; shared by all servicers."""

    def __init__(self, registry: Registry, metrics: PreprocessMetrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._turns = Turns()
        for name in registry.entries:
            metrics.begin(name, CODES)

    def plan(self, name: str, options: Options) -> Plan:
        """Look up the model, and fill in today's date (UTC) where none was given.

        Raises:
            UnknownModel, Loading, ModelNotServed.
        """
        model = self._registry.get(name)
        if options.date is None:
            options = replace(options, date=datetime.now(UTC).date().isoformat())
        return Plan(name, model, options)

    def run(
        self, plan: Plan, read: Iterable[Conversation | PreprocessError], check: Callable[[], None] = lambda: None
    ) -> list[Result]:
        """Return examples or an error for each, in order; one bad item never affects another.

        Args:
            plan: model and options.
            read: conversations, or why one could not be read; taken slice by slice, so that a generator keeps little.
            check: called before each slice; raises to end the work when no caller waits for it.

        Raises:
            InvalidOption: an option is wrong whatever the conversation.
        """
        began = time.perf_counter()
        results: list[Result] = []
        # A client's own template may take seconds for each conversation.
        most = 1 if plan.options.chat_template is not None else SLICE_CONVERSATIONS
        parts, caller = slices(read, most, SLICE_CHARACTERS), CALLER.get(ANYBODY)
        while True:
            check()
            with self._turns.take(caller.name, check):
                if (part := next(parts, None)) is None:
                    break
                results += preprocess_each(part, plan.options, plan.model)
        self._metrics.stage_seconds.labels(PREPROCESS).observe(time.perf_counter() - began)
        self._metrics.count(plan.name, results)
        for result in results:
            if isinstance(result, InvalidOption):
                raise result
            if isinstance(result, PreprocessError):
                self._metrics.issues.labels(code_of(result)).inc()
        return results
