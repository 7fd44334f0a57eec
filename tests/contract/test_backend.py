"""The trainer's own way to a TuFT server (services/trainer/tuft.py) on the fake and on the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from services.trainer.backend import Adam, Adapter
from services.trainer.batches.batching import cut, longest_first
from services.trainer.batches.rows import Row
from services.trainer.errors import BackendError, Code
from services.trainer.host.readiness import ready_model
from services.trainer.tuft import TuftBackend, TuftSettings, connect
from services.trainer.tuft_http import TuftHttp
from tests.contract.driving import RANK, Server

ADAM = Adam(learning_rate=5e-3, beta1=0.9, beta2=0.95, epsilon=1e-12, weight_decay=0.0, grad_clip_norm=0.0)


def examples(count: int) -> list[Row]:
    """Rows of 6 to 12 tokens, the second half of each trained."""
    draws = np.random.default_rng(1)
    made = []
    for index in range(count):
        length = int(draws.integers(6, 13))
        weights = (np.arange(length - 1) >= length // 2).astype(np.float32)
        made.append(Row(index, draws.integers(3, 400, length).astype(np.int32), weights, target_bytes=length))
    return made


ROWS = examples(8)
WEIGHTS = [row.target_weights for row in ROWS]


@pytest.fixture
def connected(any_server: Server) -> Iterator[Callable[..., TuftBackend]]:
    """Makes backends on the server; lets go of them at the end."""
    made: list[TuftBackend] = []

    def make(**changes: Any) -> TuftBackend:
        settings = TuftSettings(url=any_server.url, api_key=any_server.api_key, call_deadline=60, create_deadline=60)
        adapter = Adapter(any_server.model_name, RANK, train_mlp=True, train_attn=True, train_unembed=True)
        adapter = replace(adapter, **{key: changes.pop(key) for key in ("model", "rank") if key in changes})
        backend = connect(replace(settings, **changes), adapter)
        made.append(backend)
        return backend

    yield make
    for backend in made:
        backend.close()


def train(backend: TuftBackend, steps: int) -> list[list[bytes]]:
    """Logprobs of every step, submitted without waiting."""
    pending = [(backend.forward_backward(ROWS, WEIGHTS), backend.optim_step(ADAM)) for _ in range(steps)]
    found = []
    for logprobs, optimized in pending:
        found.append([row.tobytes() for row in logprobs.result()])
        optimized.result()
    return found


def test_a_run_continues_from_its_checkpoint_to_the_bit(connected: Callable[..., TuftBackend]) -> None:
    first = connected()
    start = first.save_state("c0").result()
    whole = train(first, 4)
    second = connected()
    second.load(start, optimizer=True).result()
    assert train(second, 2) == whole[:2]
    middle = second.save_state("c2").result()
    assert middle == f"tinker://{second.run_id}/weights/c2"
    third = connected()
    third.load(middle, optimizer=True).result()
    assert train(third, 2) == whole[2:]
    assert third.save_adapter("served").result() == f"tinker://{third.run_id}/sampler_weights/served"


def test_forward_leaves_no_gradient(connected: Callable[..., TuftBackend]) -> None:
    backend = connected()
    before = [row.tobytes() for row in backend.forward(ROWS).result()]
    backend.optim_step(ADAM).result()
    assert [row.tobytes() for row in backend.forward(ROWS).result()] == before


def test_rows_filled_up_to_one_length_train_as_they_are(connected: Callable[..., TuftBackend]) -> None:
    even = connected()
    start = even.save_state("c0").result()
    uneven = connected(even=False)
    uneven.load(start, optimizer=True).result()
    filled, alone = ([np.frombuffer(row, np.float32) for row in train(backend, 3)[2]] for backend in (even, uneven))
    assert [len(row) for row in filled] == [row.length - 1 for row in ROWS]
    for ours, theirs in zip(filled, alone, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_what_a_server_says_of_packing_is_true_once_there_is_an_adapter(
    any_server: Server, connected: Callable[..., TuftBackend]
) -> None:
    connected()
    served = ready_model(TuftHttp(any_server.url, any_server.api_key), any_server.model_name)
    assert served.accelerated == bool(served.max_tokens_per_pass)
    assert served.accelerated != bool(served.not_accelerated)
    assert served.max_model_len == 1024


def test_a_step_packed_into_calls_trains_as_one_call_does(connected: Callable[..., TuftBackend]) -> None:
    rows = longest_first(ROWS)
    whole = connected(even=False)
    start = whole.save_state("c0").result()
    packed = connected(even=False)
    packed.load(start, optimizer=True).result()
    found = {}
    for _ in range(2):
        whole.forward_backward(rows, [row.target_weights for row in rows])
        whole.optim_step(ADAM).result()
        for places in cut(rows, 30, packs=True):
            call = [rows[place] for place in places]
            packed.forward_backward(call, [row.target_weights for row in call])
        packed.optim_step(ADAM).result()
    for backend in (whole, packed):
        found[backend] = np.concatenate(backend.forward(rows).result())
    np.testing.assert_allclose(found[packed], found[whole], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"model": "nobody/nothing"}, Code.MODEL_NOT_SERVED),
        ({"api_key": "tml-wrong"}, Code.KEY_REJECTED),
        ({"api_key": "wrong"}, Code.KEY_REJECTED),
    ],
)
def test_what_the_server_would_never_train_is_refused_with_its_code(
    connected: Callable[..., TuftBackend], changes: dict[str, str], code: Code
) -> None:
    with pytest.raises(BackendError) as refused:
        connected(**changes)
    assert refused.value.code == code
    assert not refused.value.retryable


def test_a_checkpoint_that_is_not_there_is_known_as_such_and_the_client_is_spent(
    connected: Callable[..., TuftBackend],
) -> None:
    backend = connected()
    with pytest.raises(BackendError) as lost:
        backend.load(f"tinker://{backend.run_id}/weights/nowhere", optimizer=True).result()
    assert lost.value.code == Code.SERVER_RESTARTED
    with pytest.raises(BackendError) as spent:
        backend.forward(ROWS).result()
    assert spent.value.code == Code.SEQUENCE_CONFLICT


@pytest.mark.slow
def test_a_restart_is_noticed_though_the_server_answers_as_if_nothing_had_been(
    any_server: Server, connected: Callable[..., TuftBackend]
) -> None:
    backend = connected()
    train(backend, 1)
    backend.check_alive()
    any_server.kill()
    any_server.start()
    with pytest.raises(BackendError) as noticed:
        backend.check_alive()
    assert noticed.value.code == Code.SERVER_RESTARTED
