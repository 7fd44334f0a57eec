"""A store without room: said at once, and nothing half written is left in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from services.store.blobs.objects import Objects
from services.store.errors import StoreFull
from services.store.shards.dataset_files import DatasetWriter
from tests.support.api_calls import make_dataset
from tests.support.small_disk import SmallDisk, small_disk
from tests.support.source_runs import Sources, write_lines

LEAST = 4  #: megabytes


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """The store of this test, a disk of its own."""
    (tmp_path / "store").mkdir()
    with small_disk(tmp_path / "store", LEAST) as mounted:
        if mounted is None:
            pytest.skip("a disk of its own has to be mounted for this, which needs root")
        yield mounted


def left(disk: SmallDisk) -> list[str]:
    """Files beside the filler."""
    return [path.name for path in disk.folder.rglob("*") if path.is_file() and path.name != "filler"]


def write(store_url: str, rows: int) -> None:
    """Rows of 16 KB."""
    row = np.arange(2_000, dtype=np.int32)
    with DatasetWriter(store_url, "{}", 16) as writer:
        for conversation in range(rows):
            writer.add(conversation, 0, row, [(1_999, 1.0)], 9)
        writer.commit()


def test_a_dataset_that_a_client_sends_is_refused_and_leaves_nothing(disk: SmallDisk, sources: Sources) -> None:
    disk.fill()
    with pytest.raises(grpc.RpcError) as refused:
        make_dataset(sources.api)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details().startswith("The object store has no room for ")
    assert left(disk) == []
    disk.empty()
    assert make_dataset(sources.api).examples == 10


def test_an_import_ends_at_its_first_try_and_leaves_nothing(disk: SmallDisk, sources: Sources) -> None:
    disk.fill()
    sources.workers.start()
    failed = sources.failed(sources.create(write_lines(sources.roots / "chats.jsonl", 50)))
    assert failed.error.code == "STORE_FULL", failed.error
    assert failed.error.hint == "Make room there, then make the dataset again."
    assert left(disk) == []


def test_an_import_that_is_to_be_staged_first_leaves_nothing(disk: SmallDisk, sources: Sources) -> None:
    lines = write_lines(sources.roots / "chats.jsonl", 30_000).read_text().splitlines()
    (sources.roots / "chats.json").write_text("[" + ",".join(lines) + "]")
    sources.workers.start()
    failed = sources.failed(sources.create(sources.roots / "chats.json"))
    assert failed.error.code == "STORE_FULL", failed.error
    assert left(disk) == []


@pytest.mark.parametrize("shard_rows", [100, 1_000_000])
def test_a_writer_that_fills_the_store_leaves_nothing(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, shard_rows: int
) -> None:
    monkeypatch.setattr("services.store.shards.dataset_files.SHARD_ROWS", shard_rows)
    with pytest.raises(StoreFull, match="has no room for"):
        write(str(disk.folder), 5_000)
    assert left(disk) == []


def test_a_checkpoint_that_does_not_fit_leaves_only_whole_files(disk: SmallDisk, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "a.bin").write_bytes(bytes(1 << 20))
    (tmp_path / "checkpoint" / "b.bin").write_bytes(bytes((LEAST + 1) << 20))
    objects = Objects(str(disk.folder))
    with pytest.raises(StoreFull, match="has no room for"):
        objects.put_folder("job-1", "c", tmp_path / "checkpoint")
    assert left(disk) == ["a.bin"]  # the next try goes on from it
    objects.delete_job("job-1")
    assert left(disk) == []


def test_a_cache_that_is_full_keeps_no_part(disk: SmallDisk, tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "a.bin").write_bytes(bytes((LEAST + 1) << 20))
    objects = Objects(str(tmp_path / "elsewhere"))
    stored = objects.put_folder("job-1", "c", tmp_path / "checkpoint")
    with pytest.raises(StoreFull, match=r"no room for .*/got\.[0-9a-f]*\.part/a.bin"):
        objects.get_folder(stored.uri, disk.folder / "got")
    assert left(disk) == []
