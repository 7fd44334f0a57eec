"""OpenAI's own Python and npm packages against the whole stack with the real TuFT: every method, unchanged scripts."""

from __future__ import annotations

import csv
import inspect
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI
from openai.resources.files import Files
from openai.resources.fine_tuning.alpha.graders import Graders
from openai.resources.fine_tuning.checkpoints.permissions import Permissions
from openai.resources.fine_tuning.jobs.checkpoints import Checkpoints
from openai.resources.fine_tuning.jobs.jobs import Jobs
from openai.types.fine_tuning import FineTuningJob

from tests.support.rest_server import openai_client, valid
from turnloom.client import TurnloomClient
from turnloom.embedded.stack import MODEL, Stack, StackSettings

pytestmark = [pytest.mark.tuft, pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
TRAIN, VALID = ROOT / "examples/conversations.jsonl", ROOT / "examples/conversations.test.jsonl"
NODE = ROOT / "tests/node"
RESOURCES = (Files, Jobs, Checkpoints, Permissions, Graders)


@pytest.fixture(scope="module")
def stack(tuft_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(StackSettings(tmp_path_factory.mktemp("openai") / "stack", tuft_python)) as made:
        yield made


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[OpenAI]:
    with openai_client(stack.openai_url.removesuffix("/v1")) as made:
        yield made


def methods(resource: type) -> list[str]:
    return [name for name, member in vars(resource).items() if inspect.isfunction(member) and not name.startswith("_")]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the SDK's methods that were called."""
    names: set[str] = set()

    def noting(name: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            names.add(name)
            return method(*args, **kwargs)

        return call

    for resource in RESOURCES:
        for name in methods(resource):
            full = f"{resource.__name__}.{name}"
            monkeypatch.setattr(resource, name, noting(full, getattr(resource, name)))
    return names


def until(client: OpenAI, job: str, condition: Callable[[FineTuningJob], bool]) -> FineTuningJob:
    """Poll as scripts do."""
    end = time.monotonic() + 240
    while True:
        found = valid(client.fine_tuning.jobs.retrieve(job))
        if condition(found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.2)


def supervised(epochs: int) -> dict[str, object]:
    chosen = {"n_epochs": epochs, "batch_size": 16, "learning_rate_multiplier": "auto"}
    return {"type": "supervised", "supervised": {"hyperparameters": chosen}}


@pytest.fixture(scope="module")
def finished(client: OpenAI) -> FineTuningJob:
    """A job that succeeded; its files are still there."""
    train, test = (client.files.create(file=path, purpose="fine-tune").id for path in (TRAIN, VALID))
    job = client.fine_tuning.jobs.create(
        model=MODEL, training_file=train, validation_file=test, suffix="sdk", method=supervised(1), seed=1,
        extra_body={"turnloom": {"hyperparameters": {"lora_rank": 8}}},
    )  # fmt: skip
    return until(client, job.id, lambda found: found.status in ("succeeded", "failed", "cancelled"))


def test_every_method_of_files_and_fine_tuning_works_in_python(
    stack: Stack, client: OpenAI, finished: FineTuningJob, called: set[str]
) -> None:
    jobs = client.fine_tuning.jobs
    train = valid(client.files.create(file=TRAIN, purpose="fine-tune"))
    assert valid(client.files.wait_for_processing(train.id)).status == "processed"
    with pytest.warns(DeprecationWarning, match="content"):
        assert client.files.retrieve_content(train.id) == TRAIN.read_text(encoding="utf-8")
    long = valid(jobs.create(model=MODEL, training_file=train.id, method=supervised(25)))
    running = until(client, long.id, lambda job: job.turnloom["step"] > 0)
    assert running.status == "running"
    assert valid(jobs.pause(long.id)).status == "running"
    assert until(client, long.id, lambda job: job.turnloom["state"] == "PAUSED").status == "queued"
    assert valid(jobs.resume(long.id)).status == "queued"
    assert valid(jobs.cancel(long.id)).status == "cancelled"
    until(client, long.id, lambda job: job.turnloom["state"] == "CANCELLED")
    assert [job.id for job in jobs.list(limit=1)] == [long.id, finished.id]

    assert finished.status == "succeeded"
    with TurnloomClient(stack.address) as direct:
        job, steps = direct.jobs.retrieve(finished.id), list(direct.jobs.steps(finished.id, 1))
    assert finished.trained_tokens == job.progress.tokens == sum(step.tokens for step in steps)
    events = [valid(event) for event in jobs.list_events(finished.id, limit=5)]
    measured = {event.data["step"]: event.data["train_loss"] for event in events if event.type == "metrics"}
    assert measured == {step.step: step.nll_sum / step.weight_sum for step in steps}
    assert len({event.id for event in events}) == len(events) > len(steps)
    saved = [valid(one) for one in jobs.checkpoints.list(finished.id, limit=1)]
    assert [one.step_number for one in saved] == [len(steps), 0]
    assert saved[0].metrics.full_valid_loss == pytest.approx(job.progress.test_nll)

    results = valid(client.files.retrieve(finished.result_files[0]))
    text = client.files.content(results.id).text
    assert len(text.encode()) == results.bytes
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {int(row["step"]): float(row["train_loss"]) for row in rows[1:]} == measured
    assert [file.id for file in client.files.list(purpose="fine-tune-results")] == [
        *jobs.retrieve(long.id).result_files,
        results.id,
    ]
    refusals(client, saved[0].fine_tuned_model_checkpoint)
    assert valid(client.files.delete(train.id)).deleted
    wanted = {f"{resource.__name__}.{name}" for resource in RESOURCES for name in methods(resource)}
    assert wanted <= called


def refusals(client: OpenAI, checkpoint: str) -> None:
    """What OpenAI has and Turnloom can't mean."""
    permissions, graders = client.fine_tuning.checkpoints.permissions, client.fine_tuning.alpha.graders
    assert list(permissions.list(checkpoint)) == []
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert permissions.retrieve(checkpoint).data == []
    with pytest.raises(openai.BadRequestError, match="Turnloom has no projects"):
        permissions.create(checkpoint, project_ids=["p"])
    with pytest.raises(openai.NotFoundError, match="no permission 'x'"):
        permissions.delete("x", fine_tuned_model_checkpoint=checkpoint)
    grader = {"type": "string_check", "name": "g", "input": "a", "reference": "a", "operation": "eq"}
    with pytest.raises(openai.BadRequestError, match="Graders are not possible"):
        graders.run(grader=grader, model_sample="a")
    with pytest.raises(openai.BadRequestError, match="Graders are not possible"):
        graders.validate(grader=grader)


@pytest.fixture(scope="module")
def node(pytestconfig: pytest.Config) -> Path:
    """A folder with the newest npm package and our script."""
    if not (shutil.which("node") and shutil.which("npm")):
        if os.environ.get("CI"):
            pytest.fail("node and npm are not installed")
        pytest.skip("node and npm are not installed")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("openai_npm")
    shutil.copytree(NODE, folder, dirs_exist_ok=True)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"],
        cwd=folder, check=True, timeout=120,
    )  # fmt: skip
    return folder


def test_every_method_works_in_node(stack: Stack, finished: FineTuningJob, node: Path) -> None:
    variables = {"OPENAI_BASE_URL": stack.openai_url, "OPENAI_API_KEY": "any"}
    done = subprocess.run(
        ["node", "fine_tuning.mjs", str(TRAIN), str(VALID), finished.id],
        cwd=node, env={**os.environ, **variables}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missed"] == []
    assert (found["bytes"], found["listed"], found["jobs"]) == (TRAIN.stat().st_size, True, True)
    assert (found["paused"], found["resumed"], found["cancelled"]) == ("queued", "queued", "cancelled")
    assert found["metrics"] == finished.turnloom["step"]
    assert len(set(found["events"])) == len(found["events"]) > found["metrics"]
    assert found["checkpoints"] == [finished.turnloom["step"], 0]
    assert found["results"].startswith("step,train_loss,valid_loss")
    assert found["permissions"] == 0
    assert [found[name]["status"] for name in ("sharing", "unsharing", "malformed")] == [400, 404, 400]
    assert {refused["status"] for refused in found["graders"]} == {400}
    assert "bad.jsonl, line 1: there is no key messages" in found["malformed"]["message"]
    assert found["deleted"] == [True, True]


def test_the_model_of_a_job_is_listed_and_deleted_with_it(client: OpenAI, finished: FineTuningJob) -> None:
    name = finished.fine_tuned_model
    assert name is not None
    assert [model.id for model in client.models.list()] == [MODEL, name]
    assert valid(client.models.retrieve(name)).id == name
    asked = {"model": name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}
    reply = valid(client.chat.completions.create(**asked))
    pieces = [piece.choices[0].delta.content or "" for piece in client.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == reply.choices[0].message.content != ""
    assert valid(client.models.delete(name)).deleted
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(name)
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve(finished.id)
