"""Rows that another engine made are the dataset that our workers make of the same source: same sha256, any cut."""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader

from services.store.records import Hyperparameters, JobState
from tests.fakes.fake_tuft import FakeTuft
from tests.support.api_calls import MODEL, options
from tests.support.cli_runs import turnloom
from tests.support.redis_fixtures import RedisServer
from tests.support.source_runs import Sources, chat_lines, write_lines
from tests.support.trainer_stack import TrainerStack
from turnloom.datatrove_step import WriteRows
from turnloom.masks import Masker, Options, load_model
from turnloom.masks.columns import RowColumns
from turnloom.v1 import datasets_pb2 as pb

DATE = "2026-01-02"


def row_columns(model: Path) -> RowColumns:
    return RowColumns(Masker(load_model(model, MODEL), Options(date=DATE)))


def table(path: Path) -> pa.Table:
    messages = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    return pa.table({"messages": messages, "index": range(len(messages))})


def test_rows_in_any_files_are_the_dataset_of_their_source(sources: Sources, model_folder: Path) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 50)
    sources.workers.start()
    ours = sources.ended(sources.create(path, options=options(date=DATE)))
    rows, chats = row_columns(model_folder), table(path)
    folder = sources.roots / "rows"
    rows.describe(folder)
    for name, (first, count) in {"z": (0, 7), "a": (7, 30), "m": (37, 13)}.items():
        pq.write_table(rows.arrow(chats.slice(first, count)), folder / f"{name}.parquet")
    done = turnloom(sources.api.address, "dataset", "register", folder, "--json")
    assert done.code == 0, done.err
    assert (done.document["sha256"], done.document["state"]) == (ours.sha256, "READY")
    for field in ("conversations", "examples", "tokens", "loss_tokens", "target_bytes"):
        assert int(done.document[field]) == getattr(ours, field), field


def test_rows_are_found_by_the_bare_name_of_their_folder(
    sources: Sources, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, folder = row_columns(model_folder), sources.roots / "rows"
    rows.describe(folder)
    pq.write_table(rows.arrow(table(write_lines(sources.roots / "chats.jsonl", 5))), folder / "a.parquet")
    sources.workers.start()
    monkeypatch.chdir(sources.roots)
    done = turnloom(sources.api.address, "dataset", "register", "rows", "--json")
    assert done.code == 0, done.err
    assert (done.document["conversations"], done.document["state"]) == (5, "READY")


def _edited(rows: RowColumns, folder: Path, **changed: object) -> None:
    path = rows.describe(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def _high(rows: RowColumns, folder: Path, made: pa.Table) -> None:
    rows.describe(folder)
    rows_made = made.to_pylist()
    rows_made[2]["token_ids"][0] = 99_999_999
    pq.write_table(pa.Table.from_pylist(rows_made, schema=made.schema), folder / "a.parquet")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda rows, folder, made: None, "has 0 files turnloom.json"),
        (lambda rows, folder, made: (rows.describe(folder), pq.write_table(made, folder / "b.parquet")), "both hold"),
        (lambda rows, folder, made: _edited(rows, folder, tokenizer_sha256="0" * 64), "tokenizer_sha256 of the rows"),
        (lambda rows, folder, made: _edited(rows, folder, options={"max_length": 9}), "other options"),
        (lambda rows, folder, made: _edited(rows, folder, options=None), "it has no format and options."),
        (_high, "token 99999999 is not in the vocabulary"),
    ],
)
def test_rows_that_are_not_the_servers_are_refused(
    sources: Sources, model_folder: Path, break_it: Callable[..., object], words: str
) -> None:
    rows, folder = row_columns(model_folder), sources.roots / "rows"
    folder.mkdir()
    made = rows.arrow(table(write_lines(sources.roots / "chats.jsonl", 5)))
    pq.write_table(made, folder / "a.parquet")
    break_it(rows, folder, made)
    sources.workers.start()
    failed = sources.failed(sources.create(folder, options=options(date=DATE), format="rows"))
    assert words in failed.error.message


def test_a_datatrove_pipeline_makes_the_dataset_of_our_worker(
    sources: Sources, model_folder: Path, tmp_path: Path
) -> None:
    chats = sources.roots / "chats"
    chats.mkdir()
    sizes = {"a.jsonl": 40, "b.jsonl": 25, "c.jsonl": 300}
    first = dict(zip(sizes, itertools.accumulate(sizes.values(), initial=0), strict=False))
    for name, count in sizes.items():
        (chats / name).write_text("".join(chat_lines(count, first[name])))

    def chat(reader: JsonlReader, data: dict[str, object], path: str, line: int) -> dict[str, object]:
        return {"text": path, "id": f"{path}/{line}", "metadata": {**data, "index": first[path] + line}}

    rows = row_columns(model_folder)
    folder = sources.roots / "rows"
    steps = [JsonlReader(str(chats), adapter=chat), WriteRows(rows, folder)]
    LocalPipelineExecutor(steps, tasks=2, workers=2, logging_dir=str(tmp_path / "log")).run()
    rows.describe(folder)
    sources.workers.start()
    ours = sources.ended(sources.create(chats, options=options(date=DATE)))
    theirs = sources.ended(sources.create(folder, options=options(date=DATE), format="rows"))
    assert theirs.state == pb.DATASET_STATE_READY, theirs.error
    assert (theirs.sha256, theirs.conversations) == (ours.sha256, 365)
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000-00000.parquet", "00000-00001.parquet", "00001-00000.parquet", "turnloom.json",
    ]  # fmt: skip


