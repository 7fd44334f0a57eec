"""The whole way: conversations over gRPC, a job on a real worker and the fake TuFT, its adapter over gRPC again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fakes.fake_tuft import FakeTuft
from tests.support.api_calls import TUFT_MODEL, Start, chat, dataset_stream, make_job, wait_until
from tests.support.trainer_stack import HOST, TrainerStack
from turnloom.v1 import training_pb2 as pb

if TYPE_CHECKING:  # the fixture gives it
    from tests.support.redis_fixtures import RedisServer

LIMIT = 120  #: seconds that any call here may take


@pytest.fixture
def stack(tmp_path: Path, redis_server: RedisServer) -> Iterator[TrainerStack]:
    with FakeTuft(tmp_path / "tuft", model_name=TUFT_MODEL) as tuft:
        made = TrainerStack(tmp_path, redis_server, tuft, lease_ttl=15.0)  # no worker is killed
        yield made
        made.close()


def test_conversations_become_an_adapter(start_api: Start, stack: TrainerStack) -> None:
    api = start_api(stack.redis.url)
    chats = [chat(f"question {index}", f"answer {index}", "and then", f"more {index}") for index in range(12)]
    train = api.datasets.CreateDataset(dataset_stream(chats), timeout=LIMIT).dataset
    test = api.datasets.CreateDataset(dataset_stream(chats[:3]), timeout=LIMIT).dataset
    stack.worker()
    wait_until(lambda: any(host.backend_up for host in api.jobs.ListHosts(pb.ListHostsRequest(), timeout=LIMIT).hosts))
    created = make_job(
        api,
        train.id,
        test_dataset=test.id,
        hyperparameters=pb.Hyperparameters(
            lora_rank=4, batch_size=4, epochs=2, learning_rate=1e-2, eval_every=3, checkpoint_every=2
        ),
    )
    assert (created.job.host, created.estimate.steps) == ("", 6)
    stack.supervisor()  # gives it to the worker
    updates = list(api.jobs.WatchJob(pb.WatchJobRequest(id=created.job.id), timeout=LIMIT))
    steps = [update.step for update in updates if update.HasField("step")]
    assert [step.step for step in steps if step.step] == list(range(1, 7))
    assert [update.job.state for update in updates if update.HasField("job")][-1] == pb.JOB_STATE_SUCCEEDED
    job = api.jobs.GetJob(pb.GetJobRequest(id=created.job.id), timeout=LIMIT).job
    assert job.progress.step == job.progress.planned_steps == 6
    assert job.progress.trained_tokens == 2 * train.loss_tokens
    assert job.progress.tokens <= created.estimate.tokens
    listed = api.jobs.ListSteps(pb.ListStepsRequest(job=job.id), timeout=LIMIT)
    assert [step.step for step in listed.steps] == list(range(1, 7))
    assert listed.initial.test_weight_sum == test.weight_sum
    mean = sum(step.nll_sum for step in listed.steps) / sum(step.weight_sum for step in listed.steps)
    assert job.progress.mean_train_nll == pytest.approx(mean, rel=1e-12)
    final = fetched(api.jobs.DownloadAdapter(pb.DownloadAdapterRequest(job=job.id), timeout=LIMIT))
    assert json.loads(final["adapter_config.json"])["r"] == 4
    checkpoints = api.jobs.ListCheckpoints(pb.ListCheckpointsRequest(job=job.id), timeout=LIMIT).checkpoints
    last = checkpoints[-1]
    assert (last.step, last.stored) == (6, True)
    request = pb.DownloadAdapterRequest(job=job.id, checkpoint=last.id)
    kept = fetched(api.jobs.DownloadAdapter(request, timeout=LIMIT))
    assert kept["adapter_model.safetensors"] == final["adapter_model.safetensors"]
    checks = api.jobs.Diagnose(pb.DiagnoseRequest(host=HOST), timeout=LIMIT).checks
    asked = [check for check in checks if check.host == HOST]
    assert {"host_heartbeat"} < {check.name for check in asked}
    assert "host_checks" not in {check.name for check in asked}


def fetched(parts: Iterator[pb.DownloadAdapterResponse]) -> dict[str, bytes]:
    """Files by name, each held to its size and hash."""
    files: dict[str, bytes] = {}
    said: dict[str, tuple[int, str]] = {}
    for part in parts:
        files[part.file] = files.get(part.file, b"") + part.data
        said[part.file] = (part.file_bytes, part.file_sha256)
    assert said == {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    assert list(files) == ["adapter_config.json", "adapter_model.safetensors"]
    return files
