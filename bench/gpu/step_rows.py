"""Steps of random tokens, and the calls that they are cut into for TuFT."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from tinker import types

from bench.gpu.profile_server import step_lengths
from services.trainer.batches.batching import calls, filled, longest_first
from services.trainer.batches.rows import Row

GPU: Final = torch.cuda.is_available()
PROMPT: Final = 0.35
Rows = list[tuple[np.ndarray, np.ndarray]]  #: token ids [n + 1] and weights of targets [n]


def rows_of(step: int, vocabulary: int) -> Rows:
    """A step's rows; tokens follow a skewed distribution, so that there is something to learn."""
    draw = np.random.default_rng(5000 + step)
    made = []
    for length in step_lengths(step) if GPU else [8 + one // 32 for one in step_lengths(step)][:8]:
        ids = np.minimum(draw.zipf(1.2, length + 1), vocabulary - 1).astype(np.int64)
        weights = np.ones(length, np.float32)
        weights[: int(PROMPT * length)] = 0
        made.append((ids, weights))
    return made


def datum(ids: np.ndarray, weights: np.ndarray, length: int) -> types.Datum:
    """As the SDK sends it, filled up to `length` targets with weight 0."""
    more = length - len(weights)
    ids, weights = np.concatenate([ids, np.full(more, ids[-1])]), np.concatenate([weights, np.zeros(more, np.float32)])
    return types.Datum(
        model_input=types.ModelInput.from_ints(ids[:-1].tolist()),
        loss_fn_inputs={
            "target_tokens": types.TensorData.from_numpy(ids[1:]),
            "weights": types.TensorData.from_numpy(weights),
        },
    )


def one_call(rows: Rows) -> list[list[types.Datum]]:
    """The whole step as it is."""
    return [[datum(ids, weights, len(weights)) for ids, weights in rows]]


def stock_calls(rows: Rows, budget: int) -> list[list[types.Datum]]:
    """As the trainer cuts and fills a step for stock TuFT."""
    made = [Row(number, ids.astype(np.int32), weights, 0) for number, (ids, weights) in enumerate(rows)]
    cut = list(calls(longest_first(made), budget))
    return [[datum(*rows[row.conversation], filled(call[0].length - 1)) for row in call] for call in cut]
