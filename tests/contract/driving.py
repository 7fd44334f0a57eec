"""Short words for what the contract does through the tinker SDK."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tinker
from numpy.typing import NDArray
from tinker import types

from tests.fakes.fake_tuft import FakeTuft
from turnloom.embedded.tuft_server import TuftServer

Server = FakeTuft | TuftServer
DEADLINE = 60.0  # seconds for one operation
RANK = 4
OPEN: list[tinker.ServiceClient] = []


def service_of(server: Server, api_key: str | None = None) -> tinker.ServiceClient:
    """A session of the SDK; its heartbeats go on, and complain of a server that ended, until close_sessions()."""
    service = tinker.ServiceClient(base_url=server.url, api_key=api_key or server.api_key)
    OPEN.append(service)
    return service


def close_sessions() -> None:
    while OPEN:
        service = OPEN.pop()
        if service._session_holder is not None:  # asking for it would open a session
            service._session_holder.close()


def client_of(server: Server, *, rank: int = RANK, seed: int | None = None) -> tinker.TrainingClient:
    """A client with a fresh adapter."""
    service = service_of(server)
    return service.create_lora_training_client(server.model_name, rank=rank, seed=seed)


def client_at(server: Server, path: str) -> tinker.TrainingClient:
    """A client that continues from a saved state."""
    client = client_of(server)
    client.load_state_with_optimizer(path).result(DEADLINE)
    return client


def datum(tokens: Sequence[int], weights: Sequence[float]) -> types.Datum:
    """A row: tokens[1:] are the targets, weighed by weights."""
    targets = list(tokens[1:])
    return types.Datum(
        model_input=types.ModelInput.from_ints(list(tokens[:-1])),
        loss_fn_inputs={
            "target_tokens": types.TensorData(data=targets, dtype="int64", shape=[len(targets)]),
            "weights": types.TensorData(data=list(weights), dtype="float32", shape=[len(weights)]),
        },
    )


def rows(count: int, *, seed: int = 0) -> list[types.Datum]:
    """Rows of 6 to 12 tokens, the first half of each without weight."""
    draws = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        tokens = draws.integers(3, 400, draws.integers(6, 13)).tolist()
        first = len(tokens) // 2
        made.append(datum(tokens, [0.0] * (first - 1) + [1.0] * (len(tokens) - first)))
    return made


def forward(client: tinker.TrainingClient, data: list[types.Datum]) -> NDArray[np.float32]:
    """Log probabilities of all targets, row after row."""
    output = client.forward(data, "cross_entropy").result(DEADLINE)
    return np.concatenate([row["logprobs"].to_numpy() for row in output.loss_fn_outputs])


def loss(client: tinker.TrainingClient, data: list[types.Datum]) -> float:
    """The server's own loss."""
    return float(client.forward(data, "cross_entropy").result(DEADLINE).metrics["loss:sum"])


def step(client: tinker.TrainingClient, *calls: list[types.Datum], adam: types.AdamParams | None = None) -> list[float]:
    """One optimizer step on one or several forward_backward calls; their losses."""
    losses = [
        float(client.forward_backward(call, "cross_entropy").result(DEADLINE).metrics["loss:sum"]) for call in calls
    ]
    client.optim_step(adam or ADAM).result(DEADLINE)
    return losses


ADAM = types.AdamParams(learning_rate=5e-3)
