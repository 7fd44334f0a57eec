"""The command line about jobs, against a real server and a store that the test plays the worker of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.store.records import CheckpointRecord, ErrorRecord, HostRecord, JobState, StepRecord
from services.store.store import Store
from tests.support.api_calls import Api, wait_until
from tests.support.cli_runs import turnloom, write_chats

STEPS = 6


@pytest.fixture
def chats(tmp_path: Path, gpu_host: HostRecord) -> Path:
    return write_chats(tmp_path / "chats.jsonl", "hello", "good day", copies=12)


class Worker:
    """Plays the worker of the newest job: claims, commits six steps, ends."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.thread = threading.Thread(target=self.work)
        self.end = JobState.SUCCEEDED
        self.failure: BaseException | None = None

    def work(self) -> None:
        try:
            until = time.monotonic() + 120
            while not (jobs := self.store.jobs.list(states=frozenset({JobState.QUEUED})).items):
                assert time.monotonic() < until
                time.sleep(0.02)
            job = jobs[0].id
            claim = self.store.jobs.claim(job, 1, "w")
            assert claim is not None
            self.commit(StepRecord(step=0, attempt=1, test_nll_sum=60.0, test_weight_sum=10.0), job)
            self.store.ledger.commit_checkpoint(
                job, CheckpointRecord(id=f"{job}-a1-s0", path="tinker://x", step=0, attempt=1)
            )
            for step in range(1, STEPS + 1):
                test = {"test_nll_sum": 10.0, "test_weight_sum": 10.0} if step == STEPS else {}
                record = StepRecord(
                    step=step,
                    attempt=1,
                    epoch=1,
                    tokens=100,
                    nll_sum=8.0 / step,
                    weight_sum=4.0,
                    time=time.time(),
                    **test,
                )
                self.commit(record, job)
            error = ErrorRecord("OUT_OF_MEMORY", "The GPU is full.", hint="Lower max_length.")
            self.store.jobs.finish(job, 1, self.end, error if self.end is JobState.FAILED else None)
        except BaseException as error:
            self.failure = error

    def commit(self, record: StepRecord, job: str) -> None:
        self.store.ledger.commit_step(job, record)


@pytest.fixture
def worker(store: Store) -> Iterator[Worker]:
    worker = Worker(store)
    yield worker
    if worker.thread.ident is not None:
        worker.thread.join(120)
    assert worker.failure is None, worker.failure


def submit(api: Api, chats: Path, *arguments: str | int) -> str:
    made = turnloom(api.address, "train", chats, "--steps", STEPS, "--detach", "--json", *arguments)
    assert made.code == 0, made.err
    job: str = made.document["id"]
    return job


def test_train_makes_datasets_submits_watches_and_reports_the_end(api: Api, chats: Path, worker: Worker) -> None:
    worker.thread.start()
    ran = turnloom(api.address, "train", chats, "--test-fraction", 0.25, "--steps", STEPS, "--rank", 8, "--lr", "2e-3")
    assert ran.code == 0, ran.err
    assert "9 conversations" in ran.err
    assert "3 conversations" in ran.err
    assert f"step {STEPS}/{STEPS}" in ran.err
    assert f"{STEPS} of {STEPS} steps" in ran.out
    assert "test NLL  1.0000 (last), 1.0000 (best)" in ran.out
    assert "rank 8, rate 2e-3 at batch size 16." in ran.err


def test_a_job_that_fails_ends_with_code_1_its_sentence_and_its_hint(api: Api, chats: Path, worker: Worker) -> None:
    worker.end = JobState.FAILED
    worker.thread.start()
    ran = turnloom(api.address, "train", chats, "--steps", STEPS)
    assert ran.code == 1
    assert "OUT_OF_MEMORY: The GPU is full." in ran.out
    assert "Lower max_length." in ran.out


def test_watch_for_scripts_is_one_line_per_update_and_goes_on_from_any_of_them(
    api: Api, chats: Path, worker: Worker
) -> None:
    job = submit(api, chats)
    worker.thread.start()
    updates = turnloom(api.address, "watch", job, "--json").lines
    assert [u["step"]["step"] for u in updates if "step" in u] == list(range(STEPS + 1))
    assert [u["job"]["state"] for u in updates if "job" in u][-1] == "SUCCEEDED"
    assert len({u["event_id"] for u in updates}) == len(updates)
    rest = turnloom(api.address, "watch", job, "--from", updates[4]["event_id"], "--json").lines
    assert rest == updates[5:]


