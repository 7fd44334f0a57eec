"""The engine for `datasets.map`, Ray Data and datatrove: columns of conversations in, columns of rows out.

::

    rows = RowColumns(Masker(load_model("Qwen3-0.6B"), Options(date="2026-01-01")))
    datasets:  data.map(rows, batched=True, with_indices=True, remove_columns=data.column_names)
    datatrove: datatrove_step.WriteRows(rows, folder)
    Ray Data:  data.map_batches(rows.arrow, batch_format="pyarrow")      # with a column "index"

What they write as Parquet beside `describe`'s file is what `turnloom dataset register` takes. Imports none of them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from numbers import Integral
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np

from turnloom.foreign.columns import BESIDE, INSTEAD, unused_sentence
from turnloom.masks.domain.errors import InvalidOption, PreprocessError
from turnloom.masks.domain.reading import table_row
from turnloom.masks.masker import Column, Masker

DESCRIPTION: Final = "turnloom.json"  #: file beside the rows that says how they were made
FORMAT: Final = "turnloom-rows-1"
PLAIN: Final = {"conversation": np.uint32, "part": np.uint16, "target_bytes": np.uint32}
LISTS: Final = {"token_ids": np.int32, "run_lengths": np.uint32, "run_values": np.float32}
#: Sentences that a worker tells of conversations.
MOST_TOLD: Final = 50
#: Columns of a row; see `RowColumns.__call__`.
COLUMNS: Final = ("conversation", "part", "token_ids", "run_lengths", "run_values", "target_bytes")


class BadConversation(ValueError):
    """A conversation can't be used; the sentence begins with its index."""


class Table(Protocol):
    """The part of pyarrow.Table that is used here."""

    @property
    def column_names(self) -> list[str]: ...  # noqa: D102  # pyarrow's
    def column(self, name: str) -> Column: ...  # noqa: D102
    def select(self, names: Sequence[str]) -> Table: ...  # noqa: D102


