"""The store over a real S3 API: what it keeps, and what it says when the bucket is full, closed, mute or broken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from services.store.blobs.cache import FileCache
from services.store.blobs.deadlines import answers_within
from services.store.blobs.evaluations import Evaluations, RowLosses
from services.store.blobs.files import exists, remove, try_store, whole_file
from services.store.blobs.objects import Objects
from services.store.blobs.replies import Replies, ReplyPrompt, ReplyPrompts
from services.store.errors import NotFound, StoreFull, StoreRefused, StoreUnavailable
from services.store.shards.dataset_files import DatasetReader, DatasetWriter, Row, join, verify
from services.store.shards.files import ShardReader
from services.store.shards.manifest import read_manifest, shards_folder

pytest.importorskip("s3fs")
from tests.support.s3_server import HASTY, PATIENT, S3, s3_server, wait_for_answers

OPTIONS = json.dumps({"model": "m"})
SIZE = 70 << 20  # above s3fs's size of a part: several go up


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setitem(fsspec.config.conf, "s3", {})
    wait_for_answers(PATIENT)
    with s3_server(monkeypatch) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 4096)
    (folder / "optimizer").mkdir()
    (folder / "optimizer" / "state.pt").write_bytes(b"state")
    return folder


def row(conversation: int) -> Row:
    ids = np.arange(conversation, conversation + 5, dtype=np.int32)
    return Row(conversation, 0, ids, np.array([2, 2], np.uint32), np.array([0, 1], np.float32), 7)


def write(url: str, conversations: range) -> str:
    with DatasetWriter(url, OPTIONS) as writer:
        for conversation in conversations:
            writer.append(row(conversation))
        return writer.commit().uri


def test_folders_datasets_and_evaluations_come_back_as_they_went(s3: S3, folder: Path, tmp_path: Path) -> None:
    objects = Objects(s3.url)
    stored = objects.put_folder("job-1", "c1", folder)
    assert objects.put_folder("job-1", "c1", folder) == stored
    objects.get_folder(stored.uri, tmp_path / "back")
    assert (tmp_path / "back/adapter/adapter_model.safetensors").read_bytes() == bytes(range(256)) * 4096
    parts = [read_manifest(write(s3.url, some)).shards[0] for some in (range(3), range(3, 6))]
    whole = join(s3.url, OPTIONS, parts, shards_folder(s3.url, "maker"))
    assert verify(whole.uri, OPTIONS) == whole.sha256
    with DatasetReader(whole.uri) as reader:
        assert [int(one.conversation) for one in reader.rows()] == list(range(6))
    losses = RowLosses(np.array([1], np.uint32), np.array([0.5], np.float32), np.array([2.0], np.float32))
    evaluations = Evaluations(s3.url)
    evaluations.put("job-1", 5, losses)
    assert evaluations.get("job-1", 5).nll_sum.tolist() == [0.5]
    objects.delete_job("job-1")
    with pytest.raises(NotFound):
        objects.files(stored.uri)
    assert not [name for name in s3.names() if "job-1" in name or name.endswith(".part")]


def test_a_large_file_goes_up_in_parts_and_appears_at_once(s3: S3, tmp_path: Path) -> None:
    url = f"{s3.url}/large"
    with whole_file(url) as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
        assert s3.names() == []
    (name,) = s3.names()
    assert fsspec.filesystem("s3").size(name) == SIZE


def test_an_upload_that_fails_leaves_nothing(s3: S3) -> None:
    def fail() -> None:
        with whole_file(f"{s3.url}/half") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert s3.names() == []


@pytest.mark.parametrize(
    ("mode", "kind", "words"),
    [
        ("full", StoreFull, "has no room"),
        ("wrong key", StoreRefused, "check its key"),
        ("broken", StoreUnavailable, "can't serve"),
        ("mute", StoreUnavailable, "can't serve"),
        ("deaf", StoreUnavailable, "can't serve"),
    ],
)
def test_a_store_that_takes_nothing_says_why_and_keeps_nothing(
    s3: S3, folder: Path, mode: str, kind: type[StoreUnavailable], words: str
) -> None:
    objects, silent = Objects(s3.url), mode in ("mute", "deaf")
    wait_for_answers(HASTY if silent else PATIENT)
    s3.door.mode = mode
    for act in (lambda: objects.put_folder("job-1", "c1", folder), lambda: write(s3.url, range(3))):
        with pytest.raises(kind, match=words) as caught, answers_within(3.0 if silent else 60.0):
            act()
        assert s3.url in str(caught.value)
        assert type(caught.value) is kind
    s3.door.mode = ""
    wait_for_answers(PATIENT)
    assert s3.names() == []
    stored = objects.put_folder("job-1", "c1", folder)  # when it is back, the same call does it
    assert [entry.name for entry in objects.files(stored.uri)]


LOSSES = RowLosses(np.array([1], np.uint32), np.array([0.5], np.float32), np.array([2.0], np.float32))
PROMPTS = ReplyPrompts((ReplyPrompt("hi", (1, 2), (3,)),))
READS = "files folder dataset shard index evaluation replies cache"


def operations(s3: S3, folder: Path, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Everything that the store is asked to do, on files that are there; made while the bucket answers."""
    objects, evaluations, replies = Objects(s3.url), Evaluations(s3.url), Replies(s3.url)
    stored, data = objects.put_folder("job-1", "c1", folder), write(s3.url, range(40))
    evaluations.put("job-1", 1, LOSSES)
    replies.put_prompts("job-1", PROMPTS)
    shard = read_manifest(data).shards[0]
    wait_for_answers(HASTY)
    opened = [DatasetReader(data) for _ in range(2)]
    cache = FileCache(tmp_path / "cache", 1 << 20)
    return {
        "files": lambda: objects.files(stored.uri),
        "folder": lambda: objects.get_folder(stored.uri, tmp_path / "back"),
        "dataset": lambda: DatasetReader(data),
        "shard": lambda: opened[0][0],
        "index": lambda: opened[1].index,
        "evaluation": lambda: evaluations.get("job-1", 1),
        "replies": lambda: replies.prompts("job-1"),
        "cache": lambda: cache.fetch(shard.uri),
        "list": lambda: replies.steps("job-1"),
        "exists": lambda: exists(stored.uri),
        "put folder": lambda: objects.put_folder("job-2", "c1", folder),
        "write dataset": lambda: write(s3.url, range(50, 53)),
        "join": lambda: join(s3.url, OPTIONS, [shard], shards_folder(s3.url, "other")),
        "put evaluation": lambda: evaluations.put("job-2", 1, LOSSES),
        "put replies": lambda: replies.put_prompts("job-2", PROMPTS),
        "trial": lambda: try_store(s3.url),
        "remove": lambda: remove(stored.uri),
        "delete": lambda: objects.delete_job("job-1"),
    }


