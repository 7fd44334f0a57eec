"""Datasets from files below the source roots, made by real workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.preprocess.datasets.sources.pieces import SHARD_ROWS
from services.store.store import Store
from tests.support.api_calls import dataset_stream, options
from tests.support.source_runs import Sources, chat_lines, poll, write_lines
from turnloom import read
from turnloom.v1 import datasets_pb2 as pb


def test_a_file_gives_the_dataset_that_streaming_it_gives(sources: Sources, store: Store, tmp_path: Path) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 40)
    asked = sources.create(path, options=options(date="2026-01-02"))
    assert asked.state == pb.DATASET_STATE_CREATING
    sources.workers.start()
    made = sources.ended(asked)
    assert made.state == pb.DATASET_STATE_READY, made.error
    streamed = sources.api.datasets.CreateDataset(
        dataset_stream(read(path), options=options(date="2026-01-02")), timeout=30
    ).dataset
    assert made.sha256 == streamed.sha256
    for field in ("conversations", "examples", "tokens", "loss_tokens", "weight_sum", "target_bytes"):
        assert getattr(made, field) == getattr(streamed, field), field
    assert made.length_histogram == streamed.length_histogram
    assert made.loss_token_histogram == streamed.loss_token_histogram
    assert made.source.format == "messages"
    assert made.conversations_read == 40
    poll(lambda: store.redis.keys("tl:api:work*") == [])  # READY comes first, then it is tidied up
    assert not (tmp_path / "store" / "making").exists() or not any((tmp_path / "store" / "making").iterdir())


@pytest.mark.slow
def test_a_folder_of_several_kinds_is_one_dataset_whose_first_bad_row_is_named(sources: Sources) -> None:
    folder = sources.roots / "folder"
    folder.mkdir()
    lines = list(chat_lines(SHARD_ROWS + 3))
    (folder / "a.jsonl").write_text("".join(lines[:2]))
    (folder / "b.jsonl").write_text("".join(lines[2:]) + "oops\n")
    (folder / "c.json").write_text('[{"messages": []}]')
    asked = sources.create(folder)
    skipping = sources.skipping(folder)
    limited = sources.create(folder, limit=SHARD_ROWS + 3)
    sources.workers.start()
    failed = sources.failed(asked)
    assert failed.error.code == "BAD_ROW_FOUND"
    sentence = f"{folder}/b.jsonl, line {SHARD_ROWS + 2}: is not JSON (Expecting value in column 1)."
    assert failed.error.message == sentence
    assert [(issue.conversation_index, issue.message) for issue in failed.issues] == [(SHARD_ROWS + 3, sentence)]
    made = sources.ended(skipping)
    assert (made.state, made.conversations, made.skipped_conversations) == (pb.DATASET_STATE_READY, SHARD_ROWS + 3, 2)
    assert [issue.conversation_index for issue in made.issues] == [SHARD_ROWS + 3, SHARD_ROWS + 4]
    assert made.issues[1].message.startswith(f"{folder}/c.json, item 0: ")
    assert sources.ended(limited).conversations == SHARD_ROWS + 3


def test_formats_are_detected_or_named_and_the_record_says_which(sources: Sources) -> None:
    path = sources.roots / "alpaca.csv"
    path.write_text("question,answer\nwhat?,that.\nwho?,me.\n")
    sources.workers.start()
    mapping = {"instruction": "question", "output": "answer"}
    made = sources.ready(path, format="alpaca", column_mapping=mapping)
    assert made.conversations == 2
    assert (made.source.format, dict(made.source.column_mapping)) == ("alpaca", mapping)
    failed = sources.failed(sources.create(path))
    assert failed.error.code == "SOURCE_NOT_KNOWN"
    assert failed.error.message == f"{path}: No known format has these columns: question (text), answer (text)."
    gone = sources.failed(sources.create(sources.roots / "gone.jsonl"))
    assert gone.error.message == f"There is nothing at {sources.roots}/gone.jsonl."


def test_the_same_request_id_gives_the_same_dataset(sources: Sources) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 3)
    header = {"source": pb.DatasetSource(uri=str(path)), "request_id": "once"}

    def ask() -> pb.CreateDatasetResponse:
        return sources.api.datasets.CreateDataset(iter([next(dataset_stream(**header))]), timeout=30)

    first, again = ask(), ask()
    assert again.deduplicated
    assert again.dataset.id == first.dataset.id
    sources.workers.start()
    assert sources.ended(first.dataset).conversations == 3
