"""Files as rows: where they may lie, how they are cut, and what each row says of its place."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.datasets.sources import columnar
from services.preprocess.datasets.sources.listing import Found, files
from services.preprocess.datasets.sources.pieces import SHARD_BYTES, SHARD_ROWS, Piece, pack
from services.preprocess.datasets.sources.reading import pieces_of, read
from services.preprocess.domain.source_errors import SourceError, SourceNotAllowed, SourceNotFound, SourceNotReadable
from services.preprocess.domain.source_location import Location, locate
from turnloom.client.registering import read_description
from turnloom.errors import InvalidInput
from turnloom.reading.rows import RawRow

ROWS = [{"messages": [{"role": "user", "content": f"q{i}"}], "id": str(i)} for i in range(5)]


def rows_of(path: str | Path, staging: Path) -> list[RawRow]:
    return [row for piece in pieces_of(str(path), str(staging)) for row in read(piece)]


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table = pa.Table.from_pylist(ROWS)
    cells = "".join(f'"{json.dumps(r["messages"]).replace(chr(34), chr(34) * 2)}",{r["id"]}\n' for r in ROWS)
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines)
    (tmp_path / "lines.json").write_bytes(lines)
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "a.csv").write_text("messages,id\n" + cells)
    (tmp_path / "semicolon.csv").write_text("messages;id\n" + cells.replace('}]",', '}]";'))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.ndjson.bz2").write_bytes(bz2.compress(lines))
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=2)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    for path in sorted(p for p in tmp_path.iterdir() if p.is_file()):
        found = rows_of(path, tmp_path / "staged" / path.name)
        assert [row.value for row in found] == ROWS, path
        assert all(row.place.startswith(f"{path}, ") for row in found)


def test_bad_lines_keep_their_places_and_harm_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\n{"a": \n{"a": NaN}\n\xff\n{"a": 2}')
    assert rows_of(path, tmp_path) == [
        RawRow(f"{path}, line 1", {"a": 1}),
        RawRow(f"{path}, line 3", None, "is not JSON (Expecting value in column 6)."),
        RawRow(f"{path}, line 4", {}, unread={"a": "holds NaN, which JSON can't hold."}),
        RawRow(f"{path}, line 5", None, "is not UTF-8."),
        RawRow(f"{path}, line 6", {"a": 2}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_head_of_a_csv_tells_what_parts_its_columns(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"prompt{delimiter}completion\na, b; c{delimiter}d\n".replace("a, b; c", '"a, b; c"'))
    assert [row.value for row in rows_of(path, tmp_path)] == [{"prompt": "a, b; c", "completion": "d"}]
    path.write_text("text\nabc\n")
    assert [row.value for row in rows_of(path, tmp_path)] == [{"text": "abc"}]


def test_a_csv_row_of_another_width_is_bad_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\na,b\nc\n")
    assert rows_of(path, tmp_path)[1] == RawRow(f"{path}, line 3", None, "has 1 cell for 2 columns.")


def test_a_line_that_is_too_long_costs_no_memory_and_is_bad_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnloom.reading.lines.MAX_LINE", 20)
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "' + "x" * 100 + '"}\n{"a": 2}\n')
    long, good = rows_of(path, tmp_path)
    assert (long.mistake[:14], good.place, good.value) == ("is longer than", f"{path}, line 2", {"a": 2})


def test_a_file_that_shrinks_between_cutting_and_reading_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    (piece,) = pieces_of(str(path), "")
    path.write_text('{"a": 1}\n')
    with pytest.raises(SourceNotReadable, match="gave 1 of 2 rows: it was changed"):
        list(read(piece))


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(b"not what its name says")
        with pytest.raises(SourceNotReadable, match=f"{name} can't be read: "):
            rows_of(tmp_path / name, tmp_path / "staged")


def test_urls_are_read_through_fsspec(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/chats/b.jsonl", b'{"a": 2}\n')
    memory.pipe("/chats/a.jsonl", b'{"a": 1}\n')
    memory.pipe("/chats/notes.txt", b"x")
    roots = ("memory://chats",)
    for uri in ("memory://chats", "memory://chats/*.jsonl"):
        found = files(locate(uri, roots), roots)
        assert [row.value for name in found.data for row in rows_of(name, tmp_path)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(SourceNotAllowed):
        locate("memory://others/a.jsonl", roots)
    with pytest.raises(SourceNotAllowed):
        locate("memory://chats/../others/a.jsonl", roots)


@pytest.mark.parametrize("uri", ["HuggingFaceH4/no_robots", "squad", "org/data.v2"])
def test_names_are_hub_datasets(uri: str) -> None:
    assert locate(uri, ("/data",)) == Location(hub=uri)


@pytest.mark.parametrize("uri", ["rows", "made/rows"])
def test_rows_of_another_engine_are_never_looked_for_on_the_hub(uri: str) -> None:
    assert locate(uri, ("/data", "/more"), hub=False) == Location(places=(f"/data/{uri}", f"/more/{uri}"))


class _NoCredentials(Exception):
    """As botocore's: no OSError."""


def test_a_client_names_the_url_that_its_store_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> NoReturn:
        raise _NoCredentials("Unable to locate credentials")

    monkeypatch.setattr("fsspec.open", refuse)
    with pytest.raises(
        InvalidInput, match=r"s3://b/rows/turnloom\.json can't be read: Unable to locate cred"
    ) as refused:
        read_description("s3://b/rows")
    assert "credentials are here too" in refused.value.hint


@pytest.mark.parametrize("text", ["5", "{}", '{"options": {}}', '{"model": "m", "options": null}'])
def test_a_description_without_model_or_options_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "turnloom.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"turnloom\.json can't be read: it has no model and options\."):
        read_description(str(tmp_path))


