"""`turnloom sample` all the way: command line, API, Redis, worker, the SDK, a fake TuFT that samples."""

from __future__ import annotations

import shutil

import grpc
import numpy as np
import pytest

from services.store.connection import redis_time
from services.store.records import Hyperparameters, JobState
from services.trainer.checkpoints import ServerFolder
from tests.support.api_calls import TUFT_MODEL, refusal
from tests.support.cli_runs import turnloom
from tests.support.sampling_fixtures import LIMIT, QUESTION, REPLY, Whole
from tests.support.trainer_stack import HOST, TrainerStack, stack_over_real_tuft, wait_for
from turnloom.client import TurnloomClient
from turnloom.embedded.tuft_server import TuftServer
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import training_pb2 as tr


def test_a_greedy_reply_is_what_the_job_was_trained_to_say(whole: Whole) -> None:
    first, second = whole.sample(temperature=0), whole.sample(temperature=0)
    assert first == second
    assert (first.text, first.finish_reason, first.checkpoint) == (REPLY, "stop", whole.last.id)
    assert whole.last.step == 40
    asked = whole.fake.calls("asample")[-1]
    assert first.prompt_tokens == len(asked["prompt"])
    assert asked["how"]["stop"] == [whole.model.vocabulary.table.by_content["<|im_end|>"].id]


def test_the_prompt_is_the_training_row_up_to_its_first_trained_token(whole: Whole) -> None:
    row = next(iter(whole.datasets.DownloadDataset(ds.DownloadDatasetRequest(id=whole.dataset), timeout=LIMIT))).batch
    token_ids = np.frombuffer(row.token_ids, "<i4")[: row.row_lengths[0]].tolist()
    untrained = row.weight_run_lengths[0]
    assert row.weight_run_values[0] == 0
    reply = whole.sample(temperature=0)
    assert whole.fake.calls("asample")[-1]["prompt"] == token_ids[: untrained + 1]
    assert reply.tokens == row.weight_run_lengths[1]


def test_the_base_model_answers_without_the_adapter(whole: Whole) -> None:
    base = whole.sample(temperature=0, base=True)
    assert base.text != REPLY
    assert base.checkpoint == ""
    assert base.text == whole.sample(temperature=0, checkpoint=whole.untrained.id).text  # which changes nothing yet
    refused = refusal(lambda: whole.sample(base=True, checkpoint=whole.last.id))
    assert "the base model answers without one" in refused.fields["checkpoint"]


def test_max_tokens_ends_a_reply_and_says_so(whole: Whole) -> None:
    reply = whole.sample(temperature=0, max_tokens=1)
    assert (reply.tokens, reply.finish_reason) == (1, "length")
    assert reply.text
    assert REPLY.startswith(reply.text)


