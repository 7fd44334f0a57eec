"""Dataset files: exact values, one address however written, nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import tracemalloc
from pathlib import Path
from typing import IO

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.store.blobs import files
from services.store.errors import Corrupt, StoreFull, StoreUnavailable
from services.store.shards import dataset_files
from services.store.shards.dataset_files import DatasetReader, DatasetWriter, Row, canonical_json, join, remove, verify
from services.store.shards.files import SCHEMA, ShardFile, ShardReader, ShardWriter, read_gathered
from services.store.shards.manifest import read_manifest, shards_folder
from services.store.shards.row_index import read_index

OPTIONS = canonical_json({"model": "tiny", "train_on": "all_assistant_messages", "größe": 1})


def row(
    conversation: int, tokens: list[int], runs: list[tuple[int, float]], part: int = 0, target_bytes: int = 3
) -> Row:
    return Row(
        conversation,
        part,
        np.array(tokens, np.int32),
        np.array([length for length, _ in runs], np.uint32),
        np.array([value for _, value in runs], np.float32),
        target_bytes,
    )


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    made: list[Row] = []
    conversation = 0
    for _ in range(draw(st.integers(1, 30))):
        conversation += draw(st.integers(0, 2))
        tokens = draw(st.lists(st.integers(0, 2**31 - 1), min_size=2, max_size=20))
        runs: list[tuple[int, float]] = []
        left = len(tokens) - 1
        while left:
            length = draw(st.integers(1, left))
            runs.append((length, draw(st.floats(0, 1e6, width=32))))
            left -= length
        made.append(row(conversation, tokens, runs, draw(st.integers(0, 65535)), draw(st.integers(0, 2**32 - 1))))
    return made


def write(store: Path | str, made: list[Row], per_batch: int = 1024) -> object:
    with DatasetWriter(str(store), OPTIONS, per_batch) as writer:
        for item in made:
            writer.append(item)
        return writer.commit()


def shard(root: str, made: list[Row], per_batch: int = 1024) -> ShardFile:
    with ShardWriter(shards_folder(root, "maker"), OPTIONS, per_batch) as writer:
        for one in made:
            runs = list(zip(one.run_lengths.tolist(), one.run_values.tolist(), strict=True))
            writer.add(one.conversation, one.part, one.token_ids, runs, one.target_bytes)
        return writer.commit()


def same(left: Row, right: Row) -> bool:
    return (
        (left.conversation, left.part, left.target_bytes) == (right.conversation, right.part, right.target_bytes)
        and left.token_ids.tobytes() == right.token_ids.tobytes()
        and left.run_lengths.tobytes() == right.run_lengths.tobytes()
        and left.run_values.tobytes() == right.run_values.tobytes()
    )


@settings(max_examples=60, deadline=None)
@given(made=rows(), per_batch=st.integers(1, 7), cut=st.integers(0, 30))
def test_rows_come_back_bit_for_bit_and_the_address_ignores_batches_and_shards(
    tmp_path_factory: pytest.TempPathFactory, made: list[Row], per_batch: int, cut: int
) -> None:
    store = tmp_path_factory.mktemp("store")
    one = write(store, made)
    with DatasetReader(one.uri) as reader:
        assert len(reader) == len(made)
        assert all(same(reader[index], item) for index, item in enumerate(made))
        assert all(same(left, right) for left, right in zip(reader.rows(), made, strict=True))
        assert reader.row_lengths.tolist() == [len(item.token_ids) for item in made]
        assert reader.conversation.tolist() == [item.conversation for item in made]
        assert reader.part.tolist() == [item.part for item in made]
        assert reader.target_bytes.tolist() == [item.target_bytes for item in made]
    assert verify(one.uri, OPTIONS) == one.sha256
    assert write(store / "other", made, per_batch).sha256 == one.sha256
    at = next((index for index in range(cut, len(made)) if made[index].conversation > made[index - 1].conversation), 0)
    root = str(store / "merged")
    shards = [shard(root, part, per_batch) for part in (made[:at], made[at:]) if part]
    merged = join(root, OPTIONS, shards, shards_folder(root, "maker"))
    assert (merged.sha256, merged.rows, merged.conversations) == (one.sha256, one.rows, one.conversations)
    with DatasetReader(merged.uri) as reader:
        assert all(same(left, right) for left, right in zip(reader.rows(), made, strict=True))
        assert reader.index.loss_tokens.tolist() == [int((item.target_weights() > 0).sum()) for item in made]
    weights = np.concatenate([item.target_weights() for item in made])
    assert merged.tokens == sum(len(item.token_ids) for item in made)
    assert merged.loss_tokens == int((weights > 0).sum())
    assert merged.weight_sum == pytest.approx(float(weights.astype(np.float64).sum()))
    assert merged.conversations == len({item.conversation for item in made})


@pytest.mark.parametrize(
    "other",
    [
        row(0, [1, 2, 4], [(2, 1.0)]),
        row(0, [1, 2, 3], [(1, 1.0), (1, 1.0)]),
        row(0, [1, 2, 3], [(2, 0.5)]),
        row(1, [1, 2, 3], [(2, 1.0)]),
        row(0, [1, 2, 3], [(2, 1.0)], part=1),
        row(0, [1, 2, 3], [(2, 1.0)], target_bytes=4),
    ],
)
def test_every_value_is_part_of_the_address(tmp_path: Path, other: Row) -> None:
    assert write(tmp_path, [row(0, [1, 2, 3], [(2, 1.0)])]).sha256 != write(tmp_path, [other]).sha256


def test_the_options_are_part_of_the_address_and_their_order_is_not(tmp_path: Path) -> None:
    assert canonical_json({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}' == canonical_json({"a": "ä", "b": 1})
    with DatasetWriter(str(tmp_path), canonical_json({"x": 1})) as first, DatasetWriter(str(tmp_path), "{}") as second:
        assert first.commit().sha256 != second.commit().sha256


def test_the_address_is_the_documented_one(tmp_path: Path) -> None:
    import hashlib
    import struct

    values = struct.pack("<5I3i1I1f", 7, 2, 3, 1, 9, 10, 11, 12, 2, 0.5)
    digest = hashlib.sha256(values).digest()
    expected = hashlib.sha256(b"turnloom-dataset-2\n" + OPTIONS.encode() + b"\n" + digest).hexdigest()
    assert write(tmp_path, [row(7, [10, 11, 12], [(2, 0.5)], part=2, target_bytes=9)]).sha256 == expected


def test_views_are_of_the_map_and_outlive_the_reader(tmp_path: Path) -> None:
    written = write(tmp_path, [row(index, list(range(50)), [(49, 1.0)]) for index in range(100)])
    reader = DatasetReader(written.uri)
    taken = reader[7]
    assert not taken.token_ids.flags.owndata
    assert not taken.token_ids.flags.writeable
    reader.close()
    del reader
    gc.collect()
    assert taken.token_ids.tolist() == list(range(50))


def test_writing_keeps_no_more_than_a_batch_in_memory(tmp_path: Path) -> None:
    tokens, lengths, values = np.arange(1000, dtype=np.int32), np.array([999], np.uint32), np.array([1], np.float32)
    tracemalloc.start()
    with DatasetWriter(str(tmp_path), OPTIONS, rows_per_batch=16) as writer:
        for index in range(2000):
            writer.append(Row(index, 0, tokens.copy(), lengths, values, 1))
        written = writer.commit()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert written.tokens == 2_000_000
    assert peak < 2_000_000, "eight megabytes went through it"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(0, [1], []), "row 1: 1 tokens, a row needs at least 2"),
        (row(0, [1, 2, 3], [(1, 1.0)]), "row 1: weight runs cover 1 of 2 targets"),
        (row(0, [1, -2], [(1, 1.0)]), "row 1: token id -2 is negative"),
        (row(0, [1, 2], [(1, float("nan"))]), "row 1: a weight is negative or not finite"),
        (row(0, [1, 2], [(1, -0.5)]), "row 1: a weight is negative or not finite"),
    ],
)
def test_a_row_that_breaks_the_contract_is_refused_with_its_position(tmp_path: Path, bad: Row, message: str) -> None:
    with DatasetWriter(str(tmp_path), OPTIONS) as writer:
        writer.append(row(0, [1, 2], [(1, 1.0)]))
        writer.append(bad)
        with pytest.raises(ValueError, match=message):
            writer.commit()


def test_rows_out_of_source_order_are_refused(tmp_path: Path) -> None:
    with DatasetWriter(str(tmp_path), OPTIONS) as writer:
        writer.append(row(5, [1, 2], [(1, 1.0)]))
        writer.append(row(4, [1, 2], [(1, 1.0)]))
        with pytest.raises(ValueError, match="row 1: conversation 4 comes after 5"):
            writer.commit()


def test_without_a_commit_nothing_is_left(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), DatasetWriter(str(tmp_path), OPTIONS) as writer:
        writer.append(row(0, [1, 2], [(1, 1.0)]))
        raise RuntimeError
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_empty_dataset_has_an_address_too(tmp_path: Path) -> None:
    written = write(tmp_path, [])
    with DatasetReader(written.uri) as reader:
        assert (len(reader), reader.row_lengths.tolist()) == (0, [])
        with pytest.raises(IndexError, match="row 0 of 0"):
            reader[0]


def test_a_store_elsewhere_is_read_and_written_too() -> None:
    made = [row(index, [1, 2, index], [(2, 1.0)]) for index in range(5)]
    written = write("memory://bucket", made, 2)
    assert written.uri == f"memory://bucket/datasets/{written.sha256}.json"
    with DatasetReader(written.uri) as reader:
        assert all(same(reader[index], item) for index, item in enumerate(made))
    assert verify(written.uri, OPTIONS) == written.sha256
    remove(written.uri)
    assert not fsspec.filesystem("memory").exists("/bucket/datasets/" + written.sha256 + ".json")
    with pytest.raises(StoreUnavailable, match="the object store can't serve memory://"):
        DatasetReader(written.uri)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = DatasetWriter(str(tmp_path), OPTIONS, rows_per_batch=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with writer:
        monkeypatch.setattr(writer._writer, "_sink", type("Full", (), {"write_batch": full})())
        with pytest.raises(StoreFull, match=r"the object store has no room for .*/shards/.*; free some, then try"):
            writer.append(row(0, [1, 2], [(1, 1.0)]))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.arrow").write_bytes(b"nonsense" * 10)
    with pytest.raises(Corrupt, match=r"x\.arrow is not a dataset file"):
        DatasetReader(str(tmp_path / "x.arrow"))
    schema = pa.schema([("a", pa.int32())])
    with pa.ipc.new_file(str(tmp_path / "y.arrow"), schema) as sink:
        sink.write_batch(pa.record_batch([pa.array([1], pa.int32())], schema=schema))
    with pytest.raises(Corrupt, match=r"y\.arrow has other columns than a dataset: a"):
        DatasetReader(str(tmp_path / "y.arrow"))
    with pytest.raises(StoreUnavailable, match="no object store is set; give TURNLOOM_STORE_URL"):
        DatasetWriter("", OPTIONS)
    with pytest.raises(StoreUnavailable, match=r"nowhere://x/datasets/shards/.* can't be opened"):
        DatasetWriter("nowhere://x", OPTIONS)


@pytest.mark.parametrize("columns", [["a"], [f"c{number}" for number in range(len(SCHEMA.names))]])
def test_a_file_with_other_columns_is_refused_in_a_sentence(tmp_path: Path, columns: list[str]) -> None:
    path, schema = str(tmp_path / "y.arrow"), pa.schema([(name, pa.int32()) for name in columns])
    with pa.ipc.new_file(path, schema) as sink:
        sink.write_batch(pa.record_batch([pa.array([1], pa.int32()) for _ in columns], schema=schema))
    with pytest.raises(Corrupt) as index:
        read_index(path, None)
    assert str(index.value) == f"{path} has other columns than an index of rows: {', '.join(columns)}"
    with pytest.raises(Corrupt) as shard:
        list(read_gathered(path))
    if len(columns) == 1:
        assert str(shard.value) == f"{path} is damaged, or not a shard of a dataset; make the dataset again"
    else:
        assert str(shard.value) == f"{path} has other columns than a shard of a dataset: c0, c6, c7, c8"


def test_a_changed_file_no_longer_has_its_address(tmp_path: Path) -> None:
    written = write(tmp_path, [row(0, [1000001, 1000002], [(1, 1.0)])])
    path = Path(read_manifest(written.uri).shards[0].uri)
    content = path.read_bytes()
    path.write_bytes(content.replace((1000002).to_bytes(4, "little"), (1000003).to_bytes(4, "little")))
    assert verify(written.uri, OPTIONS) != written.sha256


def test_a_whole_file_appears_at_once_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.json"

    def begin(file: IO[bytes]) -> None:
        file.write(b"half")
        file.flush()
        assert not target.exists()

    with contextlib.suppress(RuntimeError), files.whole_file(str(target)) as file:
        begin(file)
        raise RuntimeError
    assert list((tmp_path / "deep").iterdir()) == []
    with files.whole_file(str(target)) as file:
        begin(file)
        file.write(json.dumps([1]).encode())
    assert target.read_bytes() == b"half[1]"


FIXTURE = Path(__file__).parents[2] / "data" / "dataset-version-1"


def test_a_dataset_of_the_format_before_manifests_is_read_and_keeps_its_address() -> None:
    expected = json.loads((FIXTURE / "expected.json").read_text())
    uri = str(FIXTURE / f"{expected['sha256']}.arrow")
    with DatasetReader(uri) as reader:
        assert [
            {
                "conversation": one.conversation,
                "part": one.part,
                "token_ids": one.token_ids.tolist(),
                "run_lengths": one.run_lengths.tolist(),
                "run_values": one.run_values.tolist(),
                "target_bytes": one.target_bytes,
            }
            for one in reader.rows()
        ] == expected["rows"]
        assert reader.index.loss_tokens.tolist() == [int((one.target_weights() > 0).sum()) for one in reader.rows()]
    assert verify(uri, expected["options"]) == expected["sha256"]


def test_a_writer_begins_another_shard_only_between_conversations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_files, "SHARD_ROWS", 3)
    made = [row(index // 2, [1, 2, index], [(2, 1.0)], part=index % 2) for index in range(11)]
    written = write(tmp_path, made)
    assert [(one.first, one.last) for one in read_manifest(written.uri).shards] == [(0, 1), (2, 3), (4, 5)]
    with DatasetReader(written.uri) as reader:
        assert all(same(left, right) for left, right in zip(reader.rows(), made, strict=True))


def test_a_reader_opens_the_shards_that_are_asked_for_and_keeps_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_files, "SHARD_ROWS", 1)
    monkeypatch.setattr(dataset_files, "OPEN_SHARDS", 2)
    opened: list[str] = []
    monkeypatch.setattr(
        dataset_files, "ShardReader", lambda uri, cache=None: opened.append(uri) or ShardReader(uri, cache)
    )
    made = [row(index, [1, 2, index], [(2, 1.0)]) for index in range(6)]
    written = write(tmp_path, made)
    opened.clear()
    reader = DatasetReader(written.uri)
    assert reader.index.conversation.tolist() == reader.conversation.tolist() == list(range(6))
    assert reader.index.tokens.tolist() == reader.row_lengths.tolist() == [3] * 6
    assert opened == [], "the index needs no shard"
    taken = [reader[index] for index in (5, 0, 5, 3, 5, 0)]
    uris = [one.uri for one in read_manifest(written.uri).shards]
    assert opened == [uris[5], uris[0], uris[3], uris[0]]
    assert [int(one.token_ids[2]) for one in taken] == [5, 0, 5, 3, 5, 0]


def test_shards_out_of_order_are_refused(tmp_path: Path) -> None:
    later, earlier = (shard(str(tmp_path), [row(at, [1, 2], [(1, 1.0)])]) for at in (3, 2))
    with pytest.raises(ValueError, match="begins with conversation 2, which comes after 3"):
        join(str(tmp_path), OPTIONS, [later, earlier], shards_folder(str(tmp_path), "maker"))


def test_a_manifest_of_another_version_is_refused(tmp_path: Path) -> None:
    written = write(tmp_path, [row(0, [1, 2], [(1, 1.0)])])
    path = Path(written.uri)
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with pytest.raises(Corrupt, match="has version 3, not 2"):
        DatasetReader(written.uri)
    path.write_text("{}")
    with pytest.raises(Corrupt, match="is not a dataset's manifest"):
        DatasetReader(written.uri)