RAY = Path(__file__).parents[2] / ".venv-tuft" / "bin" / "python"

PROGRAM = """
import json, os, signal, sys, threading, time
import ray
from tests.support.trainer_stack import TrainerStack
from turnloom.masks import Masker, Options, load_model
from turnloom.masks.columns import RowColumns

source, model, name, folder, date, mark = sys.argv[1:]  # mark: file for the worker to be killed; "": none
ray.init(num_cpus=2, include_dashboard=False, logging_level="error", _temp_dir=os.environ["RAY_FOLDER"])
context = ray.data.DataContext.get_current()
context.execution_options.preserve_order = True
context.enable_progress_bars = False
rows = RowColumns(Masker(load_model(model, name), Options(date=date)))
chats = ray.data.read_json(source, lines=True)
numbered = chats.zip(ray.data.range(chats.count()))
made = RowColumns(rows.masker, index="id")

def masked(table):
    if mark and table["id"][0].as_py() >= 100:
        try:
            with open(mark, "x") as file:
                file.write(str(os.getpid()))
            threading.Event().wait(120)  # until it is killed; another worker then finds the mark
        except FileExistsError:
            pass
    return made.arrow(table)

def kill():
    end = time.monotonic() + 150
    while time.monotonic() < end:
        if os.path.exists(mark) and (pid := open(mark).read()):
            os.kill(int(pid), signal.SIGKILL)
            print("killed", pid)
            return
        time.sleep(0.05)

if mark:
    killer = threading.Thread(target=kill)
    killer.start()
numbered.repartition(4).map_batches(masked, batch_format="pyarrow", batch_size=16).write_parquet(folder)
if mark:
    killer.join()
rows.describe(folder)
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(not RAY.exists(), reason="Ray is in .venv-tuft (scripts/install_tuft_cpu.sh)")
@pytest.mark.parametrize("killed", [False, True])
def test_a_ray_cluster_of_two_workers_makes_the_dataset_of_our_worker_one_killed_or_none(
    sources: Sources, model_folder: Path, tmp_path: Path, killed: bool
) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 200)
    folder = sources.roots / "rows"
    here = Path(importlib.util.find_spec("pyarrow").origin).parents[1]  # type: ignore[union-attr, arg-type]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{here}",
        "RAY_FOLDER": f"/tmp/tl-ray-{os.getpid()}",  # its sockets need a short path
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # by default its workers starve beside other tests
    }
    command = [str(RAY), "-c", PROGRAM, str(path), str(model_folder), MODEL, str(folder), DATE]
    command.append(str(tmp_path / "mark") if killed else "")
    ran = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ("killed" in ran.stdout) is killed
    sources.workers.start()
    ours = sources.ended(sources.create(path, options=options(date=DATE)))
    theirs = sources.ended(sources.create(folder, options=options(date=DATE), format="rows"))
    assert theirs.state == pb.DATASET_STATE_READY, theirs.error
    assert theirs.sha256 == ours.sha256


def test_a_job_trains_on_a_registered_dataset(
    sources: Sources, model_folder: Path, tmp_path: Path, shared_redis: RedisServer, fake_tuft: FakeTuft
) -> None:
    rows, folder = row_columns(model_folder), sources.roots / "rows"
    rows.describe(folder)
    pq.write_table(rows.arrow(table(write_lines(sources.roots / "chats.jsonl", 20))), folder / "a.parquet")
    sources.workers.start()
    made = sources.ended(sources.create(folder, options=options(date=DATE), format="rows"))
    assert made.state == pb.DATASET_STATE_READY, made.error
    stack = TrainerStack(tmp_path, shared_redis, fake_tuft)
    try:
        hyper = Hyperparameters(epochs=1, batch_size=8, lora_rank=4, eval_every=0)
        job_id = stack.submit(hyper, training_dataset=made.id, test=())
        stack.worker()
        job = stack.wait(job_id, JobState.SUCCEEDED)
        assert (job.step, job.effective.conversations) == (3, made.conversations)
        assert job.effective.loss_tokens == made.loss_tokens
    finally:
        stack.close()