@pytest.mark.parametrize(
    "uri",
    [
        *("/etc/passwd", "../x.jsonl", "/data/../etc/x.jsonl", "file:///etc/x.jsonl", "~root/x.jsonl", "/database/x"),
        *("simplecache::/data/x.jsonl", "/data/x.jsonl::file:///etc/x.jsonl"),
    ],
)
def test_paths_outside_the_roots_are_refused_by_their_text(uri: str) -> None:
    with pytest.raises(SourceNotAllowed, match="is not below a source root"):
        locate(uri, ("/data",))


def test_a_link_out_of_the_roots_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("{}\n")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.jsonl").symlink_to(tmp_path / "out.jsonl")
    for uri in (root, root / "link.jsonl", root / "*.jsonl"):
        with pytest.raises(SourceNotAllowed, match="leads out of the source roots"):
            files(locate(str(uri), (str(root),)), (str(root),))
    (root / "own.jsonl").write_text("{}\n")
    assert files(locate(str(root), (str(root),)), (str(root),)) == Found(
        (f"{root}/own.jsonl",), (f"{root}/link.jsonl",)
    )


def test_a_link_to_a_folder_outside_is_named_and_not_what_lies_there(tmp_path: Path) -> None:
    secret, root = tmp_path / "out", tmp_path / "root"
    for folder in (secret, root):
        folder.mkdir()
    (secret / "secret.jsonl").write_text("{}\n")
    (root / "link").symlink_to(secret)
    roots = (str(root),)
    for uri in (root, root / "link"):
        with pytest.raises(SourceNotAllowed) as refused:
            files(locate(str(uri), roots), roots)
        assert str(refused.value) == f"{root}/link leads out of the source roots."
    (root / "own.jsonl").write_text("{}\n")
    assert files(locate(str(root), roots), roots) == Found((f"{root}/own.jsonl",), (f"{root}/link",))


def test_splits_below_a_url_are_not_mixed() -> None:
    system = fsspec.filesystem("memory")
    for name, data in (
        ("dataset_dict.json", b'{"splits": ["train", "test"]}'),
        ("train/a.jsonl", b"{}"),
        ("test/a.jsonl", b"{}"),
    ):
        system.pipe(f"/saved/{name}", data)
    roots = ("memory://saved",)
    try:
        with pytest.raises(SourceNotReadable, match="memory://saved holds the splits train, test"):
            files(locate("memory://saved", roots), roots)
        assert files(locate("memory://saved/train", roots), roots).data == ("memory:///saved/train/a.jsonl",)
    finally:
        system.rm("/saved", recursive=True)


def test_a_name_that_is_no_utf8_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jsonl")).write_text("{}\n")
    roots = (str(tmp_path),)
    with pytest.raises(SourceNotReadable, match=r"caf\?\.jsonl has a name that is no UTF-8\."):
        files(locate(str(tmp_path), roots), roots)


def test_folders_and_globs_give_data_files_in_order_and_nothing_is_said_so(tmp_path: Path) -> None:
    for name in ("b.jsonl", "sub/a.parquet", ".hidden.jsonl", "README.md", "state.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    roots = (str(tmp_path),)
    assert files(locate(str(tmp_path), roots), roots).data == (f"{tmp_path}/b.jsonl", f"{tmp_path}/sub/a.parquet")
    assert files(locate("b.jsonl", roots), roots).data == (f"{tmp_path}/b.jsonl",)
    with pytest.raises(SourceNotFound, match="There is nothing at"):
        files(locate("*.csv", roots), roots)
    with pytest.raises(SourceError, match="is no data file"):
        files(locate(f"{tmp_path}/README.md", roots), roots)


PIECES = st.lists(st.tuples(st.integers(0, SHARD_ROWS), st.integers(0, SHARD_BYTES)), max_size=30)


@given(sizes=PIECES, limit=st.integers(0, 3 * SHARD_ROWS))
def test_packing_loses_and_repeats_no_row_and_bounds_every_shard(sizes: Sequence[tuple[int, int]], limit: int) -> None:
    pieces = [Piece(str(n), "lines", str(n), 0, 1, count, size) for n, (count, size) in enumerate(sizes)]
    total = sum(piece.count for piece in pieces)
    shards = list(pack(pieces, limit))
    assert sum(shard.count for shard in shards) == (min(limit, total) if limit else total)
    assert all(0 < shard.count <= SHARD_ROWS for shard in shards)
    assert all(sum(piece.size for piece in shard.pieces) <= SHARD_BYTES for shard in shards)
    assert [shard.index for shard in shards] == [sum(s.count for s in shards[:n]) for n in range(len(shards))]
    urls = [piece.url for shard in shards for piece in shard.pieces]
    assert urls == [piece.url for piece in pieces if piece.count][: len(urls)]


def test_a_parquet_file_of_one_large_row_group_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"messages": [{"role": "user", "content": f"q{n}"}], "id": n} for n in range(100)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    whole = rows_of(path, tmp_path / "staged")
    monkeypatch.setattr(columnar, "GROUP_ROWS", 99)
    monkeypatch.setattr(columnar, "SHARD_ROWS", 16)
    pieces = list(pieces_of(str(path), str(tmp_path / "staged")))
    assert [(piece.kind, piece.count) for piece in pieces] == [("batch", 16)] * 6 + [("batch", 4)]
    assert [row for piece in pieces for row in read(piece)] == whole
    assert whole[50].place == f"{path}, row 50"
    monkeypatch.setattr(columnar, "SHARD_BYTES", pieces[0].size // 4)
    smaller = list(pieces_of(str(path), str(tmp_path / "smaller")))
    assert len(smaller) > len(pieces)
    assert [row for piece in smaller for row in read(piece)] == whole
