"""Datasets from files below the source roots, made by real workers."""

from __future__ import annotations

from pathlib import Path

from services.store.store import Store
from tests.api_calls import dataset_stream, options
from tests.source_runs import Sources, write_lines
from turnloom import conversations
from turnloom.v1 import datasets_pb2 as pb

pytest_plugins = ["tests.redis_fixtures", "tests.api_fixtures", "tests.source_fixtures"]


def test_a_file_gives_the_dataset_that_streaming_it_gives(sources: Sources, store: Store, tmp_path: Path) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 40)
    asked = sources.create(path, options=options(date="2026-01-02"))
    assert asked.state == pb.DATASET_STATE_CREATING
    sources.workers.start()
    made = sources.ended(asked)
    assert made.state == pb.DATASET_STATE_READY, made.error
    streamed = sources.api.datasets.CreateDataset(
        dataset_stream(conversations.read(path), options=options(date="2026-01-02")), timeout=30
    ).dataset
    assert made.sha256 == streamed.sha256
    for field in ("conversations", "examples", "tokens", "loss_tokens", "weight_sum", "target_bytes"):
        assert getattr(made, field) == getattr(streamed, field), field
    assert made.length_histogram == streamed.length_histogram
    assert made.loss_token_histogram == streamed.loss_token_histogram
    assert made.source.format == "messages"
    assert made.conversations_read == 40
    assert not (tmp_path / "store" / "making").exists() or not any((tmp_path / "store" / "making").iterdir())
    assert store.redis.keys("tl:api:work*") == []
