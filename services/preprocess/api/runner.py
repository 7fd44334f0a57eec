"""One batch of conversations through the engine, each by itself, timed and counted. Knows no gRPC and no store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from services.preprocess.api.metrics import PREPROCESS, PreprocessMetrics
from services.preprocess.domain.error_codes import code_of, code_of_class
from services.preprocess.models.registry import Registry
from turnloom.masks.domain import errors
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import InvalidOption, PreprocessError
from turnloom.masks.domain.example import Preprocessed
from turnloom.masks.domain.options import Options
from turnloom.masks.model import Model
from turnloom.masks.pipeline import preprocess_batch

Result = Preprocessed | PreprocessError
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
    """A model and complete options: what a request or a stream is preprocessed with."""

    name: str  #: of the served model
    model: Model
    options: Options  #: `date` is filled in

    @property
    def date(self) -> str:
        """ISO date that templates see."""
        assert self.options.date is not None
        return self.options.date


class Runner:
    """Runs plans; shared by all servicers."""

    def __init__(self, registry: Registry, metrics: PreprocessMetrics) -> None:
        self._registry = registry
        self._metrics = metrics
        for name in registry.entries:
            metrics.begin(name, CODES)

    def plan(self, name: str, options: Options) -> Plan:
        """Look the model up and fill in today's date (UTC) where none was given.

        Raises:
            UnknownModel, Loading, ModelNotServed.
        """
        model = self._registry.get(name)
        if options.date is None:
            options = replace(options, date=datetime.now(UTC).date().isoformat())
        return Plan(name, model, options)

    def run(self, plan: Plan, read: Sequence[Conversation | PreprocessError]) -> list[Result]:
        """Examples or an error for each: same order and length as `read`; one bad item never touches another.

        Raises:
            InvalidOption: an option is wrong whatever the conversation.
        """
        began = time.perf_counter()
        good = [item for item in read if isinstance(item, Conversation)]
        made = iter(preprocess_batch(good, plan.options, plan.model) if good else ())
        results: list[Result] = [next(made) if isinstance(item, Conversation) else item for item in read]
        self._metrics.stage_seconds.labels(PREPROCESS).observe(time.perf_counter() - began)
        self._metrics.count(plan.name, results)
        for result in results:
            if isinstance(result, InvalidOption):
                raise result
            if isinstance(result, PreprocessError):
                self._metrics.issues.labels(code_of(result)).inc()
        return results
