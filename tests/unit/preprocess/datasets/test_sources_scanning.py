"""A source looked at part by part is the source read in one go: same rows, numbers, duplicates and split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.preprocess.datasets.sources import line_files
from services.preprocess.datasets.sources.choosing import choose
from services.preprocess.datasets.sources.pieces import Shard, pack
from services.preprocess.datasets.sources.reading import pieces_of
from services.preprocess.datasets.sources.scanning import Part, ScanFile, first_lines, parts_of_file, scan
from services.preprocess.datasets.sources.selecting import choice_of, select
from services.preprocess.datasets.sources.shards import wanted
from services.preprocess.domain.source_errors import SourceEmpty
from services.store.records import DatasetSource, LeftOutRecord, RowFilterRecord
from tests.unit.preprocess.datasets.test_sources_selecting import Unhurried
from turnloom.reading.chat_formats import Format

SHAPE = Format("prompt_completion")
LINES = st.one_of(
    st.sampled_from(["", "   ", "broken", "\ufeff"]),
    st.builds(
        lambda text, kind: json.dumps({"prompt": text, "completion": "a", "kind": kind}),
        st.sampled_from(["x", "y", "Y ", "long " * 30, "é"]),
        st.integers(0, 1),
    ),
)
FILES = st.lists(st.tuples(st.lists(LINES, max_size=12), st.booleans()), min_size=1, max_size=3)


def written(folder: Path, files: Sequence[tuple[list[str], bool]]) -> list[Path]:
    found = []
    for number, (lines, ends) in enumerate(files):
        path = folder / f"{number}.jsonl"
        path.write_text("\n".join(lines) + ("\n" if ends else ""), encoding="utf-8")
        found.append(path)
    return found


def by_parts(
    folder: Path, paths: Sequence[Path], source: DatasetSource, most: int, buckets: int, cut: bool
) -> tuple[tuple[Shard, ...], LeftOutRecord]:
    """What tasks of their own find; with `cut` the first file comes in pieces that are cut already."""
    parts: list[Part] = []
    for number, path in enumerate(paths):
        if cut and number == 0:
            parts += [Part(pieces=(piece,)) for piece in pieces_of(str(path), "")]
        else:
            parts += parts_of_file(str(path), path.stat().st_size, most)
    scans = []
    for number, part in enumerate(parts):
        url = str(folder / f"scan-{number}")
        scan(part, SHAPE, choice_of(source), buckets, url, Unhurried())
        scans.append(ScanFile(url))
    return choose(source, scans, Unhurried())


def rows_of(shards: Sequence[Shard]) -> list[tuple[int, str, object]]:
    return [(index, row.place, row.value) for shard in shards for index, row in wanted(shard)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(
    files=FILES,
    most=st.integers(1, 200),
    buckets=st.integers(1, 256),
    cut=st.booleans(),
    shard_rows=st.integers(1, 5),
    deduplicate=st.sampled_from(["", "exact", "normalized"]),
    test_fraction=st.sampled_from([0.0, 0.3]),
    take_test=st.booleans(),
    where=st.sampled_from([(), ("kind = 1",)]),
)
def test_parts_give_the_rows_of_the_source_read_in_one_go(
    tmp_path: Path,
    files: list[tuple[list[str], bool]],
    most: int,
    buckets: int,
    cut: bool,
    shard_rows: int,
    deduplicate: str,
    test_fraction: float,
    take_test: bool,
    where: tuple[str, ...],
) -> None:
    paths = written(tmp_path, files)
    source = DatasetSource(
        "x", deduplicate=deduplicate, test_fraction=test_fraction, take_test=take_test and test_fraction > 0,
        filter=RowFilterRecord(where=where),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_files, "SHARD_ROWS", shard_rows)
        whole = tuple(pack(piece for path in paths for piece in pieces_of(str(path), "")))
        try:
            expected, left_out = select(source, whole, SHAPE, Unhurried()) if whole else ((), None)
        except SourceEmpty as refused:
            with pytest.raises(SourceEmpty, match=str(refused)[:20]):
                by_parts(tmp_path, paths, source, most, buckets, cut)
            return
        if not whole:
            with pytest.raises(SourceEmpty, match="x holds no row"):
                by_parts(tmp_path, paths, source, most, buckets, cut)
            return
        shards, found = by_parts(tmp_path, paths, source, most, buckets, cut)
    assert rows_of(shards) == rows_of(expected)
    assert found == left_out


@given(lines=st.lists(LINES, min_size=1, max_size=9), most=st.integers(1, 60))
def test_a_line_belongs_to_the_part_in_which_it_begins(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], most: int
) -> None:
    (path,) = written(tmp_path_factory.mktemp("lines"), [(lines, True)])
    parts = list(parts_of_file(str(path), path.stat().st_size, most))
    assert [part.begin for part in parts] == list(range(0, path.stat().st_size, most))
    together = [row.value for part in parts for row in first_lines(part)]
    assert together == [row.value for row in first_lines(Part(url=str(path), end=path.stat().st_size))]


def test_a_line_longer_than_any_conversation_is_one_row_of_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turnloom.reading.lines.MAX_LINE", 64)
    monkeypatch.setattr(line_files, "MAX_LINE", 64)
    line = json.dumps({"prompt": "x", "completion": "a"})
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n{'y' * 1_000}\n{line}\n")
    shards, _ = by_parts(tmp_path, [path], DatasetSource("x"), 100, 1, cut=False)
    assert [place.rpartition(" ")[2] for _, place, _ in rows_of(shards)] == ["1", "2", "3"]