@pytest.mark.parametrize(
    ("mode", "which"), [("mute", None), ("deaf", None), ("stopped", READS)], ids=["mute", "deaf", "stopped"]
)
def test_no_operation_waits_for_a_silent_store_beyond_its_deadline(
    s3: S3, folder: Path, tmp_path: Path, mode: str, which: str | None
) -> None:
    def hasty(act: Callable[[], object]) -> object:
        with answers_within(3.0):
            return act()

    asked = operations(s3, folder, tmp_path)
    asked = {name: act for name, act in asked.items() if which is None or name in which.split()}
    s3.door.mode = mode
    with ThreadPoolExecutor(len(asked)) as pool:
        running = {name: pool.submit(hasty, act) for name, act in asked.items()}
        for name, future in running.items():
            error = future.exception(timeout=45)
            assert type(error) is StoreUnavailable, f"{name}: {error!r}"
            assert not str(error).endswith(": "), f"{name} says no reason: {error}"
    s3.door.mode = ""
    assert Evaluations(s3.url).get("job-1", 1).nll_sum.tolist() == [0.5]  # connections are free again


def test_answers_that_break_off_are_not_taken_for_whole(s3: S3, folder: Path, tmp_path: Path) -> None:
    objects = Objects(s3.url)
    stored, data = objects.put_folder("job-1", "c1", folder), write(s3.url, range(3))
    s3.door.mode = "cut"
    with pytest.raises(StoreUnavailable):
        objects.get_folder(stored.uri, tmp_path / "back")
    assert not (tmp_path / "back").exists()
    with pytest.raises(StoreUnavailable):
        DatasetReader(data)
    s3.door.mode = ""
    cache = FileCache(tmp_path / "cache", 1 << 20)
    reader = DatasetReader(data, cache)
    s3.door.mode = "cut"
    with pytest.raises(StoreUnavailable):
        reader[0]
    assert list((tmp_path / "cache").iterdir()) == []
    s3.door.mode = ""
    assert reader[2].conversation == 2


def test_a_missing_bucket_is_not_made_but_named(s3: S3, folder: Path) -> None:
    with pytest.raises(StoreUnavailable, match="s3://no-such-bucket"):
        Objects("s3://no-such-bucket/store").put_folder("job-1", "c1", folder)


def test_the_trial_writes_reads_lists_and_deletes(s3: S3) -> None:
    try_store(s3.url)
    assert s3.names() == []
    s3.door.mode = "wrong key"
    with pytest.raises(StoreRefused, match="check its key"):
        try_store(s3.url)


def test_the_cache_fetches_once_and_stays_below_its_bound(s3: S3, tmp_path: Path) -> None:
    written = [write(s3.url, range(first, first + 50)) for first in range(4)]
    data = [read_manifest(uri).shards[0].uri for uri in written]
    size = fsspec.filesystem("s3").size(data[0])
    cache = FileCache(tmp_path / "cache", 2 * size + size // 2)

    def gets() -> int:
        return len([path for method, path in s3.door.requests if method == "GET" and ".arrow" in path])

    readers = [ShardReader(uri, cache) for uri in (data[0], data[0], data[1], data[0])]
    assert gets() == 2
    readers += [ShardReader(data[2], cache)]  # data[1] goes, which was used before data[0]
    assert gets() == 3
    readers += [ShardReader(data[0], cache)]
    assert gets() == 3
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= cache.limit
    assert [len(reader) for reader in readers] == [50] * 6  # an open file survives its removal
    small = FileCache(tmp_path / "small", size - 1)
    assert len(ShardReader(data[0], small)) == 50
    assert not (tmp_path / "small").exists()
