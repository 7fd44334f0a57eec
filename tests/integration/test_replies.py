"""Replies during training all the way: request, prompts, worker, a fake TuFT that samples, events, store, client."""

from __future__ import annotations

import json
from pathlib import Path

import grpc

from services.store.records import JobState
from services.trainer.replies import REPLY as REPLY_EVENT
from tests.support.api_calls import MODEL, chat, refusal
from tests.support.cli_runs import turnloom
from tests.support.sampling_fixtures import HYPER, LIMIT, QUESTION, REPLY, Whole
from tests.support.trainer_stack import HOST, horses, kill, wait_for
from turnloom.client import TurnloomClient
from turnloom.v1 import training_pb2 as tr
from turnloom.v1 import types_pb2 as ty

OTHER = "And you?"
HOLD = 120_000.0  #: milliseconds; the test lets go earlier


def asked(whole: Whole, steps: int, **fields: object) -> tr.CreateJobRequest:
    hyper = tr.Hyperparameters(max_steps=steps, checkpoint_every=4, **HYPER)  # type: ignore[arg-type]
    prompts = [chat(QUESTION), chat(OTHER)]
    more = {"sample_prompts": prompts, "sample_every": 4, "sample_max_tokens": 8, **fields}
    return tr.CreateJobRequest(model=MODEL, training_dataset=whole.dataset, hyperparameters=hyper, **more)  # type: ignore[arg-type]


def create(whole: Whole, steps: int, **fields: object) -> tr.Job:
    return whole.jobs.CreateJob(asked(whole, steps, **fields), timeout=LIMIT).job


def told(whole: Whole, job: str) -> list[tuple[str, str]]:
    """Step and prompt of every reply event."""
    events = whole.jobs.ListEvents(tr.ListEventsRequest(job=job, page_size=1000), timeout=LIMIT).events
    return [(one.fields["step"], one.fields["prompt"]) for one in events if one.type == REPLY_EVENT]


def test_a_job_answers_its_prompts_at_every_fourth_step_and_at_the_end(whole: Whole, tmp_path: Path) -> None:
    whole.fake.fault("optim_step", "late", ms=600.0)  # replies don't wait for steps, so that none is passed over
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{QUESTION}\n\n{OTHER}\n", encoding="utf-8")
    ran = turnloom(
        whole.address, "train", whole.dataset, "--steps", "18", "--rank", "16", "--lr", "0.3", "--batch-size", "8",
        "--eval-every", "0", "--sample-prompts", prompts, "--sample-every", "4", "--sample-max-tokens", "8",
    )  # fmt: skip
    whole.fake.clear_faults()
    assert ran.code == 0, ran.err
    (job,) = {word.strip(",.") for word in ran.err.split() if word.startswith("job-")}
    shown = whole.jobs.GetJob(tr.GetJobRequest(id=job), timeout=LIMIT).job
    assert (shown.sample_prompts, shown.sample_every, shown.sampled_step) == (2, 4, 18)
    steps = [4, 8, 12, 16, 18]
    with TurnloomClient(whole.address) as client:
        said = list(client.jobs.replies(job))
        assert [(one.step, one.prompt, one.asked) for one in said] == [
            (step, prompt, text) for step in steps for prompt, text in ((1, QUESTION), (2, OTHER))
        ]
        assert (said[-2].text, said[-2].finish_reason) == (REPLY, "stop")
        assert said[0].tokens <= 8
        assert [one.prompt for one in client.jobs.replies(job, step=18)] == [1, 2]
        assert told(whole, job) == [(str(step), str(prompt)) for step in steps for prompt in (1, 2)]
        last = [one for one in client.jobs.events(job) if one.type == REPLY_EVENT][-2]
        assert (last.message, last.fields["text"]) == (f"Step 18, prompt 1: {REPLY}", REPLY)
        assert "token_ids" not in last.fields
    assert f"Step 18, prompt 1: {REPLY}" in ran.err  # watched
    listed = turnloom(whole.address, "replies", job, "--prompt", "1")
    assert listed.out.startswith(f"1. {QUESTION}\n  step 4: ")
    assert f"  step 18: {REPLY}\n" in listed.out
    assert [one["step"] for one in turnloom(whole.address, "replies", job, "--step", "8", "--json").document] == [8, 8]
    kept = whole.stack.folder / "store" / "replies" / job
    assert {path.name for path in kept.iterdir()} == {"prompts.json", *(f"step-{step}.json" for step in steps)}
    assert json.loads((kept / "step-18.json").read_text())["replies"][0]["finish_reason"] == "stop"
    live = list(whole.fake.checkpoint_dir.glob("*/*-live"))
    assert live == []  # what was saved for replies alone is gone
    assert "[...]" not in whole.stack.log()
    wait_for(lambda: "ADAPTER_RELEASED" in whole.stack.events(job), "the release")
    whole.jobs.DeleteJob(tr.DeleteJobRequest(id=job), timeout=LIMIT)
    assert not kept.exists()


