"""Duplicates and splits of a source: chosen once, by position, whatever its shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.preprocess.datasets.sources.lease import Lease
from services.preprocess.datasets.sources.pieces import Shard
from services.preprocess.datasets.sources.reading import pieces_of
from services.preprocess.datasets.sources.selecting import select
from services.preprocess.datasets.sources.shards import wanted
from services.preprocess.domain.source_errors import SourceEmpty
from services.store.records import DatasetSource, LeftOutRecord
from turnloom.reading.chat_formats import Format
from turnloom.reading.duplicates import DIGEST, digest, first_of_each
from turnloom.reading.splitting import held_out, split


class Unhurried(Lease):
    """A lease that nobody takes away."""

    def __init__(self) -> None:
        """No Redis is needed."""

    def check(self) -> None:
        """Go on."""


def shards_of(path: Path, texts: Sequence[str]) -> list[Shard]:
    """One shard for every three texts, so that duplicates lie in different ones."""
    shards = []
    for number, first in enumerate(range(0, len(texts), 3)):
        part = path.with_name(f"{number}.jsonl")
        rows = [{"prompt": text, "completion": "a"} if text else "broken" for text in texts[first : first + 3]]
        part.write_text("".join(json.dumps(row) + "\n" for row in rows))
        shards.append(Shard(first, tuple(pieces_of(str(part), ""))))
    return shards


def taken(path: Path, texts: Sequence[str], **asked: object) -> tuple[list[int], LeftOutRecord]:
    source = DatasetSource("x", **asked)  # type: ignore[arg-type]
    shards, left_out = select(source, shards_of(path, texts), Format("prompt_completion"), Unhurried())
    rows = [found for shard in shards for found in wanted(shard)]
    assert [number for number, _ in rows] == list(range(len(rows))), "what is left out counts for no position"
    assert [shard.wanted for shard in shards] == [sum(1 for _ in wanted(shard)) for shard in shards]
    return [position(row.place) for _, row in rows], left_out


def position(place: str) -> int:
    """Where a row of shards_of() stands in the whole."""
    file, line = place.rsplit(", line ", 1)
    return 3 * int(Path(file).stem) + int(line) - 1


TEXTS = ["Hello", "b", "c", "hello ", "Hello", "", "d", ""]


def test_the_first_of_equal_conversations_stays_and_unreadable_rows_are_left_to_be_reported(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert taken(path, TEXTS) == (list(range(8)), LeftOutRecord())
    assert taken(path, TEXTS, deduplicate="exact") == (
        [0, 1, 2, 3, 5, 6, 7],
        LeftOutRecord(duplicates=1),
    )
    assert taken(path, TEXTS, deduplicate="normalized") == (
        [0, 1, 2, 5, 6, 7],
        LeftOutRecord(duplicates=2),
    )


def test_the_two_parts_of_a_split_are_those_of_the_client_and_an_overlap_is_counted(tmp_path: Path) -> None:
    texts = [f"t{n % 7}" for n in range(10)]
    asked = {"test_fraction": 0.3, "split_seed": 5}
    train, counts = taken(tmp_path / "x", texts, **asked)
    test, _ = taken(tmp_path / "x", texts, **asked, take_test=True)
    assert (train, test) == split(list(range(10)), 0.3, 5)
    overlap = sum(texts[index] in {texts[other] for other in train} for index in test)
    assert overlap > 0
    assert (len(test), counts) == (3, LeftOutRecord(overlapping=overlap))
    clean_train, counts = taken(tmp_path / "x", texts, **asked, deduplicate="exact")
    clean_test, _ = taken(tmp_path / "x", texts, **asked, deduplicate="exact", take_test=True)
    assert counts == LeftOutRecord(duplicates=3)
    assert sorted(clean_train + clean_test) == list(range(7))


def test_one_conversation_can_not_be_split(tmp_path: Path) -> None:
    with pytest.raises(SourceEmpty, match="1 conversation can't be split into train and test"):
        taken(tmp_path / "x", ["a"], test_fraction=0.5)


@given(count=st.integers(2, 200), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_the_server_holds_out_what_the_client_holds_out(count: int, fraction: float, seed: int) -> None:
    assert np.flatnonzero(held_out(count, fraction, seed)).tolist() == split(range(count), fraction, seed)[1]


@given(st.lists(st.binary(min_size=DIGEST, max_size=DIGEST) | st.integers(0, 3).map(lambda n: n.to_bytes(16, "big"))))
def test_the_first_of_each_kind_is_found(digests: list[bytes]) -> None:
    found = first_of_each(np.frombuffer(b"".join(digests), dtype=f"S{DIGEST}"))
    assert [digests.index(one) == n for n, one in enumerate(digests)] == found.tolist()


def test_an_id_and_the_order_of_keys_make_no_other_conversation() -> None:
    one = {"messages": [{"role": "user", "content": "\uff21B  c"}], "id": "1"}
    other = {"id": "2", "messages": [{"content": "ab c\n", "role": "user"}]}
    assert digest(one, "normalized") == digest(other, "normalized")
    assert digest(one, "exact") != digest(other, "exact")
