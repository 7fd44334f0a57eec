"""Hub datasets through the real `datasets` library: a hub on loopback, a folder like the hub's, and no network."""

from __future__ import annotations

import io
import json
import signal
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.preprocess.datasets.sources.pieces import SHARD_ROWS
from services.store import keys
from services.store.records import DatasetState
from services.store.store import Store
from tests.fakes.hub import COMMIT, Hub
from tests.support.api_calls import options
from tests.support.source_runs import Sources, poll, write_lines
from turnloom.v1 import datasets_pb2 as pb

NAME = "HuggingFaceH4/no_robots"
DATED = options(date="2026-01-02")


def parquet(first: int, count: int) -> bytes:
    chats = [
        [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"say {i}"}]
        for i in range(first, first + count)
    ]
    file = io.BytesIO()
    pq.write_table(pa.table({"messages": chats, "category": ["Chat"] * count}), file)
    return file.getvalue()


def files() -> dict[str, bytes]:
    return {
        "README.md": b"---\nlicense: other\n---\n# chats\n",
        "data/train-00000-of-00002.parquet": parquet(0, 5),
        "data/train-00001-of-00002.parquet": parquet(5, 4),
        "data/test-00000-of-00001.parquet": parquet(100, 3),
    }


def environment(tmp_path: Path, endpoint: str) -> dict[str, str]:
    return {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "0"}


def test_a_split_of_a_hub_dataset_is_read_from_the_endpoint_that_is_named(sources: Sources, tmp_path: Path) -> None:
    with Hub(NAME, files()) as hub:
        sources.workers.start(**environment(tmp_path, hub.url))
        train = sources.ready(NAME)
        test = sources.ready(NAME, split="test", revision="main")
        assert (train.conversations, test.conversations) == (9, 3)
        assert (train.source.format, train.shards) == ("messages", 1)
        assert "Bearer hf_secret" in hub.tokens
        assert any(f"/resolve/{COMMIT}/data/train" in asked for asked in hub.asked), (
            "read from the commit that was asked for"
        )
        for source, code, sentence in (
            ({"split": "validation"}, "SOURCE_NOT_READABLE", f"{NAME} can't be read: Bad split: validation."),
            ({"revision": "v9"}, "HUB_REFUSED", f"{NAME} has no revision 'v9' at {hub.url}."),
        ):
            failed = sources.failed(sources.create(NAME, **source))
            assert failed.error.code == code
            assert failed.error.message.startswith(sentence)
        failed = sources.failed(sources.create("HuggingFaceH4/nothing"))
        assert failed.error.message == f"There is no dataset HuggingFaceH4/nothing at {hub.url}, or it is private."
        assert "HF_TOKEN" in failed.error.hint


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://hub.invalid"])
def test_without_a_network_the_sentence_comes_within_15_seconds_with_what_to_do(
    sources: Sources, tmp_path: Path, endpoint: str
) -> None:
    sources.workers.start(**environment(tmp_path, endpoint))
    sources.failed(sources.create("/".join((str(sources.roots), "none.jsonl"))))  # the worker runs
    began = time.monotonic()
    failed = sources.failed(sources.create(NAME))
    assert time.monotonic() - began < 15
    assert failed.error.code == "HUB_UNREACHABLE"
    assert failed.error.message == f"The hub at {endpoint} can't be reached for {NAME}."
    assert "HF_ENDPOINT to a mirror" in failed.error.hint


def test_a_folder_laid_out_like_a_hub_dataset_is_read_by_the_same_code_without_a_network(
    sources: Sources, tmp_path: Path
) -> None:
    for name, data in files().items():
        path = sources.roots / "no_robots" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    sources.workers.start(**environment(tmp_path, "http://127.0.0.1:1"))
    assert sources.ready(sources.roots / "no_robots", split="test").conversations == 3
    assert sources.ready(sources.roots / "no_robots", split="train", limit=7).conversations == 7


def test_a_name_of_the_hub_never_means_a_folder_or_file_of_the_worker(sources: Sources, tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / NAME).mkdir(parents=True)
    write_lines(here / NAME / "train.jsonl", 20)
    (here / NAME / "no_robots.py").write_text("raise SystemExit\n")
    write_lines(here / "secret.jsonl", 20)
    with Hub(NAME, files()) as hub:
        worker = sources.workers.start(here, **environment(tmp_path, hub.url))
        assert sources.ready(NAME).conversations == 9
        assert sources.ready(NAME, streaming=False).conversations == 9
    worker.terminate()
    worker.wait(60)
    sources.workers.start(here, **{**environment(tmp_path, "http://127.0.0.1:1"), "HF_HUB_OFFLINE": "1"})
    failed = sources.failed(sources.create("json"))
    assert failed.error.code == "HUB_REFUSED"
    assert failed.error.message == "json is a file format and no dataset of the hub."


