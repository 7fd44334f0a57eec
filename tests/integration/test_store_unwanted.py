"""Files of deleted datasets: they go, but never from under a dataset that came to need the same content."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from services.store.ids import new_id
from services.store.queueing.unwanted import Unwanted, UnwantedFile, remove_unwanted
from services.store.records import DatasetRecord, DatasetState
from services.store.shards.dataset_files import DatasetReader, DatasetWriter, Row, Written
from services.store.store import Store, open_store

GRACE = 600.0


@pytest.fixture
def store(redis_url: str, tmp_path: Path) -> Iterator[Store]:
    store = open_store(redis_url, str(tmp_path))
    yield store
    store.close()


def write(folder: Path) -> Written:
    """The one dataset of these tests: its content is always the same, so is its address."""
    with DatasetWriter(str(folder), "{}") as writer:
        tokens = np.arange(4, dtype=np.int32)
        writer.append(Row(0, 0, tokens, np.array([3], np.uint32), np.array([1.0], np.float32), 3))
        return writer.commit()


def register(store: Store, written: Written) -> str:
    record = DatasetRecord(new_id("ds"), "{}", state=DatasetState.READY, sha256=written.sha256, uri=written.uri)
    return store.datasets.create(record).dataset.id


def readable(written: Written) -> bool:
    with DatasetReader(written.uri) as reader:
        return len(list(reader.rows())) == 1


def age(path: str, seconds: float = 2 * GRACE) -> None:
    """As if it had been written long ago."""
    if Path(path).exists():
        os.utime(path, (time.time() - seconds,) * 2)


def long_ago(store: Store) -> None:
    """As if everything on the list had been deleted long ago."""
    for file in store.unwanted.due(0.0):
        store.redis.zadd("tl:api:unwanted", {file.member: time.time() - 2 * GRACE})


def test_the_file_goes_after_the_grace_and_nothing_is_left(store: Store, tmp_path: Path) -> None:
    written = write(tmp_path)
    store.datasets.delete(register(store, written))
    assert remove_unwanted(store.unwanted, GRACE) == 0
    assert readable(written)
    long_ago(store)
    age(written.uri)
    assert remove_unwanted(store.unwanted, GRACE) == 1
    assert [path for path in (tmp_path / "datasets").rglob("*") if path.is_file()] == []
    assert remove_unwanted(store.unwanted, GRACE) == 0
    assert store.redis.zcard("tl:api:unwanted") == 0


def test_a_dataset_registered_after_the_deletion_keeps_the_file(store: Store, tmp_path: Path) -> None:
    written = write(tmp_path)
    first = register(store, written)
    store.datasets.delete(first)
    register(store, write(tmp_path))
    long_ago(store)
    age(written.uri)
    assert remove_unwanted(store.unwanted, GRACE) == 0
    assert readable(written)
    assert store.redis.zcard("tl:api:unwanted") == 0


def test_a_file_written_again_waits_for_its_maker_to_register_it(store: Store, tmp_path: Path) -> None:
    store.datasets.delete(register(store, write(tmp_path)))
    long_ago(store)
    again = write(tmp_path)  # a maker that has not registered it yet
    assert remove_unwanted(store.unwanted, GRACE) == 0
    assert readable(again)
    register(store, again)
    age(again.uri)
    assert remove_unwanted(store.unwanted, GRACE) == 0
    assert readable(again)


class Interrupted(Unwanted):
    """Lets a test act between the two looks at a file."""

    meanwhile: Callable[[], None]
    looks = 0

    def is_wanted(self, file: UnwantedFile) -> bool:
        self.looks += 1
        if self.looks == 2:
            self.meanwhile()
        return super().is_wanted(file)


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_dataset_registered_in_the_middle_of_the_removal_gets_the_file_back(
    store: Store, tmp_path: Path, rewritten: bool
) -> None:
    written = write(tmp_path)
    store.datasets.delete(register(store, written))
    long_ago(store)
    age(written.uri)
    unwanted = Interrupted(store.redis)

    def register_again() -> None:
        register(store, write(tmp_path) if rewritten else written)

    unwanted.meanwhile = register_again
    assert remove_unwanted(unwanted, GRACE) == 0
    assert readable(written)
    assert sorted(path.suffix for path in (tmp_path / "datasets").rglob("*") if path.is_file()) == [
        ".arrow",
        ".arrow",
        ".json",
    ]


def test_a_removal_that_was_interrupted_is_finished_by_the_next(store: Store, tmp_path: Path) -> None:
    written = write(tmp_path)
    store.datasets.delete(register(store, written))
    long_ago(store)
    age(written.uri)
    unwanted = Interrupted(store.redis)

    def die() -> None:
        raise KeyboardInterrupt

    unwanted.meanwhile = die
    with pytest.raises(KeyboardInterrupt):
        remove_unwanted(unwanted, GRACE)
    assert remove_unwanted(store.unwanted, GRACE) == 1
    assert [path for path in (tmp_path / "datasets").rglob("*") if path.is_file()] == []


def test_shards_of_a_manifest_that_was_replaced_stay_until_the_content_goes(store: Store, tmp_path: Path) -> None:
    written = write(tmp_path)
    first, second = register(store, written), register(store, write(tmp_path))
    assert len(list(tmp_path.rglob("*.arrow"))) == 4
    with DatasetReader(written.uri) as reader:
        assert len(list(reader.rows())) == 1
    store.datasets.delete(first)
    long_ago(store)
    age(written.uri)
    assert remove_unwanted(store.unwanted, GRACE) == 0
    assert len(list(tmp_path.rglob("*.arrow"))) == 4
    store.datasets.delete(second)
    long_ago(store)
    assert remove_unwanted(store.unwanted, GRACE) == 1
    assert list(tmp_path.rglob("*.arrow")) == []
