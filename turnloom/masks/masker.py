"""The engine as a function: conversations in, training rows out. Needs no server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from turnloom.foreign.columns import INSTEAD, unused_sentence
from turnloom.foreign.plain_values import NotPlain, json_text
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import InvalidOption, PreprocessError, UnsupportedContent
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.options import Options
from turnloom.masks.domain.reading import conversation_or_error, table_row, unfit_error
from turnloom.masks.model import Model
from turnloom.masks.pipeline import check_options, preprocess_each

#: Conversations given to the encoder at once.
BATCH: Final = 256


@runtime_checkable
class Column(Protocol):
    """A column or table of Arrow: pyarrow's Array, ChunkedArray, RecordBatch and Table."""

    def to_pylist(self) -> list[object]:
        """Return its values as Python objects."""


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """One training row: a token sequence and the weight of each prediction."""

    token_ids: NDArray[np.int32]  #: shape (N,), N >= 2
    target_weights: NDArray[np.float32]  #: shape (N - 1,): entry t weighs the prediction of token_ids[t + 1]
    part: int  #: 0, 1, ... where one conversation gives several rows


@dataclass(frozen=True, slots=True)
class Masked:
    """The result of one conversation: its rows, or the reason why there are none."""

    rows: tuple[MaskedRow, ...]  #: empty where `error` says why
    error: PreprocessError | None = None
    warnings: tuple[str, ...] = ()  #: what a person should read, one sentence each
    unchecked: int = 0  #: rows whose ids could not be compared with the text


class Masker:
    """Masks conversations for one model under one set of options.

    An instance can be pickled, so that `datasets.map` and Ray send it to their workers, and shared between threads.
    """

    def __init__(self, model: Model, options: Options | None = None) -> None:
        """Check the options.

        Args:
            model: from `load_model` or `prepare_model`.
            options: None: every default.

        Raises:
            InvalidOption: naming the option, its value and what it may be.
        """
        if options is not None and options.chat_template is not None and model.sandbox is None:
            raise InvalidOption(
                "is for servers, which render it in a process of its own; put the template as chat_template.jinja into"
                " the model's folder",
                field="chat_template",
            )
        self.model = model
        self.options = options if options is not None else Options()
        check_options(self.options)
        try:
            json_text(self.options.chat_template_kwargs, finite=False)
        except NotPlain as error:
            raise InvalidOption(
                f"chat_template_kwargs{error.place} {error.what}; give text, numbers, lists and objects",
                field="chat_template_kwargs",
            ) from error

    def __call__(self, conversations: Iterable[object] | Column) -> list[Masked]:
        """Mask conversations.

        Args:
            conversations: a list, another iterable, or a column or table of Arrow. Each is
                {"messages": [...], "tools": [...]}, or the list of messages, in OpenAI's chat format.

        Raises:
            TypeError: they are one conversation, or a data frame.

        Returns:
            One entry for each conversation, in order. A bad conversation does not affect the others.
        """
        return list(self.iterate(conversations))

    def iterate(self, conversations: Iterable[object] | Column) -> Iterator[Masked]:
        """Yield the same results one by one, holding BATCH conversations at a time."""
        if isinstance(conversations, Mapping | str | bytes) or hasattr(conversations, "iterrows"):
            raise TypeError(
                f"conversations is a {type(conversations).__name__}; give a list, also of a single conversation,"
                " and the records of a data frame (to_dict('records'))"
            )
        items = _of_column(conversations) if isinstance(conversations, Column) else iter(conversations)
        while batch := list(islice(items, BATCH)):
            yield from self._batch(batch)

    def _batch(self, documents: Sequence[object]) -> list[Masked]:
        return [_masked(made, document) for made, document in zip(self.outcomes(documents), documents, strict=True)]

    def outcomes(self, documents: Sequence[object]) -> list[PreprocessedConversation | PreprocessError]:
        """Mask a few conversations, and return what the pipeline makes of each.

        Values that JSON can't hold are looked for only where something went wrong: the look costs time.
        """
        read = [conversation_or_error(document) for document in documents]
        try:
            made = preprocess_each(read, self.options, self.model)
        except (TypeError, ValueError):  # a template met a date, say; the other conversations are none the worse
            fit = [one if isinstance(one, PreprocessError) else unfit_error(one) or one for one in read]
            if not any(one is not other for one, other in zip(fit, read, strict=True)):
                raise
            read, made = fit, preprocess_each(fit, self.options, self.model)
        return [
            (unfit_error(one) or outcome) if isinstance(outcome, UnsupportedContent) and isinstance(one, Conversation)
            else outcome
            for one, outcome in zip(read, made, strict=True)
        ]  # fmt: skip


def _of_column(column: Column) -> Iterator[object]:
    # Imported here: the engine does not depend on pyarrow.
    from turnloom.foreign.arrow_types import plain_rows, plain_values  # noqa: PLC0415

    return map(table_row, plain_rows(column) if hasattr(column, "schema") else plain_values(column))


def _masked(outcome: PreprocessedConversation | PreprocessError, document: object) -> Masked:
    if isinstance(outcome, PreprocessError):
        return Masked((), outcome)
    rows = tuple(MaskedRow(one.token_ids, one.target_weights(), one.part) for one in outcome.examples)
    return Masked(rows, warnings=(*outcome.warnings, *_unread(document)), unchecked=outcome.unchecked)


def _unread(document: object) -> Sequence[str]:
    """Return a warning of keys beside the messages that other tools obey and nobody reads here."""
    if not isinstance(document, Mapping) or INSTEAD.keys().isdisjoint(document):
        return ()
    names = [name for name in document if name in INSTEAD and document[name] is not None]
    return [unused_sentence(names)] if names else ()