def test_a_card_that_names_files_elsewhere_is_refused(sources: Sources, tmp_path: Path) -> None:
    secret = write_lines(tmp_path / "secret.jsonl", 20)
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {secret}\n---\n".encode()
    (sources.roots / "chats").mkdir()
    (sources.roots / "chats" / "README.md").write_bytes(card)
    with Hub(NAME, {**files(), "README.md": card}) as hub:
        sources.workers.start(**environment(tmp_path, hub.url))
        for name in (sources.roots / "chats", NAME):
            failed = sources.failed(sources.create(name, split="train"))
            assert failed.error.code in ("SOURCE_NOT_ALLOWED", "SOURCE_NOT_READABLE"), failed.error


def test_a_hub_dataset_can_be_downloaded_first(sources: Sources, tmp_path: Path) -> None:
    with Hub(NAME, files()) as hub:
        worker = sources.workers.start(**environment(tmp_path, hub.url))
        streamed = sources.ended(sources.create(NAME, options=DATED))
        downloaded = sources.ended(sources.create(NAME, options=DATED, streaming=False))
        assert downloaded.state == pb.DATASET_STATE_READY, downloaded.error
        assert downloaded.sha256 == streamed.sha256
        assert downloaded.source.HasField("streaming")
        assert not downloaded.source.streaming
        assert not streamed.source.HasField("streaming")
    worker.terminate()
    worker.wait(60)
    offline = {**environment(tmp_path, "http://127.0.0.1:1"), "HF_HUB_OFFLINE": "1"}
    sources.workers.start(**offline)
    again = sources.ended(sources.create(NAME, options=DATED, streaming=False))
    assert again.state == pb.DATASET_STATE_READY, again.error
    assert again.sha256 == streamed.sha256, "what was downloaded needs no network any more"


def test_a_worker_that_dies_in_a_hub_stream_loses_nothing_that_it_had_read(
    sources: Sources, tmp_path: Path, store: Store
) -> None:
    last = "data/train-00001-of-00002.parquet"
    parts = {"data/train-00000-of-00002.parquet": parquet(0, SHARD_ROWS), last: parquet(SHARD_ROWS, 5)}
    with Hub(NAME, parts) as hub:
        hub.held.add(last)
        worker = sources.workers.start(**environment(tmp_path, hub.url))
        asked = sources.create(NAME, filter=pb.RowFilter(where=["category = Chat"], max_characters=14))
        staged = tmp_path / "store" / "making" / asked.id / "staged" / "hub"
        poll((staged / "000000.jsonl").exists)
        before = (staged / "000000.jsonl").stat().st_mtime_ns
        worker.send_signal(signal.SIGKILL)
        worker.wait(60)
        assert (staged / "word").read_text() == COMMIT
        written: set[int] = set()

        def ended() -> bool:
            with suppress(FileNotFoundError):  # it goes when the dataset is READY
                written.add((staged / "000000.jsonl").stat().st_mtime_ns)
            return store.datasets.get(asked.id).state is not DatasetState.CREATING

        assert not ended()
        hub.released.set()
        sources.workers.start(**environment(tmp_path, hub.url))
        poll(ended)
        made = sources.ended(asked)
    assert written == {before}, "what was read was read again"
    assert made.state == pb.DATASET_STATE_READY, made.error
    assert (made.conversations, made.left_out.filtered) == (1000, SHARD_ROWS + 5 - 1000), '"ask 999" and "say 999"'


def test_a_hub_that_sends_nothing_is_left_within_seconds_of_a_cancel(
    sources: Sources, tmp_path: Path, store: Store
) -> None:
    held = "data/train-00000-of-00002.parquet"
    with Hub(NAME, files()) as hub:
        hub.held.add(held)
        sources.workers.start(**environment(tmp_path, hub.url))
        asked = sources.create(NAME)
        poll(lambda: any(line.startswith("GET") and line.endswith(held) for line in hub.asked))
        sources.api.datasets.CancelDataset(pb.CancelDatasetRequest(id=asked.id), timeout=30)
        began = time.monotonic()
        after = sources.create(write_lines(sources.roots / "next.jsonl", 2))
        assert sources.ended(after).state == pb.DATASET_STATE_READY, "the worker is free for others"
        assert time.monotonic() - began < 20  # the hub would be silent for 120 s
        poll(lambda: store.redis.smembers(keys.MAKING) == set())
        assert not hub.released.is_set()
        assert not (tmp_path / "store" / "making" / asked.id).exists()


def test_code_that_a_dataset_brings_along_is_never_run(sources: Sources, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    script = f"open({json.dumps(str(evil))}, 'w')\n".encode()
    with Hub("org/scripted", {"scripted.py": script, "README.md": b"# x\n"}) as hub:
        sources.workers.start(**environment(tmp_path, hub.url))
        failed = sources.failed(sources.create("org/scripted"))
    assert failed.state == pb.DATASET_STATE_FAILED
    assert failed.error.code == "SOURCE_NOT_READABLE"
    assert not evil.exists()
