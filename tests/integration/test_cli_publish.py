"""`turnloom serve` and `turnloom push`: a real server and store; vLLM and the hub are stand-ins of their own wire."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from services.store.records import CheckpointRecord, HostRecord, JobState, StepRecord
from services.store.store import Store
from tests.fakes.hub_upload import COMMIT, UploadHub
from tests.fakes.vllm import FakeVllm
from tests.support.api_calls import MODEL, Api, make_dataset, make_job
from tests.support.cli_runs import Ran, turnloom
from turnloom.client import TurnloomClient

WEIGHTS = bytes(range(256)) * 4096


@pytest.fixture
def job(api: Api, store: Store, gpu_host: HostRecord, tmp_path: Path) -> str:
    """A job that succeeded after three steps, with its adapter in the store."""
    dataset = make_dataset(api).id
    made = make_job(api, dataset, test_dataset=dataset).job.id
    store.jobs.claim(made, 1, "w")
    for step in range(4):
        test = {"test_nll_sum": 30.0 - 5 * step, "test_weight_sum": 10.0} if step in (0, 3) else {}
        train = {"epoch": 1, "tokens": 50, "nll_sum": 8.0 / step, "weight_sum": 4.0} if step else {}
        store.ledger.commit_step(made, StepRecord(step=step, attempt=1, time=time.time(), **train, **test))
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16}')
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    stored = store.objects.put_folder(made, "final", folder)
    saved = CheckpointRecord(
        id=f"{made}-a1-s3", path="tinker://x", step=3, attempt=1, uri=stored.uri, sha256=stored.sha256
    )
    store.ledger.commit_checkpoint(made, saved)
    store.jobs.finish(made, 1, JobState.SUCCEEDED, adapter_uri=stored.uri, adapter_sha256=stored.sha256)
    return made


def serve(api: Api, vllm: FakeVllm, folder: Path, *arguments: str, url: str = "") -> Ran:
    return turnloom(api.address, "serve", *arguments, "--vllm", url or vllm.url, "--folder", folder, "--json")


def test_an_adapter_is_loaded_replaced_and_unloaded(api: Api, job: str, tmp_path: Path) -> None:
    folder = tmp_path / "served"
    with FakeVllm(key="k") as vllm:
        done = serve(api, vllm, folder, job, "--vllm-key", "k", url=f"{vllm.url}/v1/")
        assert done.code == 0, done.err
        assert vllm.loaded == {job: str(folder / job)}
        assert vllm.configs[job] == {"r": 8, "lora_alpha": 16}
        assert (done.document["name"], done.document["loaded"]) == (job, True)
        assert serve(api, vllm, folder, job, "--vllm-key", "k").code == 0
        named = serve(api, vllm, folder, job, "--vllm-key", "k", "--name", "mine")
        assert named.document["folder"] == str(folder / "mine")
        assert set(vllm.loaded) == {job, "mine"}
        gone = serve(api, vllm, folder, job, "--vllm-key", "k", "--unload")
        assert (gone.code, set(vllm.loaded)) == (0, {"mine"})
        assert not (folder / job).exists()


def test_vllm_may_see_the_folder_under_another_path(api: Api, job: str, tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to(tmp_path / "here")
    with FakeVllm() as vllm:
        done = serve(api, vllm, tmp_path / "here", job, "--folder-there", str(tmp_path / "there"))
        assert done.code == 0, done.err
        assert vllm.loaded == {job: str(tmp_path / "there" / job)}


@pytest.mark.parametrize(
    ("kept", "arguments", "code", "sentence"),
    [
        ({"dynamic": False}, [], 4, "loads no adapters while it runs. Start it with --enable-lora"),
        ({"key": "k"}, [], 4, "refused the key."),
        ({"base": "base"}, ["--name", "base"], 4, "base is the base model of the vLLM"),
        ({}, ["--folder-there", "/nowhere"], 4, "answered 404: Loading lora"),
        ({}, ["--unload"], 4, "has no adapter"),
        ({}, ["--name", "a/b"], 2, "has slashes"),
        ({}, ["--vllm", "ftp://x"], 2, "is not the URL of a vLLM server"),
        ({}, ["--vllm", "http://127.0.0.1:1"], 3, "No vLLM answers at http://127.0.0.1:1: Connection refused."),
    ],
)
def test_what_keeps_an_adapter_from_being_served_is_said(
    api: Api, job: str, tmp_path: Path, kept: dict, arguments: list[str], code: int, sentence: str
) -> None:
    with FakeVllm(**kept) as vllm:
        words = ["serve", job, "--vllm", vllm.url, "--folder", tmp_path / "served", *arguments, "--json"]
        done = turnloom(api.address, *words)
    assert done.code == code
    assert sentence in f"{done.error['message']} {done.error['hint']}"


def push(api: Api, hub: UploadHub, *arguments: str, token: str = "t") -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface-hub reads its settings once. Xet would need a store of its own kind."""
    variables = {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    return subprocess.run(
        [sys.executable, "-m", "turnloom.cli", "push", *arguments, "--address", api.address, "--json"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_adapter_is_pushed_with_a_card_of_its_facts(api: Api, job: str) -> None:
    with UploadHub("t") as hub:
        done = push(api, hub, job, "ann/small-chat", "--private")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {
            "name": "ann/small-chat",
            "commit": f"{hub.url}/ann/small-chat/commit/{COMMIT}",
            "checkpoint": f"{job}-a1-s3",
        }
        files = hub.repositories["ann/small-chat"]
        assert files["adapter_model.safetensors"] == WEIGHTS
        assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
        assert hub.private == {"ann/small-chat": True}
        assert hub.messages == [f"Adapter of {job} after step 3"]
        assert push(api, hub, job, "ann/small-chat", "--message", "again").returncode == 0
        assert hub.messages[1:] == ["again"]
    with TurnloomClient(api.address) as client:
        data = client.datasets.retrieve(client.jobs.retrieve(job).training_dataset)
    _, front, text = files["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "sft", "turnloom"],
    }
    for fact in (
        f"for {MODEL}, trained with Turnloom",
        data.sha256,
        f"{data.conversations} conversations, {data.examples} examples, {data.tokens} tokens",
        "| lora_rank | 8 |",
        "| 0 | 3.0000 |  |",
        "| 3 | 1.5000 | 1.2222 |",
        "Test NLL went from 3.0000 before training to 1.5000; lowest 1.5000 after step 3.",
        "The curves show no divergence",
    ):
        assert fact in text, (fact, text)
    assert str(Path.home()) not in text


def test_what_keeps_an_adapter_from_being_pushed_is_said(api: Api, job: str, tmp_path: Path) -> None:
    with UploadHub("t") as hub:
        wrong = push(api, hub, job, "ann/small-chat", token="x")
        assert (wrong.returncode, "does not let you write ann/small-chat" in wrong.stderr) == (4, True), wrong.stderr
        assert hub.repositories == {}
        hub.status = 500
        closed = push(api, hub, job, "ann/small-chat")
        assert (closed.returncode, "answered 500" in closed.stderr) == (3, True), closed.stderr
    away = push(api, hub, job, "ann/small-chat")
    assert (away.returncode, "does not answer: Connection refused." in away.stderr) == (3, True), away.stderr
    bad = turnloom(api.address, "push", job, "no-owner", "--json")
    assert (bad.code, "is not the name of a model" in bad.error["message"]) == (2, True)
    none = turnloom(api.address, "push", job, "a/b", "--checkpoint", "nothing", "--out", tmp_path / "out", "--json")
    assert none.code == 4
    kept = turnloom(api.address, "push", job, "a/b", "--out", tmp_path / "out", "--json")
    assert kept.code == 0, kept.err
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"README.md", "adapter_config.json"}