def test_a_seed_draws_the_same_reply_again(whole: Whole) -> None:
    hot = {"checkpoint": whole.untrained.id, "temperature": 2.0, "max_tokens": 12, "top_p": 0.9}
    drawn = [whole.sample(seed=seed, **hot) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert whole.fake.calls("asample")[-1]["how"]["top_p"] == pytest.approx(0.9)


def test_another_checkpoint_can_be_asked_and_one_whose_files_are_gone_can_not(whole: Whole) -> None:
    asked = whole.untrained
    reply = whole.sample(checkpoint=asked.id, temperature=0)
    assert (asked.step, reply.checkpoint, reply.finish_reason) == (0, asked.id, "length")
    assert reply.text != REPLY
    folder = ServerFolder(whole.fake.checkpoint_dir).of(asked.path)
    shutil.move(folder, folder.with_name("away"))
    try:
        refused = refusal(lambda: whole.sample(checkpoint=asked.id))
    finally:
        shutil.move(folder.with_name("away"), folder)
    assert refused.code is grpc.StatusCode.FAILED_PRECONDITION
    assert refused.message == (
        f"Checkpoint '{asked.id}' is no longer on the TuFT server of host '{HOST}'; it is kept in the store: fetch it "
        "with DownloadAdapter (`turnloom adapter download`) and load it in PEFT or vLLM."
    )


def test_nothing_of_prompt_and_reply_stays_in_redis_or_is_logged(whole: Whole) -> None:
    assert whole.sample(temperature=0).text == REPLY
    assert whole.calls_in_redis() == set()
    log = whole.stack.log()
    assert f"a sample from {whole.last.path}: 5 tokens" in log
    prompt = whole.fake.calls("asample")[-1]["prompt"]
    assert str(prompt[:4])[1:-1] not in log
    assert str(prompt[-4:])[1:-1] not in log


def test_the_command_line_prints_the_reply_or_a_document(whole: Whole) -> None:
    ran = turnloom(whole.address, "sample", whole.job, QUESTION, "--temperature", "0")
    assert (ran.code, ran.out, ran.err) == (0, f"{REPLY}\n", "")
    document = turnloom(whole.address, "sample", whole.job, QUESTION, "--temperature", "0", "--json").document
    assert document["text"] == REPLY
    assert set(document) == {"text", "tokens", "finish_reason", "prompt_tokens", "checkpoint"}
    cut = turnloom(whole.address, "sample", whole.job, QUESTION, "--temperature", "0", "--max-tokens", "1")
    assert "Ended by --max-tokens, after 1 token." in cut.err
    wrong = turnloom(whole.address, "sample", whole.job, QUESTION, "--temperature", "11")
    assert wrong.code == 2
    assert "temperature: is 11; give a number from 0 to 10." in wrong.err
    with TurnloomClient(whole.address) as client:
        asked = {"messages": [{"role": "user", "content": QUESTION}]}
        assert client.jobs.sample(whole.job, asked, temperature=0).text == REPLY


def test_a_prompt_and_a_reply_that_do_not_fit_the_model_are_refused_by_field(whole: Whole) -> None:
    long = refusal(lambda: whole.sample(question="word " * 2000))
    assert long.code is grpc.StatusCode.INVALID_ARGUMENT
    assert long.fields["conversation"].endswith("tokens; send 1024 at most, what the server's model takes.")
    much = refusal(lambda: whole.sample(max_tokens=1020))
    assert much.fields["max_tokens"].startswith("is 1020; give 1009 at most: the prompt has ")
    assert much.fields["max_tokens"].endswith(" of 1024 tokens.")


def test_a_server_that_fails_at_the_prompt_is_told_without_the_prompt(whole: Whole) -> None:
    whole.fake.fault("asample", "fail_422")
    refused = refusal(whole.sample)
    whole.fake.clear_faults()
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.reason == "SAMPLE_FAILED"
    assert refused.message.startswith(f"Host '{HOST}' gave no reply: sampling with tinker://")
    assert "ordered by a test" in refused.message


def test_a_server_that_never_answers_ends_with_a_sentence_before_the_callers_deadline(whole: Whole) -> None:
    whole.fake.fault("asample", "dropped")
    refused = refusal(lambda: whole.sample(timeout=15))
    whole.fake.clear_faults()
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert "no answer in" in refused.message
    assert "though the server is up" in refused.message


def test_a_host_whose_workers_all_train_says_so_at_once(whole: Whole) -> None:
    busy = whole.submit(100_000)
    whole.stack.wait_step(busy, 1)
    refused = refusal(lambda: whole.sample(timeout=LIMIT))
    ran = turnloom(whole.address, "sample", whole.job, QUESTION)
    whole.jobs.CancelJob(tr.CancelJobRequest(id=busy), timeout=LIMIT)
    wait_for(lambda: whole.stack.job(busy).state is JobState.CANCELLED, "the end of the job")
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.message == (
        f"Host '{HOST}' is busy: its only worker trains {busy}; ask again when a job has ended or is paused, "
        "or start another worker there."
    )
    assert ran.code == 3
    assert whole.sample(temperature=0).text == REPLY


def test_a_server_that_trains_only_is_told_with_what_to_do(whole: Whole) -> None:
    whole.fake.kill()
    whole.fake.samples = False
    whole.fake.start()
    try:
        # The worker says it, or the API, once the worker has probed the server; that it was down, if just then.
        wait_for(lambda: refusal(whole.sample).reason == "SAMPLING_DISABLED", "the server's refusal")
        refused = refusal(whole.sample)
        whole.probe()
        asked = len(whole.fake.calls("create_sampling_session"))
        ran = turnloom(whole.address, "sample", whole.job, QUESTION)
        assert len(whole.fake.calls("create_sampling_session")) == asked  # the API knows it
    finally:
        whole.fake.kill()
        whole.fake.samples = True
        whole.fake.start()
        whole.probe()
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SAMPLING_DISABLED")
    assert refused.message == (
        f"The TuFT server of host '{HOST}' trains '{TUFT_MODEL}' and does not sample it; fetch the adapter of "
        f"'{whole.job}' and load it in PEFT or vLLM instead."
    )
    assert "turnloom adapter download" in refused.metadata["hint"]
    assert ran.code == 4


def test_a_server_that_is_down_is_told(whole: Whole) -> None:
    whole.fake.kill()
    try:
        refused = refusal(whole.sample)
    finally:
        whole.fake.start()
        whole.probe()
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert f"Host '{HOST}' gave no reply: " in refused.message


real_stack = pytest.fixture(stack_over_real_tuft)


@pytest.mark.tuft
def test_the_real_server_on_a_cpu_says_over_the_queue_that_it_trains_only(
    real_stack: TrainerStack, real_tuft: TuftServer
) -> None:
    job = real_stack.submit(Hyperparameters(max_steps=1, batch_size=4, lora_rank=4, eval_every=0), test=())
    real_stack.worker()
    real_stack.wait(job, JobState.SUCCEEDED, deadline=240)
    order = {
        "path": real_stack.store.ledger.checkpoint(job).path,
        "model": real_tuft.model_name,
        "prompt": [5, 6, 7],
        "stop": [2],
        "max_tokens": 8,
        "temperature": 0.0,
        "top_p": 1.0,
        "seed": None,
        "until": redis_time(real_stack.store.redis) + 50,
    }
    answer = real_stack.store.tickets.ask(f"train.{HOST}", "services.trainer.sample.run", order, timeout=50)
    assert isinstance(answer, dict)
    assert answer["code"] == "CAPABILITY_DISABLED"
    assert f"model {real_tuft.model_name} does not have the 'sampling' capability" in str(answer["message"])