def test_steps_events_checkpoints_and_logs_show_what_the_ledger_holds(api: Api, chats: Path, worker: Worker) -> None:
    job = submit(api, chats)
    worker.thread.start()
    assert turnloom(api.address, "watch", job).code == 0
    steps = turnloom(api.address, "steps", job, "--json").lines
    assert [step["nll_sum"] for step in steps[1:]] == [8.0 / step for step in range(1, STEPS + 1)]
    assert steps[0]["test_nll_sum"] == 60.0
    assert [s["step"] for s in turnloom(api.address, "steps", job, "--from", 5, "--json").lines] == [5, 6]
    assert "2.000000" in turnloom(api.address, "steps", job).out
    assert "JOB_RUNNING" in turnloom(api.address, "events", job).out
    (checkpoint,) = turnloom(api.address, "checkpoints", job, "--json").document
    assert checkpoint["id"] == f"{job}-a1-s0"
    log = turnloom(api.address, "logs", job).out
    assert log.index("JOB_RUNNING") < log.index("STEP 3") < log.index("JOB_SUCCEEDED")


def test_jobs_are_listed_by_state_and_label_shown_and_deleted(api: Api, chats: Path) -> None:
    job = submit(api, chats, "--label", "who=me", "--set", "keep_checkpoints=5")
    assert [
        j["id"] for j in turnloom(api.address, "jobs", "--state", "queued", "--label", "who=me", "--json").document
    ] == [job]
    assert turnloom(api.address, "jobs", "--label", "who=you", "--json").document == []
    listed = turnloom(api.address, "jobs").out
    assert job in listed
    assert "who=me" in listed
    assert chats.name in listed  # the name of the dataset that the file became
    assert len(turnloom(api.address, "jobs", "--limit", 1, "--json").document) == 1
    shown = turnloom(api.address, "job", "show", job).out
    assert "keep_checkpoints = 5" in shown
    assert "train_mlp = true" in shown
    refused = turnloom(api.address, "delete", job)
    assert refused.code == 4
    assert turnloom(api.address, "cancel", job).out == f"{job} CANCELLED\n"
    ended = turnloom(api.address, "watch", job)
    assert ended.code == 1
    assert turnloom(api.address, "delete", job).code == 0
    assert turnloom(api.address, "job", "show", job).code == 4


def test_a_job_is_paused_and_resumed(api: Api, chats: Path, store: Store) -> None:
    job = submit(api, chats)
    too_early = turnloom(api.address, "pause", job)
    assert too_early.code == 4
    assert "QUEUED" in too_early.err
    store.jobs.claim(job, 1, "w")
    assert turnloom(api.address, "pause", job, "--json").document["state"] == "PAUSING"


def test_a_dry_run_estimates_and_makes_no_job(api: Api, chats: Path) -> None:
    estimated = turnloom(api.address, "train", chats, "--epochs", 3, "--batch-size", 5, "--dry-run")
    assert estimated.code == 0, estimated.err
    assert "9 steps" in estimated.out
    assert turnloom(api.address, "jobs", "--json").document == []


@pytest.mark.parametrize("way", ["--dry-run", "--detach"])
def test_a_warm_up_longer_than_the_job_is_said(api: Api, chats: Path, way: str) -> None:
    longer = turnloom(api.address, "train", chats, "--steps", 3, "--warmup-steps", 4, "--lr", "2e-4", way)
    assert longer.code == 0, longer.err
    assert "warmup_steps is 4 and the job has 3 steps: the rate never reaches 2e-4." in longer.err
    fits = turnloom(api.address, "train", chats, "--steps", 3, "--warmup-steps", 3, way)
    assert "warmup_steps" not in fits.err


def test_a_request_id_makes_one_job(api: Api, chats: Path) -> None:
    (dataset,) = turnloom(api.address, "dataset", "create", chats, "--json").document
    first, again = (
        turnloom(api.address, "train", dataset["id"], "--request-id", "r1", "--detach", "--json").document["id"]
        for _ in range(2)
    )
    assert first == again
    other = turnloom(api.address, "train", dataset["id"], "--request-id", "r1", "--rank", 4, "--detach")
    assert other.code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["ds-nope"], 4, "ds-nope"),
        (["{chats}", "--rank", "0"], 2, "lora_rank"),
        (["{chats}", "--lr", "0"], 2, "learning_rate"),
        (["{chats}", "--lr", "nan"], 2, "learning_rate"),
        (["{chats}", "--set", "lora_rnk=3"], 2, "Did you mean lora_rank?"),
        (["{chats}", "--set", "beta1=high"], 2, "beta1: 'high' is not a finite number."),
        (["{chats}", "--test", "missing.jsonl"], 2, "There is no file missing.jsonl."),
        (["{chats}", "--test", "a.jsonl", "--test-fraction", "0.1"], 2, "exclude each other"),
        (["{chats}", "--host", "elsewhere"], 4, "elsewhere"),
        (["{chats}", "--sample-prompts", "missing.txt"], 2, "missing.txt can't be read: No such file"),
        (["{chats}", "--weights-only"], 2, "--weights-only says nothing without --start-from."),
    ],
)
def test_bad_requests_are_refused_in_one_sentence_and_make_nothing(
    api: Api, chats: Path, arguments: list[str], code: int, sentence: str
) -> None:
    refused = turnloom(api.address, "train", *(word.format(chats=chats) for word in arguments))
    assert refused.code == code, refused.err
    assert sentence in refused.err
    assert "Traceback" not in refused.err
    assert turnloom(api.address, "jobs", "--json").document == []
    assert turnloom(api.address, "dataset", "list", "--json").document == []