def test_after_a_kill_no_reply_is_told_twice_and_the_job_goes_on(whole: Whole) -> None:
    whole.fake.fault("optim_step", "late", at=12, times=1, ms=HOLD)  # no step 12 whose replies could come instead
    job = create(whole, 16).id
    wait_for(lambda: ("8", "2") in told(whole, job), "replies at step 8")
    (horse,) = [pid for process in whole.stack.processes for pid in horses(process.pid)]
    kill(horse)
    whole.fake.clear_faults()
    whole.stack.wait(job, JobState.SUCCEEDED)
    record = whole.stack.job(job)
    assert record.attempt >= 2
    found = told(whole, job)
    assert len(found) == len(set(found))
    assert {"8", "16"} <= {step for step, _ in found} <= {"4", "8", "12", "16"}  # 4 and 12 where there was time


def test_a_job_that_is_paused_while_it_answers_leaves_no_adapter_that_was_saved_for_it(whole: Whole) -> None:
    whole.fake.fault("asample", "slow", ms=1500.0)
    job = create(whole, 1000, sample_every=2).id
    wait_for(lambda: "REPLIES_MISSING" in whole.stack.events(job), "one under way and another that waits")
    whole.stack.store.jobs.pause(job)
    whole.stack.wait(job, JobState.PAUSED)
    whole.fake.clear_faults()
    wait_for(lambda: "ADAPTER_RELEASED" in whole.stack.events(job), "the release")
    assert list(whole.fake.checkpoint_dir.glob(f"*/{job}-*-live")) == []
    whole.stack.store.jobs.cancel(job)


def test_a_sampler_that_fails_costs_replies_and_no_step(whole: Whole) -> None:
    whole.fake.fault("asample", "fail_422")
    job = create(whole, 10).id
    done = whole.stack.wait(job, JobState.SUCCEEDED)
    whole.fake.clear_faults()
    assert (done.step, done.attempt, done.sampled_step) == (10, 1, 0)
    events = whole.stack.store.events.list(job, page_size=1000).items
    missing = [one for one in events if one.type == "REPLIES_MISSING"]
    assert missing[-1].fields["step"] == "10"
    assert missing[-1].message.startswith("Step 10 has no replies: sampling with tinker://")
    assert missing[-1].message.endswith("The job goes on.")
    assert told(whole, job) == []


def test_an_adapter_that_can_not_be_saved_for_its_replies_costs_these_alone(whole: Whole) -> None:
    whole.fake.fault("save_weights_for_sampler", "fail_422", times=1)
    job = create(whole, 6).id
    done = whole.stack.wait(job, JobState.SUCCEEDED)
    whole.fake.clear_faults()
    assert (done.step, done.attempt) == (6, 1)
    (missing,) = [
        one for one in whole.stack.store.events.list(job, page_size=1000).items if one.type == "REPLIES_MISSING"
    ]
    assert missing.message.startswith("Step 4 has no replies: save_weights_for_sampler ")
    assert told(whole, job) == [("6", "1"), ("6", "2")]


def test_steps_that_are_faster_than_replies_are_passed_over_and_said(whole: Whole) -> None:
    whole.fake.fault("asample", "slow", ms=1500.0)
    job = create(whole, 30, sample_every=2).id
    whole.stack.wait(job, JobState.SUCCEEDED)
    whole.fake.clear_faults()
    events = whole.stack.store.events.list(job, page_size=1000).items
    passed = [one for one in events if one.type == "REPLIES_MISSING"]
    missing = [one.fields["step"] for one in passed]
    assert passed
    assert "the steps were faster than the replies" in passed[0].message
    found = {step for step, _ in told(whole, job)}
    assert "30" in found
    assert found.isdisjoint(missing)
    assert found | set(missing) == {str(step) for step in range(2, 31, 2)}


