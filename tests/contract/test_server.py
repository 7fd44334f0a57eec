"""What the trainer relies on in a TuFT server. The fake and the real one pass the same tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tinker

from services.trainer.errors import BackendError
from services.trainer.tuft_http import TuftHttp
from tests.contract.driving import (
    ADAM,
    DEADLINE,
    RANK,
    Server,
    client_at,
    client_of,
    datum,
    forward,
    loss,
    rows,
    service_of,
    step,
)


def save(client: tinker.TrainingClient, name: str) -> str:
    return str(client.save_state(name).result(DEADLINE).path)


def folder_of(server: Server, path: str) -> Path:
    run, _, name = path.removeprefix("tinker://").split("/")
    return server.checkpoint_dir / run / name


def test_the_loss_is_the_weighted_sum_of_negative_logprobs_over_all_rows(server: Server) -> None:
    client, data = client_of(server), rows(6)
    weights = np.concatenate([row.loss_fn_inputs["weights"].to_numpy() for row in data])
    assert loss(client, data) == pytest.approx(-float((forward(client, data) * weights).sum()), rel=1e-5)
    assert loss(client, data + data) == pytest.approx(2 * loss(client, data), rel=1e-5)


def test_logprobs_come_row_by_row_in_the_order_sent(server: Server) -> None:
    client, data = client_of(server), rows(5)
    output = client.forward(data, "cross_entropy").result(DEADLINE)
    assert [len(row["logprobs"].data) for row in output.loss_fn_outputs] == [row.model_input.length for row in data]
    backwards = client.forward(data[::-1], "cross_entropy").result(DEADLINE)
    for row, again in zip(output.loss_fn_outputs, backwards.loss_fn_outputs[::-1], strict=True):
        np.testing.assert_allclose(row["logprobs"].to_numpy(), again["logprobs"].to_numpy(), rtol=1e-5)


def test_weights_scale_the_loss_and_zero_removes_a_token_from_it(server: Server) -> None:
    client, tokens = client_of(server), [5, 9, 17, 33, 65]
    last = forward(client, [datum(tokens, [0, 0, 0, 1])])[3]
    assert loss(client, [datum(tokens, [0, 0, 0, 1])]) == pytest.approx(-last, rel=1e-5)
    assert loss(client, [datum(tokens, [0, 0, 0, 0.25])]) == pytest.approx(-last / 4, rel=1e-5)
    assert loss(client, [datum(tokens, [0, 0, 0, 0])]) == 0


def test_gradients_add_up_over_calls_until_the_optimizer_step(server: Server) -> None:
    start = save(client_of(server), "start")
    data = rows(8)
    whole, cut = client_at(server, start), client_at(server, start)
    step(whole, data)
    step(cut, data[:3], data[3:])
    np.testing.assert_allclose(forward(cut, data), forward(whole, data), rtol=1e-5, atol=1e-6)
    assert not np.allclose(forward(whole, data), forward(client_at(server, start), data))


def test_an_optimizer_step_without_gradients_changes_nothing(server: Server) -> None:
    client, data = client_of(server), rows(4)
    before = forward(client, data)
    client.optim_step(ADAM).result(DEADLINE)
    np.testing.assert_array_equal(forward(client, data), before)


def test_two_clients_from_one_state_are_equal_to_the_bit(server: Server) -> None:
    client, data = client_of(server), rows(8)
    step(client, data)
    state = save(client, "after-one")
    first, second = client_at(server, state), client_at(server, state)
    for _ in range(3):
        assert step(first, data) == step(second, data)
    np.testing.assert_array_equal(forward(first, data), forward(second, data))


def test_pipelined_calls_give_the_same_bits_as_calls_one_by_one(server: Server) -> None:
    start = save(client_of(server), "start")
    data = rows(8)
    patient, eager = client_at(server, start), client_at(server, start)
    expected = [step(patient, data)[0] for _ in range(4)]
    pending = [(eager.forward_backward(data, "cross_entropy"), eager.optim_step(ADAM)) for _ in range(4)]
    assert [float(call.result(DEADLINE).metrics["loss:sum"]) for call, _ in pending] == expected


def test_runs_that_share_the_server_call_by_call_are_each_as_if_alone(server: Server) -> None:
    start = save(client_of(server), "start")
    left_data, right_data = rows(6, seed=1), rows(6, seed=2)
    alone = client_at(server, start)
    expected = [step(alone, left_data)[0] for _ in range(3)]
    left, right = client_at(server, start), client_at(server, start)
    found = []
    for _ in range(3):
        ours = left.forward_backward(left_data, "cross_entropy")
        theirs = right.forward_backward(right_data, "cross_entropy")
        found.append(float(ours.result(DEADLINE).metrics["loss:sum"]))
        theirs.result(DEADLINE)
        for optimized in (left.optim_step(ADAM), right.optim_step(ADAM)):
            optimized.result(DEADLINE)
    assert found == expected


def test_the_same_seed_gives_two_clients_different_runs(server: Server) -> None:
    first, second, data = client_of(server, seed=1), client_of(server, seed=1), rows(8)
    assert step(first, data) == pytest.approx(step(second, data), rel=1e-5)
    assert step(first, data) != pytest.approx(step(second, data), rel=1e-6)


def test_a_saved_state_continues_to_the_bit_with_its_optimizer_and_differently_without(server: Server) -> None:
    client, data = client_of(server), rows(8)
    for _ in range(3):
        step(client, data)
    state = save(client, "three")
    expected = [step(client, data) for _ in range(3)]
    resumed = client_at(server, state)
    assert [step(resumed, data) for _ in range(3)] == expected
    cold = client_of(server)
    cold.load_state(state).result(DEADLINE)
    assert step(cold, data) == expected[0]  # same weights
    assert step(cold, data) != expected[1]  # another step


def test_loading_leaves_gradients_that_wait_where_they_are(server: Server) -> None:
    client, data = client_of(server), rows(6)
    state = save(client, "start")
    at_start = forward(client, data)
    client.forward_backward(data, "cross_entropy").result(DEADLINE)
    client.load_state_with_optimizer(state).result(DEADLINE)
    np.testing.assert_array_equal(forward(client, data), at_start)
    client.optim_step(ADAM).result(DEADLINE)
    assert not np.array_equal(forward(client, data), at_start)


def test_a_checkpoint_is_a_folder_with_adapter_optimizer_and_metadata(server: Server) -> None:
    client = client_of(server)
    state = save(client, "layout")
    folder = folder_of(server, state)
    assert state == f"tinker://{client.model_id}/weights/layout"
    assert {path.name for path in folder.iterdir()} == {"adapter", "optimizer", "metadata.json"}
    assert (folder / "optimizer" / "optimizer.pt").is_file()
    assert (folder / "adapter" / "adapter_model.safetensors").is_file()
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", RANK, 2 * RANK)
    sampler = client.save_weights_for_sampler("served").result(DEADLINE).path
    assert sampler == f"tinker://{client.model_id}/sampler_weights/served"
    assert not (folder_of(server, sampler) / "optimizer").exists()


def test_a_name_used_twice_overwrites_the_first_checkpoint(server: Server) -> None:
    client, data = client_of(server), rows(4)
    first = save(client, "same")
    step(client, data)
    assert save(client, "same") == first
    np.testing.assert_array_equal(forward(client_at(server, first), data), forward(client, data))


def test_a_missing_checkpoint_is_404_and_leaves_the_client_in_conflict_for_ever(server: Server) -> None:
    client = client_of(server)
    with pytest.raises(ValueError, match=r"404.*Failed to read metadata for checkpoint nowhere"):
        client.load_state_with_optimizer(f"tinker://{client.model_id}/weights/nowhere").result(DEADLINE)
    for expected_got in (2, 3):
        with pytest.raises(ValueError, match=f"409.*Sequence conflict: expected 1, got {expected_got}"):
            client.forward(rows(1), "cross_entropy").result(DEADLINE)


def test_a_loss_function_that_does_not_exist_is_422_and_leaves_the_client_in_conflict(server: Server) -> None:
    client = client_of(server)
    with pytest.raises(Exception, match="422"):
        client.forward(rows(1), "nonsense").result(DEADLINE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"409.*Sequence conflict"):
        client.forward(rows(1), "cross_entropy").result(DEADLINE)


def test_a_failure_inside_the_backend_leaves_the_client_usable(server: Server) -> None:
    client, data = client_of(server), rows(4)
    with pytest.raises(ValueError, match="Input tensors must have the same shape"):
        client.forward_backward([datum([5, 6, 7, 8], [1.0])], "cross_entropy").result(DEADLINE)
    assert forward(client, data).size


def test_short_weights_beside_a_longer_row_are_padded_with_zeros_in_silence(server: Server) -> None:
    client, tokens, other = client_of(server), [5, 6, 7, 8], [11, 12, 13, 14, 15]
    long_row = datum(other, [1, 1, 1, 1])
    padded = loss(client, [datum(tokens, [1, 0, 0]), long_row])
    assert loss(client, [datum(tokens, [1]), long_row]) == pytest.approx(padded, rel=1e-6)


def test_a_checkpoint_of_another_rank_is_refused(server: Server) -> None:
    state = save(client_of(server, rank=2), "two")
    with pytest.raises(ValueError, match="LoRA rank 2 into a training run with LoRA rank 4"):
        client_of(server).load_state_with_optimizer(state).result(DEADLINE)


def test_an_unknown_model_and_a_wrong_key_are_refused_at_once(server: Server) -> None:
    service = service_of(server)
    with pytest.raises(tinker.NotFoundError, match="Unknown model: nobody/nothing"):
        service.create_lora_training_client("nobody/nothing", rank=RANK)
    with pytest.raises(tinker.PermissionDeniedError, match="Invalid API key"):
        service_of(server, "tml-wrong").create_lora_training_client(server.model_name)


def test_an_unloaded_runs_checkpoints_load_no_more_until_their_files_stand_in_for_another_runs(server: Server) -> None:
    client, data = client_of(server), rows(6)
    step(client, data)
    state = save(client, "kept")
    expected = step(client, data)
    kept = folder_of(server, state)
    unload(server, client.model_id)
    with pytest.raises(ValueError, match=r"404.*Unknown model"):
        client_of(server).load_state_with_optimizer(state).result(DEADLINE)
    fresh = client_of(server)
    stand_in = save(fresh, "stand-in")
    for part in ("adapter", "optimizer"):
        shutil.copytree(kept / part, folder_of(server, stand_in) / part, dirs_exist_ok=True)
    assert step(client_at(server, stand_in), data) == expected


def test_a_released_run_is_unknown_and_the_files_of_its_checkpoints_stay(server: Server) -> None:
    client = client_of(server)
    folder = folder_of(server, save(client, "kept"))
    http = TuftHttp(server.url, server.api_key)
    assert http.holds(client.model_id)
    unload(server, client.model_id)
    assert not http.holds(client.model_id)
    with pytest.raises(BackendError):
        http.delete_checkpoint(client.model_id, "kept")
    assert (folder / "adapter").is_dir()


def unload(server: Server, model_id: str) -> None:
    service = service_of(server)

    async def ask() -> None:
        with service.holder.aclient(tinker.lib.client_connection_pool_type.ClientConnectionPoolType.TRAIN) as aclient:
            await aclient.models.unload(request=tinker.types.UnloadModelRequest(model_id=model_id))

    service.holder.run_coroutine_threadsafe(ask()).result(DEADLINE)
