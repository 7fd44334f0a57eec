"""Rows in the formats of other trainers: TRL, axolotl, `datasets`, Tinker's cookbook. Needs numpy alone.

>>> import numpy as np
>>> from turnloom.masks import MaskedRow
>>> row = MaskedRow(np.array([7, 8, 9], np.int32), np.array([0.0, 1.0], np.float32), 0)
>>> record(row, "trl")
{'input_ids': [7, 8, 9], 'labels': [-100, -100, 9], 'loss_weights': [0.0, 0.0, 1.0]}

Labels are not shifted, the model shifts: `labels[i]` is `input_ids[i]` where predicting it has weight, else -100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from turnloom.optional import needs

if TYPE_CHECKING:
    import tinker

IGNORED: Final = -100  #: the label of what is not trained, as PyTorch's cross entropy has it

Record: TypeAlias = dict[str, object]


class TrainingRow(Protocol):
    """A row of this package, or of a downloaded dataset (turnloom.wire.batches)."""

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Token ids, shape (N,)."""

    @property
    def target_weights(self) -> NDArray[np.float32]:
        """Weights, shape (N - 1,); entry t weighs the prediction of token_ids[t + 1]."""


class WeightsNotTaken(ValueError):
    """The format has no place for weights other than 0 and 1; the message names it."""


def labels_of(row: TrainingRow) -> NDArray[np.int32]:
    """Return labels, shape (N,): the token where it is trained, else IGNORED."""
    labels = np.full(len(row.token_ids), IGNORED, dtype=np.int32)
    labels[1:] = np.where(row.target_weights > 0, row.token_ids[1:], IGNORED)
    return labels


def is_fractional(row: TrainingRow) -> bool:
    """Return whether a weight is neither 0 nor 1, which labels alone can't express."""
    return not bool(np.isin(row.target_weights, (0.0, 1.0)).all())


def _trl(row: TrainingRow) -> Record:
    weights = np.concatenate([np.zeros(1, np.float32), row.target_weights])
    labels = labels_of(row).tolist()
    return {"input_ids": row.token_ids.tolist(), "labels": labels, "loss_weights": weights.tolist()}


def _axolotl(row: TrainingRow) -> Record:
    if is_fractional(row):
        raise WeightsNotTaken(
            "axolotl: a row has weights other than 0 and 1, which it does not take; export to datasets, "
            "or make the dataset with whole weights"
        )
    ids = row.token_ids.tolist()
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels_of(row).tolist()}


def _cookbook(row: TrainingRow) -> Record:
    """Return the fields of a tinker.Datum, shifted by one."""
    ids = row.token_ids.tolist()
    return {"model_input": ids[:-1], "target_tokens": ids[1:], "weights": row.target_weights.tolist()}


#: What each format makes of a row, by its name.
RECORDS: Final[Mapping[str, Callable[[TrainingRow], Record]]] = {
    "trl": _trl,
    "axolotl": _axolotl,
    "cookbook": _cookbook,
    "datasets": _trl,
}


def record(row: TrainingRow, to: str) -> Record:
    """Convert one row for a trainer.

    Args:
        row: of a Masker, or of a downloaded dataset.
        to: "trl", "axolotl", "cookbook" or "datasets".

    Raises:
        WeightsNotTaken: the trainer takes labels only, and a weight is neither 0 nor 1.
        KeyError: there is no such format.
    """
    return RECORDS[to](row)


def records(rows: Iterable[TrainingRow], to: str) -> Iterator[Record]:
    """Convert rows for a trainer one by one; raises as `record`.

    `datasets.Dataset.from_generator(lambda: records(rows, "trl"))` gives a dataset that TRL's SFTTrainer accepts.
    """
    return map(RECORDS[to], rows)


def datums(rows: Iterable[TrainingRow]) -> list[tinker.Datum]:
    """Convert rows to the Datums that Tinker's forward_backward takes. Needs tinker."""
    return [datum(_cookbook(row)) for row in rows]


def datum(line: Mapping[str, object]) -> tinker.Datum:
    """Convert one "cookbook" record, such as a line of an exported file, to a Datum. Needs tinker."""
    with needs("pip install tinker", __name__):
        import tinker  # noqa: PLC0415  # optional, and slow to import

    return tinker.Datum(
        model_input=tinker.ModelInput.from_ints(cast("list[int]", line["model_input"])),
        loss_fn_inputs={
            "target_tokens": tinker.TensorData.from_numpy(np.array(line["target_tokens"], dtype=np.int64)),
            "weights": tinker.TensorData.from_numpy(np.array(line["weights"], dtype=np.float32)),
        },
    )