class RowColumns:
    """Masks batches of columns. Can be pickled, and shared between threads, as its Masker can."""

    def __init__(
        self, masker: Masker, *, messages: str = "messages", index: str = "index", skip_bad: bool = False
    ) -> None:
        """Choose the columns to read.

        Args:
            masker: model and options.
            messages: column of conversations; "tools" and what other tools read beside the messages are read too.
            index: column of positions, 0, 1, ..., where the batch brings them as a column.
            skip_bad: leave out conversations that can't be used, instead of raising at the first.
        """
        self.masker = masker
        self.messages = messages
        self.index = index
        self._skip_bad = skip_bad
        self._told: set[str] = set()

    def __getstate__(self) -> dict[str, object]:
        """Leave aside what was told: `datasets` knows a step by its pickle, and each worker tells by itself."""
        return {**self.__dict__, "_told": set()}

    def __call__(
        self, batch: Mapping[str, Sequence[Any]], indices: Sequence[int] | None = None
    ) -> dict[str, list[Any]]:
        """Mask a batch.

        Args:
            batch: lists by column, or a pyarrow.Table.
            indices: position of each conversation in the whole; None: they are in the column `index`.

        Returns:
            COLUMNS, one entry a row: conversation (its position), part, token_ids (N), run_lengths and run_values (R),
            target_bytes. The runs hold the weights of the N - 1 targets.

        A Python warning tells what a person should read of a conversation, each sentence once, MOST_TOLD at most.

        Raises:
            BadConversation, InvalidOption.
        """
        if hasattr(batch, "schema"):  # the format "arrow" of datasets
            return self._of_table(cast("Table", batch), indices)
        self._check(batch, needs_index=indices is None)
        positions = batch[self.index] if indices is None else indices
        if isinstance(positions, int):
            raise InvalidOption("batched is not set, so there is one row instead of a batch; pass batched=True to map")
        positions = list(positions)
        names = self._read(batch)
        rows = zip(batch[self.messages], *(batch[name] for name in names), strict=True)
        return self._columns(
            positions, [{"messages": messages, **dict(zip(names, beside, strict=True))} for messages, *beside in rows]
        )

    def _columns(self, positions: Sequence[Any], documents: Sequence[object]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for position, made in zip(positions, self.masker.outcomes(documents), strict=True):
            if isinstance(made, InvalidOption):
                raise made
            if isinstance(made, PreprocessError):
                if not self._skip_bad:
                    raise BadConversation(
                        f"conversation {position}: {str(made).rstrip('.')}; repair it, or pass skip_bad=True"
                    )
                self._tell(position, f"is left out: {made}")
                continue
            if not isinstance(position, Integral):
                raise BadConversation(f"{position!r} in {self.index} is no position; count conversations from 0 on")
            for warning in made.warnings:
                self._tell(position, warning)
            for one in made.examples:
                lengths, values = zip(*one.weight_runs, strict=True)
                row = (int(position), one.part, one.token_ids, list(lengths), list(values), one.target_bytes)
                for name, value in zip(COLUMNS, row, strict=True):
                    out[name].append(value)
        return out

    def arrow(self, table: Table) -> Table:
        """Mask a pyarrow.Table with a column of positions, and return a pyarrow.Table.

        Its columns are read as those of a Parquet file: null keys of structs are absent, text of the type arrow.json
        is what it says.
        """
        return _table(self._of_table(table))

    def _of_table(self, table: Table, indices: Sequence[int] | None = None) -> dict[str, list[Any]]:
        # Imported here: the engine does not depend on pyarrow.
        from turnloom.foreign.arrow_types import plain_rows, twice  # noqa: PLC0415

        self._check(table.column_names, needs_index=indices is None)
        if again := twice(table.column_names):
            raise InvalidOption(f"the table has the column {again} twice; rename one of them")
        read = table.select([self.messages, *self._read(table.column_names)])
        documents = [table_row(row, self.messages) for row in plain_rows(cast("Any", read))]
        return self._columns(table.column(self.index).to_pylist() if indices is None else indices, documents)

    def table(self, batch: Mapping[str, Sequence[Any]]) -> Table:
        """Mask a batch as `__call__` does, and return a pyarrow.Table, of the same types also where no row is left."""
        return _table(self(batch))

    def arrays(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, object]:
        """Mask a batch as `__call__` does; the columns have the types of a dataset, PLAIN and LISTS."""
        return _typed(self(batch))

    def _check(self, names: Collection[str], *, needs_index: bool) -> None:
        """Refuse a batch without a column that has to be there, and tell of those that other tools obey."""
        for option, name in (("messages", self.messages), *([("index", self.index)] if needs_index else [])):
            if name not in names:
                raise InvalidOption(
                    f"{option} is {name!r}, but there is no such column (columns: {', '.join(names)}); name another one"
                    f"{', or pass with_indices=True to map' if option == 'index' else ''}",
                    field=option,
                )
        if instead := [name for name in names if name in INSTEAD]:
            self._tell(None, unused_sentence(instead))

    def _tell(self, position: object, sentence: str) -> None:
        if sentence in self._told or len(self._told) >= MOST_TOLD:
            return
        self._told.add(sentence)
        warnings.warn(sentence if position is None else f"conversation {position}: {sentence}", stacklevel=4)

    def _read(self, names: Iterable[str]) -> list[str]:
        """Return the columns beside the messages that are read."""
        return [name for name in names if name == "tools" or name in BESIDE]

    def description(self) -> dict[str, object]:
        """Return how the rows are made: model, hashes, options.

        Raises:
            InvalidOption: options.date is not set, so that templates would see the day of each worker.
        """
        options, model = self.masker.options, self.masker.model
        if options.date is None:
            raise InvalidOption("date is None; set it, a dataset records which day its template saw", field="date")
        plain = {name: item.value if isinstance(item, Enum) else item for name, item in asdict(options).items()}
        hashes = {"tokenizer_sha256": model.tokenizer_sha256, "template_sha256": model.template_sha256}
        return {"format": FORMAT, "model": model.name, **hashes, "options": plain}

    def describe(self, folder: Path | str) -> Path:
        """Write the description into the folder of the rows, and return the file."""
        path = Path(folder) / DESCRIPTION
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.description(), indent=1) + "\n", encoding="utf-8")
        return path


def _typed(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    plain = {name: np.array(columns[name], kind) for name, kind in PLAIN.items()}
    lists = {name: [np.array(one, kind) for one in columns[name]] for name, kind in LISTS.items()}
    return {name: {**plain, **lists}[name] for name in COLUMNS}


def _table(columns: Mapping[str, list[Any]]) -> Table:
    from turnloom.foreign.arrow_types import table_of  # noqa: PLC0415  # as above

    return cast("Table", table_of(_typed(columns), PLAIN, LISTS))
