"""Rows that another engine made are the dataset that our workers make of the same source: same sha256, any cut."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.api_calls import MODEL, options
from tests.support.cli_runs import turnloom
from tests.support.source_runs import Sources, write_lines
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


RAY = Path(__file__).parents[2] / ".venv-tuft" / "bin" / "python"

PROGRAM = """
import json, os, sys
import ray
from turnloom.masks import Masker, Options, load_model
from turnloom.masks.columns import RowColumns

source, model, name, folder, date = sys.argv[1:]
ray.init(num_cpus=2, include_dashboard=False, logging_level="error", _temp_dir=os.environ["RAY_FOLDER"])
context = ray.data.DataContext.get_current()
context.execution_options.preserve_order = True
context.enable_progress_bars = False
rows = RowColumns(Masker(load_model(model, name), Options(date=date)))
chats = ray.data.read_json(source, lines=True)
numbered = chats.zip(ray.data.range(chats.count()))
made = RowColumns(rows.masker, index="id")
numbered.repartition(4).map_batches(made.arrow, batch_format="pyarrow", batch_size=16).write_parquet(folder)
rows.describe(folder)
ray.shutdown()
"""


@pytest.mark.slow
@pytest.mark.skipif(not RAY.exists(), reason="Ray is in .venv-tuft (scripts/install_tuft_cpu.sh)")
def test_a_ray_cluster_of_two_workers_makes_the_dataset_of_our_worker(
    sources: Sources, model_folder: Path, tmp_path: Path
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
    }
    command = [str(RAY), "-c", PROGRAM, str(path), str(model_folder), MODEL, str(folder), DATE]
    ran = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    sources.workers.start()
    ours = sources.ended(sources.create(path, options=options(date=DATE)))
    theirs = sources.ended(sources.create(folder, options=options(date=DATE), format="rows"))
    assert theirs.state == pb.DATASET_STATE_READY, theirs.error
    assert theirs.sha256 == ours.sha256
