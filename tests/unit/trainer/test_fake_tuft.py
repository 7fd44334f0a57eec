"""The faults of the fake TuFT, met by the real SDK: each does what its name says, when it was ordered."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tinker
from tinker import types

from tests.contract.driving import ADAM, DEADLINE, client_at, client_of, close_sessions, forward, loss, rows, step
from tests.fakes.fake_tuft import FakeTuft

os.environ["TINKER_TELEMETRY"] = "0"


@pytest.fixture
def fake(fake_tuft: FakeTuft) -> Iterator[FakeTuft]:
    yield fake_tuft
    fake_tuft.clear_faults()  # so that no SDK thread goes on retrying
    close_sessions()


def checkpoint(client: tinker.TrainingClient, name: str) -> str:
    return str(client.save_state(name).result(DEADLINE).path)


def test_training_lowers_the_loss(fake: FakeTuft) -> None:
    client, data = client_of(fake), rows(16)
    losses = [step(client, data, adam=types.AdamParams(learning_rate=0.05))[0] for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    run = fake.state()["runs"][client.model_id]
    assert (run["optimizer_steps"], run["next_seq_id"]) == (30, 61)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    from tests.fakes.tuft_model import Adapter, Base, Row

    draws = np.random.default_rng(0)
    adapter = Adapter(Base(16), rank=3, seed=1)
    adapter.parameters["b"] = draws.standard_normal(adapter.parameters["b"].shape)
    batch = [Row(draws.integers(0, 16, 9), draws.integers(0, 16, 9), draws.random(9)) for _ in range(2)]
    adapter.backward(batch)
    gradients = adapter._gradients()
    for name, value in adapter.parameters.items():
        for place in [(0, 0), (2, 2), (1, 2)]:
            kept, around = value[place], []
            for nudge in (1e-6, -1e-6):
                value[place] = kept + nudge
                around.append(adapter.forward(batch)[1])
            value[place] = kept
            assert gradients[name][place] == pytest.approx((around[0] - around[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_calls_cut_anywhere_give_the_same_weights_to_the_bit(fake: FakeTuft) -> None:
    start = checkpoint(client_of(fake), "start")
    data = rows(9)
    clients = [client_at(fake, start) for _ in range(3)]
    step(clients[0], data)
    step(clients[1], data[:4], data[4:])
    step(clients[2], *[[row] for row in data[::-1]])
    weights = {fake.state()["runs"][client.model_id]["weights_sha256"] for client in clients}
    assert len(weights) == 1


def test_an_error_at_submission_is_retried_by_the_sdk(fake: FakeTuft) -> None:
    client = client_of(fake)
    fake.fault("forward_backward", "http_500", at=2, times=1)
    step(client, rows(2))
    step(client, rows(2))
    assert fake.faults()[0]["hits"] == 1
    assert len(fake.calls("forward_backward")) == 3


@pytest.mark.parametrize("fault", ["http_500", "http_429"])
def test_an_error_at_retrieval_for_ever_leaves_the_caller_waiting(fake: FakeTuft, fault: str) -> None:
    client = client_of(fake)
    fake.fault("retrieve_future", fault)
    with pytest.raises(concurrent.futures.TimeoutError):
        client.forward(rows(1), "cross_entropy").result(0.5)


def test_a_dropped_answer_never_comes_though_the_work_was_done(fake: FakeTuft) -> None:
    client = client_of(fake)
    step(client, rows(2))
    fake.fault("optim_step", "dropped")
    client.forward_backward(rows(2), "cross_entropy").result(DEADLINE)
    pending = client.optim_step(ADAM)
    fake.wait_for(lambda: fake.state()["runs"][client.model_id]["optimizer_steps"] == 2)
    with pytest.raises(concurrent.futures.TimeoutError):
        pending.result(0.5)


def test_a_conflict_comes_from_the_ordered_call_on(fake: FakeTuft) -> None:
    client = client_of(fake)
    fake.fault("forward_backward", "conflict_409", at=2)
    step(client, rows(2))
    with pytest.raises(ValueError, match=r"409.*Sequence conflict"):
        step(client, rows(2))


def test_out_of_memory_strikes_above_the_limit_and_leaves_gradients_behind(fake: FakeTuft) -> None:
    client, data = client_of(fake), rows(8)
    longest = max(row.model_input.length for row in data)
    fake.fault("forward_backward", "oom", above_tokens=7 * longest)
    with pytest.raises(ValueError, match=r"(?s)torch\.OutOfMemoryError: CUDA out of memory.*status 422"):
        client.forward_backward(data, "cross_entropy").result(DEADLINE)
    assert fake.state()["runs"][client.model_id]["gradients_wait"]
    client.forward_backward(data[:7], "cross_entropy").result(DEADLINE)


def test_nan_is_in_logprobs_and_loss(fake: FakeTuft) -> None:
    client = client_of(fake)
    fake.fault("forward", "nan", times=1)
    assert np.isnan(forward(client, rows(2))).all()
    assert np.isfinite(loss(client, rows(2)))


def test_a_slow_operation_is_late_and_right(fake: FakeTuft) -> None:
    client = client_of(fake)
    expected = loss(client, rows(2))
    fake.fault("forward", "slow", ms=120_000)
    pending = client.forward(rows(2), "cross_entropy")
    with pytest.raises(concurrent.futures.TimeoutError):
        pending.result(0.3)
    fake.clear_faults()
    assert pending.result(DEADLINE).metrics["loss:sum"] == expected


def test_a_late_call_holds_up_no_other_client(fake: FakeTuft) -> None:
    client, other = client_of(fake), client_of(fake)
    expected = loss(client, rows(2))
    fake.fault("forward", "late", times=1, ms=120_000)
    pending = client.forward(rows(2), "cross_entropy")
    fake.wait_for(lambda: fake.faults()[0]["hits"] == 1)
    assert loss(other, rows(2))
    fake.clear_faults()
    assert pending.result(DEADLINE).metrics["loss:sum"] == expected


def test_a_refused_connection_is_survived_by_the_sdk(fake: FakeTuft) -> None:
    client = client_of(fake)
    expected = loss(client, rows(2))
    fake.fault("forward", "refuse", times=1, seconds=0.2)
    assert loss(client, rows(2)) == expected


def test_a_restart_with_records_rolls_back_in_silence(fake: FakeTuft) -> None:
    client, data = client_of(fake), rows(4)
    step(client, data)
    checkpoint(client, "one")
    at_one = forward(client, data)
    step(client, data)
    fake.restart()
    np.testing.assert_array_equal(forward(client, data), at_one)
    assert fake.state()["boots"] == 2


def test_operations_in_flight_at_a_restart_are_cancelled_and_then_conflict(fake: FakeTuft) -> None:
    client, data = client_of(fake), rows(4)
    checkpoint(client, "zero")
    fake.fault("optim_step", "restart_rollback", when="after", times=1)
    client.forward_backward(data, "cross_entropy").result(DEADLINE)
    with pytest.raises(Exception, match="Promise expired/broken"):
        client.optim_step(ADAM).result(DEADLINE)
    assert fake.state()["runs"][client.model_id]["optimizer_steps"] == 0


def test_a_restart_that_loses_everything_knows_no_run(fake: FakeTuft) -> None:
    client = client_of(fake)
    path = checkpoint(client, "one")
    fake.restart(lose_everything=True)
    with pytest.raises(ValueError, match=r"404.*Unknown model"):
        forward(client, rows(1))
    with pytest.raises(ValueError, match=r"404.*Unknown model"):
        client_at(fake, path)


def test_a_crash_while_saving_leaves_half_a_checkpoint_that_does_not_load(fake: FakeTuft) -> None:
    client, data = client_of(fake), rows(4)
    good = checkpoint(client, "good")
    expected = forward(client, data)
    step(client, data)
    fake.fault("save_weights", "crash", when="during")
    client.save_state("half")
    fake.wait_for(lambda: not fake.running)
    assert (fake.checkpoint_dir / client.model_id / "half" / "adapter").is_dir()
    fake.start()
    with pytest.raises(ValueError, match="Failed to read metadata for checkpoint half"):
        client_at(fake, f"tinker://{client.model_id}/weights/half")
    np.testing.assert_array_equal(forward(client_at(fake, good), data), expected)


def test_calls_are_logged_with_their_size_and_outcome(fake: FakeTuft) -> None:
    client, data = client_of(fake), rows(3)
    step(client, data)
    backward, optimized = fake.calls("forward_backward")[0], fake.calls("optim_step")[0]
    longest = max(row.model_input.length for row in data)
    assert (backward["rows"], backward["padded_tokens"], backward["outcome"]) == (3, 3 * longest, "ok")
    assert (optimized["learning_rate"], optimized["outcome"]) == (ADAM.learning_rate, "ok")
    assert backward["seq_id"] < optimized["seq_id"]


def test_a_fault_that_does_not_exist_is_refused(fake: FakeTuft) -> None:
    with pytest.raises(ValueError, match="fault: there is no 'explode'; choose one of http_500"):
        fake.fault("forward", "explode")


def test_the_process_ends_with_its_test(tmp_path: Path) -> None:
    with FakeTuft(tmp_path) as gone:
        assert gone.running
    assert not gone.running