def test_without_a_step_the_trained_adapter_alone_is_asked(whole: Whole) -> None:
    job = create(whole, 6, sample_every=0).id
    whole.stack.wait(job, JobState.SUCCEEDED)
    assert told(whole, job) == [("6", "1"), ("6", "2")]


def test_every_wrong_field_is_named(whole: Whole) -> None:
    ends = chat("a", "b")
    refused = refusal(lambda: create(whole, 4, sample_prompts=[chat("a"), ends], sample_max_tokens=513))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == {
        "sample_max_tokens": "is 513; give 1 to 512.",
        "sample_prompts[1].messages[1].role": "is 'assistant'; end with the message that is to be answered.",
    }
    many = refusal(lambda: create(whole, 4, sample_prompts=[chat("a")] * 17))
    assert many.fields == {"sample_prompts": "has 17 prompts; send 16 at most."}
    alone = refusal(lambda: create(whole, 4, sample_prompts=[]))
    assert set(alone.fields) == {"sample_every", "sample_max_tokens"}
    long = refusal(lambda: create(whole, 4, sample_prompts=[chat("word " * 2000)]))
    assert long.fields["sample_prompts[0]"].endswith("tokens; the model takes 1024.")
    bad = ty.Conversation(messages=[ty.Message(role="user", text="x", extra_json="[")])
    assert "sample_prompts[0].messages[0].extra_json" in refusal(lambda: create(whole, 4, sample_prompts=[bad])).fields


def test_a_host_that_trains_only_is_told_when_the_job_is_created(whole: Whole) -> None:
    whole.fake.kill()
    whole.fake.samples = False
    whole.fake.start()
    try:
        whole.probe()
        refused = refusal(lambda: create(whole, 4))
        named = refusal(lambda: create(whole, 4, host=HOST))
    finally:
        whole.fake.kill()
        whole.fake.samples = True
        whole.fake.start()
        whole.probe()
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_SAMPLED")
    assert refused.message.startswith(
        "sample_prompts can't be answered: every live host that could take the job trains 'tuft/small' and does not"
    )
    assert f"host '{HOST}' trains" in named.message


def test_the_cells_of_a_sweep_answer_the_prompts_too(whole: Whole) -> None:
    base = asked(whole, 4, sample_every=0)
    base.hyperparameters.ClearField("lora_rank")
    axis = tr.SweepAxis(hyperparameter="lora_rank", values=[8, 16])
    made = whole.jobs.CreateSweep(tr.CreateSweepRequest(base=base, axes=[axis]), timeout=LIMIT).sweep
    for cell in made.jobs:
        whole.stack.wait(cell.id, JobState.SUCCEEDED)
        assert told(whole, cell.id) == [("4", "1"), ("4", "2")]


def test_a_file_without_a_prompt_is_refused_before_anything_is_sent(whole: Whole, tmp_path: Path) -> None:
    empty = tmp_path / "none.txt"
    empty.write_text("\n")
    ran = turnloom(whole.address, "train", whole.dataset, "--sample-prompts", empty)
    assert (ran.code, "has no prompt" in ran.err) == (2, True)
    alone = turnloom(whole.address, "train", whole.dataset, "--sample-every", "5")
    assert alone.code == 2
    assert "say nothing without --sample-prompts" in alone.err


def test_a_conversation_is_asked_up_to_its_last_reply(whole: Whole, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(
        json.dumps({"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": REPLY}]})
    )
    ran = turnloom(
        whole.address, "train", whole.dataset, "--steps", "1", "--rank", "16", "--sample-prompts", path, "--dry-run",
        "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.document["job"]["sample_prompts"] == 1


def test_a_job_file_asks_for_replies_too(whole: Whole, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(f"{QUESTION}\n{OTHER}\n")
    job = tmp_path / "job.toml"
    job.write_text(
        f'[data]\ntrain = "{whole.dataset}"\n[hyperparameters]\nmax_steps = 1\nlora_rank = 16\n'
        '[job]\nsample_prompts = "prompts.txt"\nsample_every = 3\n'
    )
    shown = turnloom(whole.address, "train", "-f", job, "--dry-run", "--json").document["job"]
    assert (shown["sample_prompts"], shown["sample_every"]) == (2, 3)
    over = turnloom(whole.address, "train", "-f", job, "--sample-every", "5", "--dry-run", "--json").document["job"]
    assert (over["sample_prompts"], over["sample_every"]) == (2, 5)
