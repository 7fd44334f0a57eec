"""The drive loop through the real SDK on the fake TuFT, with a journal in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from services.store.blobs.objects import Objects
from services.store.records import Control, Hyperparameters, Schedule, StepRecord, WeightNormalization
from services.trainer.backend import Adapter, Backend
from services.trainer.batches.rows import Row
from services.trainer.checkpoints import Restorer, ServerFolder, prove
from services.trainer.errors import BackendError, CallOutOfMemory, CheckpointLost, Code, NonFiniteLoss, ProbeMismatch
from services.trainer.evaluation import Patience
from services.trainer.host.readiness import ready_model
from services.trainer.loop import RunSpec
from services.trainer.tuft import TuftBackend, check_sdk, connect
from services.trainer.tuft_http import TuftHttp
from tests.fakes.fake_tuft import FakeTuft
from tests.support.trainer_parts import SMALL, MemoryJournal, conversations, plan, row, run, settings_of

HYPER = Hyperparameters(
    max_steps=8, batch_size=4, learning_rate=1e-2, lora_rank=4, eval_every=4, checkpoint_every=4, warmup_steps=2
)
TEST = conversations(5, seed=1)


@pytest.fixture
def client(fake_tuft: FakeTuft) -> Iterator[Callable[..., TuftBackend]]:
    """Makes clients of the fake and closes them."""
    made: list[TuftBackend] = []

    def make(**settings: float) -> TuftBackend:
        made.append(connect(settings_of(fake_tuft, **settings), SMALL))
        return made[-1]

    yield make
    for one in made:
        one.close()


def fresh(made: RunSpec, backend: Backend, journal: MemoryJournal | None = None) -> MemoryJournal:
    """A whole run from step 0."""
    journal = journal or MemoryJournal()
    untested = StepRecord(0, made.attempt) if made.test_rows else None
    run(made, backend, journal).train(0, save_first=True, untested=untested)
    return journal


def resumed(made: RunSpec, backend: Backend, journal: MemoryJournal, step: int) -> MemoryJournal:
    """A run of its own from the checkpoint of `step` that `journal` holds."""
    checkpoint = next(one for one in journal.checkpoints if one.step == step)
    backend.load(checkpoint.path, optimizer=True).result()
    prove(backend, checkpoint, made.probe_rows, 1e-9)
    again = MemoryJournal()
    run(replace(made, attempt=2), backend, again).train(step, save_first=False, untested=None)
    return again


def test_a_run_writes_every_step_once_with_its_sums(client: Callable[..., TuftBackend]) -> None:
    made = plan(HYPER, test=TEST)
    journal = fresh(made, client())
    assert [record.step for record in journal.steps] == list(range(9))
    assert [record.step for record in journal.steps if record.test_nll_sum is not None] == [0, 4, 8]
    assert [one.step for one in journal.checkpoints] == [0, 0, 4, 8]  # 0 again, with its evaluation
    for record in journal.steps[1:]:
        batch = made.batches.batch(record.step)
        assert record.tokens == sum(one.length for one in batch.rows)
        assert record.loss_tokens == sum(one.loss_tokens for one in batch.rows)
        assert record.weight_sum == pytest.approx(sum(one.weight_sum for one in batch.rows))
        assert record.objective == record.nll_sum
        assert set(record.phase_seconds) >= {"data", "forward_backward", "optim_step"}
    assert [record.learning_rate for record in journal.steps[1:4]] == pytest.approx([0.005, 0.01, 0.01])
    first, last = journal.steps[1], journal.steps[8]
    assert last.nll_sum / last.weight_sum < first.nll_sum / first.weight_sum


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit(client: Callable[..., TuftBackend]) -> None:
    made = plan(HYPER, test=TEST)
    whole = fresh(made, client())
    again = resumed(made, client(), whole, 4)
    assert again.series == whole.series[4:]
    assert again.steps[-1].test_nll_sum == whole.steps[-1].test_nll_sum


@pytest.mark.parametrize("depth", [1, 3, 8])
def test_the_pipeline_depth_changes_no_number(client: Callable[..., TuftBackend], depth: int) -> None:
    made = plan(HYPER)
    whole = fresh(made, client())
    deeper = plan(replace(HYPER, pipeline_depth=depth))
    assert resumed(deeper, client(), whole, 0).series == whole.series


def test_cutting_a_step_into_calls_changes_no_number(client: Callable[..., TuftBackend], fake_tuft: FakeTuft) -> None:
    whole = fresh(plan(HYPER), client())
    calls_before = len(fake_tuft.calls("forward_backward"))
    again = resumed(plan(replace(HYPER, max_tokens_per_call=30), ceiling=30), client(), whole, 0)
    assert again.series == whole.series
    calls = fake_tuft.calls("forward_backward")[calls_before:]
    assert len(calls) > 2 * 8
    assert all(call["tokens"] == call["padded_tokens"] <= 30 for call in calls)


def test_rows_reach_the_server_filled_up_to_one_length_within_its_limit(
    fake_tuft: FakeTuft,
) -> None:
    rows = [row(0, range(3, 38), [1.0] * 34), row(1, range(3, 12), [1.0] * 8)]
    backend = connect(replace(settings_of(fake_tuft), max_model_len=35), SMALL)
    for answer in (backend.forward_backward(rows, [one.target_weights for one in rows]), backend.forward(rows)):
        assert [len(logprobs) for logprobs in answer.result()] == [34, 8]
    for call in fake_tuft.calls("forward_backward") + fake_tuft.calls("forward"):
        assert (call["rows"], call["tokens"]) == (2, 2 * 35)  # 36, if the server's limit were not in the way
    backend.close()


def test_a_checkpoint_is_saved_behind_its_own_step_and_before_the_next(
    client: Callable[..., TuftBackend],
    fake_tuft: FakeTuft,
) -> None:
    fresh(plan(replace(HYPER, pipeline_depth=4)), client())
    kinds = [call["kind"] for call in fake_tuft.calls() if call["kind"] in ("optim_step", "save_weights", "forward")]
    saving = ["save_weights", "forward"]
    assert kinds == [*saving, *["optim_step"] * 4, *saving, *["optim_step"] * 4, *saving]


def test_time_alone_also_saves_a_checkpoint(client: Callable[..., TuftBackend]) -> None:
    hyper = replace(HYPER, checkpoint_every=0, checkpoint_every_seconds=0)
    assert [one.step for one in fresh(plan(hyper), client()).checkpoints] == list(range(9))
    assert [one.step for one in fresh(plan(replace(HYPER, checkpoint_every=0)), client()).checkpoints] == [0, 8]


@pytest.mark.parametrize("asked", [Control.CANCEL, Control.PAUSE, Control.PREEMPT])
def test_a_run_that_is_asked_to_leave_saves_exactly_what_it_committed(
    client: Callable[..., TuftBackend], asked: Control
) -> None:
    journal = MemoryJournal(asks=lambda seen: asked if len(seen.steps) >= 3 else Control.NONE)
    made = plan(replace(HYPER, checkpoint_every=0))
    assert run(made, client(), journal).train(0, save_first=True, untested=None) is asked
    last = journal.steps[-1].step
    assert 3 <= last < 8
    assert journal.checkpoints[-1].step == last
    whole = fresh(made, client())
    assert len(resumed(made, client(), journal, last).series) == 8 - last
    assert len(whole.series) == 8


def test_a_wish_that_comes_behind_the_last_step_changes_nothing(client: Callable[..., TuftBackend]) -> None:
    journal = MemoryJournal(asks=lambda seen: Control.CANCEL if len(seen.steps) >= 8 else Control.NONE)
    assert run(plan(HYPER), client(), journal).train(0, save_first=True, untested=None) is Control.NONE


@pytest.mark.parametrize("kind", [WeightNormalization.PER_EXAMPLE, WeightNormalization.PER_BATCH])
def test_normalized_weights_have_an_objective_of_their_own(
    client: Callable[..., TuftBackend], kind: WeightNormalization
) -> None:
    whole = fresh(plan(HYPER), client())
    again = resumed(plan(replace(HYPER, weight_normalization=kind)), client(), whole, 0)
    first, plain = again.steps[0], whole.steps[0]
    assert first.nll_sum == plain.nll_sum  # the same weights are measured, whatever is minimized
    expected = plain.nll_sum / plain.weight_sum * (1 if kind is WeightNormalization.PER_BATCH else first.rows)
    assert first.objective == pytest.approx(expected, rel=0.2 if kind is WeightNormalization.PER_EXAMPLE else 1e-6)
    assert again.steps[-1].nll_sum != whole.steps[-1].nll_sum


def test_early_stopping_ends_at_the_evaluation_and_remembers_over_a_resume(
    client: Callable[..., TuftBackend],
) -> None:
    hyper = replace(HYPER, max_steps=40, eval_every=2, learning_rate=1e-9, early_stopping_patience=2)
    hyper = replace(hyper, early_stopping_min_delta=0.5, warmup_steps=0)
    made = plan(hyper, test=TEST)
    journal = fresh(made, client())
    assert journal.steps[-1].step == 4
    assert [kind for kind, _ in journal.events] == ["EARLY_STOPPED"]
    assert journal.checkpoints[-1].step == 4
    waited = Patience(2, 0.5)
    assert not any(waited.seen(nll) for nll in (6.0, 5.8))
    backend = client()
    backend.load(journal.checkpoints[2].path, optimizer=True).result()
    again = MemoryJournal()
    run(made, backend, again, waited).train(2, save_first=False, untested=None)
    assert again.steps[-1].step == 4


def test_a_loss_that_is_not_a_number_stops_the_run_at_the_last_good_checkpoint(
    client: Callable[..., TuftBackend],
    fake_tuft: FakeTuft,
) -> None:
    journal = MemoryJournal()
    fake_tuft.fault("forward_backward", "nan", at=6)
    with pytest.raises(NonFiniteLoss, match="step 6: the NLL of the batch is nan"):
        fresh(plan(HYPER), client(), journal)
    assert journal.steps[-1].step == 5
    assert journal.checkpoints[-1].step == 4
    fake_tuft.clear_faults()
    assert len(resumed(plan(HYPER), client(), journal, 4).series) == 4


def test_saved_weights_that_give_no_number_are_no_checkpoint(
    client: Callable[..., TuftBackend],
    fake_tuft: FakeTuft,
) -> None:
    journal = MemoryJournal()
    fake_tuft.fault("forward", "nan", at=2)
    with pytest.raises(NonFiniteLoss, match="step 4: the saved weights give an NLL of nan"):
        fresh(plan(HYPER), client(), journal)
    assert [one.step for one in journal.checkpoints] == [0]


def test_out_of_memory_says_which_call_and_budget(client: Callable[..., TuftBackend], fake_tuft: FakeTuft) -> None:
    fake_tuft.fault("forward_backward", "oom", above_tokens=40)
    with pytest.raises(CallOutOfMemory) as caught:
        fresh(plan(HYPER), client())
    assert (caught.value.step, caught.value.budget) == (1, 4096)
    assert caught.value.rows > 1
    assert caught.value.error.hint == "Lower max_length first, then batch_size, then lora_rank."


@pytest.mark.parametrize("lose_everything", [False, True])
def test_a_restart_between_two_steps_is_never_believed(
    client: Callable[..., TuftBackend],
    fake_tuft: FakeTuft,
    lose_everything: bool,
) -> None:
    class Restarting(MemoryJournal):
        def step(self, record) -> None:  # type: ignore[no-untyped-def]
            super().step(record)
            if record.step == 6:  # nothing is in flight at depth 1: the server would go on, rolled back, without a word
                fake_tuft.restart(rollback=True, lose_everything=lose_everything)

    journal = Restarting()
    with pytest.raises(BackendError) as caught:
        fresh(plan(replace(HYPER, pipeline_depth=1)), client(), journal)
    assert caught.value.code in (Code.SERVER_RESTARTED, Code.SERVER_UNREACHABLE, Code.SEQUENCE_CONFLICT)
    assert caught.value.retryable
    assert journal.steps[-1].step == 6


@pytest.mark.parametrize("fault", ["http_500", "dropped", "http_429"])
def test_every_wait_has_an_end(client: Callable[..., TuftBackend], fake_tuft: FakeTuft, fault: str) -> None:
    fake_tuft.fault("optim_step" if fault == "dropped" else "retrieve_future", fault, at=8)
    begun = time.monotonic()
    with pytest.raises(BackendError, match=r"no answer in 1\.5 s, though the server is up") as caught:
        fresh(plan(HYPER), client(call_deadline=1.5))
    assert time.monotonic() - begun < 60  # the SDK alone would wait for ever
    assert caught.value.code is Code.SERVER_UNREACHABLE


def test_a_server_that_dies_ends_the_wait_at_once(client: Callable[..., TuftBackend], fake_tuft: FakeTuft) -> None:
    fake_tuft.fault("optim_step", "crash", at=3)
    backend = client()
    begun = time.monotonic()
    with pytest.raises(BackendError) as caught:
        fresh(plan(HYPER), backend)
    assert time.monotonic() - begun < 60  # the deadline is 120 s, and the SDK alone is silent for 300 s
    assert caught.value.retryable


def test_a_connection_that_is_refused_is_said_at_once(fake_tuft: FakeTuft) -> None:
    settings = settings_of(fake_tuft)
    fake_tuft.kill()
    with pytest.raises(BackendError, match="refused") as caught:
        connect(settings, SMALL)
    assert caught.value.code is Code.SERVER_UNREACHABLE


@pytest.mark.parametrize(
    ("changed", "adapter", "code"),
    [
        ({"api_key": "tml-wrong"}, SMALL, Code.KEY_REJECTED),
        ({"api_key": "wrong"}, SMALL, Code.KEY_REJECTED),
        ({}, replace(SMALL, model="no/such-model"), Code.MODEL_NOT_SERVED),
    ],
)
def test_what_the_server_refuses_is_said_in_seconds(
    fake_tuft: FakeTuft,
    changed: dict[str, str],
    adapter: Adapter,
    code: Code,
) -> None:
    begun = time.monotonic()
    with pytest.raises(BackendError) as caught:
        connect(replace(settings_of(fake_tuft), **changed), adapter)  # type: ignore[arg-type]
    assert caught.value.code is code
    assert not caught.value.retryable
    assert "tml-wrong" not in str(caught.value)
    assert time.monotonic() - begun < 60


def test_another_sdk_is_refused_before_it_does_harm() -> None:
    with pytest.raises(BackendError, match=r"tinker 0\.38\.0 is installed") as caught:
        check_sdk("0.38.0")
    assert caught.value.code is Code.SDK_MISMATCH
    check_sdk()


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (row(3, [1, 2, 3], [1.0]), "has 3 tokens and 1 weight"),
        (row(3, [1, 2, 3], [1.0, math.nan]), "has a weight that is not finite"),
        (row(3, [1, -2, 3], [1.0, 1.0]), "has token ids from -2 to 3"),
        (row(3, [1] * 1025, [1.0] * 1024), "has 1025 tokens, the server's max_model_len is 1024"),
        (row(3, [1, 700, 3], [1.0, 1.0]), "has token ids from 1 to 700; the model has ids 0 to 511"),
    ],
)
def test_what_the_server_would_train_wrongly_is_never_sent(
    fake_tuft: FakeTuft,
    bad: Row,
    sentence: str,
) -> None:
    backend = connect(replace(settings_of(fake_tuft), max_model_len=1024, vocabulary=512), SMALL)
    before = len(fake_tuft.calls())
    with pytest.raises(BackendError, match=sentence) as caught:
        backend.forward_backward([bad], [bad.target_weights])
    backend.close()
    assert caught.value.code is Code.BAD_REQUEST
    assert len(fake_tuft.calls()) == before


def test_a_name_can_not_lead_out_of_the_servers_folder(client: Callable[..., TuftBackend]) -> None:
    with pytest.raises(BackendError, match="can't name a checkpoint"):
        client().save_state("../elsewhere").result()


def test_weights_that_are_not_those_that_were_saved_are_refused(client: Callable[..., TuftBackend]) -> None:
    made = plan(HYPER)
    journal = fresh(made, client())
    wrong = replace(journal.checkpoints[1], path=journal.checkpoints[2].path)
    backend = client()
    backend.load(wrong.path, optimizer=True).result()
    with pytest.raises(ProbeMismatch, match=r"gave probe NLL .* and gives .* \(tolerance 1e-06\)"):
        prove(backend, wrong, made.probe_rows, 1e-6)


@pytest.mark.parametrize("source", ["server", "files", "store"])
def test_a_checkpoint_comes_back_from_wherever_it_still_is(
    client: Callable[..., TuftBackend],
    fake_tuft: FakeTuft,
    tmp_path,  # type: ignore[no-untyped-def]
    source: str,
) -> None:
    made = plan(HYPER)
    journal = fresh(made, client())
    checkpoint = journal.checkpoints[1]
    folder = ServerFolder(fake_tuft.checkpoint_dir)
    objects = Objects(str(tmp_path / "store"))
    if source != "server":
        stored = objects.put_folder("job-test", checkpoint.id, folder.of(checkpoint.path))
        if source == "store":
            checkpoint = replace(checkpoint, stored=True, uri=stored.uri)
            for file in sorted(folder.of(checkpoint.path).rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
        fake_tuft.restart(lose_everything=True)
    server = TuftHttp(fake_tuft.url, fake_tuft.api_key)
    restorer = Restorer(client, folder, objects, lambda path: folder.delete(server, path))
    backend = restorer.restore(checkpoint, optimizer=True)
    assert not list(fake_tuft.checkpoint_dir.glob("*/*-restored")), "what it was loaded through is gone"
    prove(backend, checkpoint, made.probe_rows, 1e-12)
    again = MemoryJournal()
    run(made, backend, again).train(4, save_first=False, untested=None)
    assert again.series == journal.series[4:]


def test_a_checkpoint_that_is_nowhere_is_said_to_be_lost(
    client: Callable[..., TuftBackend],
    fake_tuft: FakeTuft,
    tmp_path,  # type: ignore[no-untyped-def]
) -> None:
    checkpoint = fresh(plan(HYPER), client()).checkpoints[1]
    fake_tuft.restart(lose_everything=True)
    elsewhere = ServerFolder(tmp_path / "nothing")
    restorer = Restorer(client, elsewhere, Objects(str(tmp_path)), print)
    with pytest.raises(CheckpointLost, match="it was never copied to the store"):
        restorer.restore(checkpoint, optimizer=True)
    gone = replace(checkpoint, stored=True, uri=str(tmp_path / "adapters" / "gone"))
    with pytest.raises(CheckpointLost, match=r"and there is no complete folder at .*gone"):
        restorer.restore(gone, optimizer=True)


def test_the_schedule_reaches_the_optimizer(client: Callable[..., TuftBackend]) -> None:
    journal = fresh(plan(replace(HYPER, schedule=Schedule.LINEAR, warmup_steps=0)), client())
    assert np.allclose([record.learning_rate for record in journal.steps], [0.01 * (8 - n) / 8 for n in range(8)])


def test_a_server_that_never_decides_is_trained_on_as_stock_tuft(packing_tuft: FakeTuft) -> None:
    packing_tuft.fault("turnloom/acceleration", "starting")
    http = TuftHttp(packing_tuft.url, packing_tuft.api_key)
    served = ready_model(http, packing_tuft.model_name, settling=0.0)
    assert (served.accelerated, served.max_tokens_per_pass) == (False, 0)
    assert served.not_accelerated == "undecided 0 s after an adapter was made: the model is still loading"
    packing_tuft.clear_faults()
    assert ready_model(http, packing_tuft.model_name).accelerated


def test_a_status_that_fails_or_can_not_be_read_does_not_hide_what_the_server_serves(packing_tuft: FakeTuft) -> None:
    packing_tuft.fault("turnloom/acceleration", "http_500")
    (served,) = TuftHttp(packing_tuft.url, packing_tuft.api_key).models()
    assert (served.name, served.accelerated) == (packing_tuft.model_name, None)
    assert "500" in served.not_accelerated
