"""Rows as the SDK's data, and its answers as logprobs of rows. The server trains what is refused here wrongly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from tinker import types

from services.trainer.backend import Logprobs
from services.trainer.batches.batching import filled
from services.trainer.batches.rows import Row
from services.trainer.batches.weighting import Weights
from services.trainer.errors import Code, backend_error
from turnloom.plural import counted


def datums(
    rows: Sequence[Row],
    weights: Sequence[Weights],
    *,
    even: bool,
    max_model_len: int | None = None,
    vocabulary: int | None = None,
) -> list[types.Datum]:
    """Convert rows to the SDK's form, after checking that the server would train what was meant.

    The server computes on rows of one length anyway, and fills them up itself. But then it masks what it filled in,
    and attention with a mask is slower than causal attention without one. What is filled in here comes after
    everything that is trained, which cannot see it, and has weight 0.

    Args:
        rows: of one call.
        weights: of each row, shape [N - 1].
        even: whether rows are filled up to one length.
        max_model_len: tokens of a row at most; None: no limit.
        vocabulary: tokens of the model; None: unknown.

    Raises:
        BackendError: BAD_REQUEST; a row has other weights than targets, or breaks a limit.
    """
    if not _sound(rows, weights, max_model_len, vocabulary):
        for row, row_weights in zip(rows, weights, strict=True):
            _check(row, row_weights, max_model_len, vocabulary)
    targets = [row.length - 1 for row in rows]
    if even and rows:
        most = filled(max(targets))
        targets = [min(most, max_model_len or most)] * len(rows)
    return [_datum(*each) for each in zip(rows, weights, targets, strict=True)]


def logprobs_of(
    rows: Sequence[Row], data: Sequence[types.Datum]
) -> Callable[[types.ForwardBackwardOutput], Sequence[Logprobs]]:
    """Return a function from the server's answer to logprobs of the rows without padding."""

    def convert(output: types.ForwardBackwardOutput) -> Sequence[Logprobs]:
        found = [cast(Logprobs, one["logprobs"].to_numpy()) for one in output.loss_fn_outputs]
        expected = [datum.model_input.length for datum in data]
        if [len(one) for one in found] != expected:
            raise backend_error(
                Code.SDK_MISMATCH,
                f"the server answered logprobs of lengths {[len(one) for one in found]}, not {expected}",
            )
        return [one[: row.length - 1] for one, row in zip(found, rows, strict=True)]

    return convert


def _datum(row: Row, weights: Weights, targets: int) -> types.Datum:
    """Make a datum, padded to the given number of targets with the row's last token."""
    ids, sent_weights = row.token_ids.astype(np.int64), weights.astype(np.float32)
    if (more := targets + 1 - row.length) > 0:
        ids = np.concatenate([ids, np.full(more, row.token_ids[-1], np.int64)])
        sent_weights = np.concatenate([sent_weights, np.zeros(more, np.float32)])
    return types.Datum(
        model_input=types.ModelInput.from_ints(ids[:-1].tolist()),
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_numpy(ids[1:]),
            "weights": types.TensorData.from_numpy(sent_weights),
        },
    )


def _sound(rows: Sequence[Row], weights: Sequence[Weights], max_model_len: int | None, vocabulary: int | None) -> bool:
    """Look at all rows at once, as _check does at each; False: one of them may be unsound, and _check says which."""
    if not rows or any(len(one) != row.length - 1 for row, one in zip(rows, weights, strict=True)):
        return False
    ids = np.concatenate([row.token_ids for row in rows])
    return bool(
        max(row.length for row in rows) <= (max_model_len or math.inf)
        and ids.min() >= 0
        and ids.max() < (math.inf if vocabulary is None else vocabulary)
        and np.isfinite(np.concatenate(weights)).all()
    )


def _check(row: Row, weights: Weights, max_model_len: int | None, vocabulary: int | None) -> None:
    """Refuse rows that break the server: it zero-pads short weights, trains on NaN and dies of out-of-range ids."""
    where = f"a row of conversation {row.conversation}"
    if len(weights) != row.length - 1:
        raise backend_error(
            Code.BAD_REQUEST,
            f"{where} has {counted(row.length, 'token')} and {counted(len(weights), 'weight')}, not one less",
        )
    if not np.isfinite(weights).all():
        raise backend_error(Code.BAD_REQUEST, f"{where} has a weight that is not finite")
    low, high = int(row.token_ids.min()), int(row.token_ids.max())
    if low < 0 or (vocabulary is not None and high >= vocabulary):
        limit = "" if vocabulary is None else f"; the model has ids 0 to {vocabulary - 1}"
        raise backend_error(Code.BAD_REQUEST, f"{where} has token ids from {low} to {high}{limit}")
    if max_model_len and row.length > max_model_len:
        raise backend_error(
            Code.BAD_REQUEST,
            f"{where} has {row.length} tokens, the server's max_model_len is {max_model_len}",
            hint=f"Set the job's max_length to {max_model_len} or less.",
        )