def test_ctrl_c_detaches_says_how_to_come_back_and_the_job_goes_on(api: Api, chats: Path, store: Store) -> None:
    job = submit(api, chats)
    watching = subprocess.Popen(
        [sys.executable, "-m", "turnloom.cli", "watch", job],
        env={**os.environ, "TURNLOOM_ADDRESS": api.address},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: _watches(api) > 0)
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert f"Detached: {job} goes on.  Come back: turnloom watch {job}" in said
    assert "Traceback" not in said
    assert store.jobs.get(job).state is JobState.QUEUED


def _watches(api: Api) -> float:
    labels = {"grpc_type": "server_stream", "grpc_service": "turnloom.v1.FineTuningService", "grpc_method": "WatchJob"}
    return api.sample("grpc_server_started_total", **labels)


def test_an_adapter_is_downloaded_and_checked(api: Api, chats: Path, store: Store, tmp_path: Path) -> None:
    job = submit(api, chats)
    store.jobs.claim(job, 1, "w")
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(bytes(3_000_000))
    stored = store.objects.put_folder(job, "final", folder)
    store.jobs.finish(job, 1, JobState.SUCCEEDED, adapter_uri=stored.uri, adapter_sha256=stored.sha256)
    got = turnloom(api.address, "adapter", "download", job, "--to", tmp_path / "got", "--json")
    assert got.code == 0, got.err
    assert {Path(file["path"]).name: file["bytes"] for file in got.document["files"]} == {
        "adapter_config.json": 2,
        "adapter_model.safetensors": 3_000_000,
    }
    assert (tmp_path / "got" / "adapter_model.safetensors").read_bytes() == bytes(3_000_000)


def test_an_adapter_that_is_not_there_yet_says_so(api: Api, chats: Path, tmp_path: Path) -> None:
    job = submit(api, chats)
    refused = turnloom(api.address, "adapter", "download", job, "--to", tmp_path / "got")
    assert refused.code == 4
    assert not (tmp_path / "got").exists()


def test_several_datasets_are_mixed_by_options_or_a_job_file(api: Api, chats: Path, tmp_path: Path) -> None:
    one, other = (turnloom(api.address, "dataset", "create", chats, "--json").document[0]["id"] for _ in range(2))
    mix = ["--mix", f"{one}=0.7", "--mix", f"{other}=0.3"]
    made = turnloom(api.address, "train", *mix, "--steps", 4, "--detach", "--json").document
    assert made["mix"] == [{"dataset": one, "weight": 0.7}, {"dataset": other, "weight": 0.3}]
    shown = turnloom(api.address, "job", "show", made["id"]).out
    assert f"training_dataset = {one} = 0.7 (nothing yet); {other} = 0.3 (nothing yet)" in shown
    file = tmp_path / "job.toml"
    file.write_text(f"[data]\nmix = {{ {one} = 2, {other} = 1.0 }}\n[hyperparameters]\nmax_steps = 4\n")
    again = turnloom(api.address, "train", "-f", file, "--detach", "--json").document
    assert [part["weight"] for part in again["mix"]] == [2.0, 1.0]
    swept = turnloom(
        api.address, "sweep", *mix, "--test", one, "--rank", 4, "--steps", 4, "--detach", "--json"
    ).document
    assert swept["jobs"][0]["mix"] == made["mix"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--mix", "ds-a"], "--mix ds-a: there is no number after '='."),
        (["--mix", "ds-a=much"], "--mix ds-a=much: there is no number after '='."),
        (["--mix", "chats.jsonl=1"], "--mix: 'chats.jsonl' is no dataset id."),
        (["--mix", "ds-a=1", "--mix", "ds-a=2"], "--mix names ds-a twice."),
        (["ds-c", "--mix", "ds-a=1", "--mix", "ds-b=2"], "DATA and --mix exclude each other."),
        (["--mix", "ds-a=1", "--mix", "ds-b=2", "--test-fraction", "0.1"], "--test-fraction needs a file"),
    ],
)
def test_a_mixture_that_can_not_be_read_is_refused(api: Api, arguments: list[str], sentence: str) -> None:
    for command in ("train", "sweep"):
        refused = turnloom(api.address, command, *arguments)
        if command == "sweep" and "--test-fraction" not in arguments:
            refused = turnloom(api.address, command, *arguments, "--test", "ds-t")
        assert refused.code == 2, refused.err
        assert sentence in refused.err
