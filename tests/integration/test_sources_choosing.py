"""Filters, duplicates, splits and limits of datasets: the same by the worker and by the command line, refused early."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from services.preprocess.datasets.sources import jobs, tasks
from services.preprocess.datasets.sources.task_context import TaskContext
from services.preprocess.settings import ApiSettings
from services.preprocess.wire.source import MAX_ROWS
from services.store.dataset_work import DatasetWork
from services.store.store import Store
from tests.support.api_calls import chat, dataset_stream, refusal
from tests.support.cli_runs import turnloom
from tests.support.source_runs import Sources, chat_lines, poll, write_lines
from turnloom.v1 import datasets_pb2 as pb

DATE = ("--option", "date=2026-01-02")
CHOICE = ("--where", "lang = en", "--where", "score >= 2", "--max-characters", "20")


def rows() -> list[str]:
    """30 rows; among what the filter wants are duplicates, a line that is no JSON and a chat without a reply."""
    found = [
        json.dumps({"lang": ("en", "de")[n % 3 == 2], "score": n % 5, "prompt": f"q{n % 8}", "completion": "a"})
        for n in range(26)
    ]
    found.insert(9, "no JSON, but wanted")
    found.insert(13, json.dumps({"lang": "en", "score": 4, "prompt": 7, "completion": "a"}))
    found.insert(
        17, json.dumps({"lang": "en", "score": 4, "prompt": [{"role": "tool", "content": "x"}], "completion": []})
    )
    found.insert(21, json.dumps({"lang": "en", "score": 4, "prompt": "q" * 30, "completion": "a"}))
    return found


@pytest.mark.parametrize(
    "words", [(), ("--deduplicate", "exact"), ("--deduplicate", "normalized", "--test-fraction", "0.3", "--seed", "5")]
)
def test_the_command_line_makes_of_local_files_what_a_worker_makes_of_the_same_files(
    sources: Sources, tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder = sources.roots / "chats"
    folder.mkdir()
    lines = rows()
    (folder / "a.jsonl").write_text("\n".join(lines[:11]) + "\n")
    (folder / "b.jsonl").write_text("\n".join(lines[11:]) + "\n")
    sources.workers.start()
    asked = (*CHOICE, *words, *DATE, "--skip-bad", "--json")
    imported = turnloom(sources.api.address, "dataset", "import", folder, *asked)
    assert imported.code == 0, imported.err
    streamed = turnloom(sources.api.address, "dataset", "create", f"{folder}/*.jsonl", *asked)
    assert streamed.code == 0, streamed.err
    theirs = imported.document if isinstance(imported.document, list) else [imported.document]
    assert len(theirs) == len(streamed.document) == (2 if "--test-fraction" in words else 1)
    for worker, client in zip(theirs, streamed.document, strict=True):
        assert worker["sha256"] == client["sha256"]
        for name in ("conversations", "examples", "tokens", "skipped_conversations"):
            assert worker[name] == client[name], name
        for name in ("filtered", "duplicates", "overlapping"):
            assert worker["left_out"][name] == client["left_out"][name], name
        assert worker["left_out"]["filtered"] == 17
        for name in ("filter", "format", "deduplicate", "test_fraction", "split_seed", "take_test"):
            assert worker["source"][name] == client["source"][name], name
    assert sum(dataset["skipped_conversations"] for dataset in theirs) == 3
    assert streamed.document[0]["source"]["uri"] == "a.jsonl and 1 more"
    assert streamed.document[0]["source"]["filter"]["where"] == ["lang = en", "score >= 2"]


def test_what_is_left_out_is_said_and_shown(sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(rows()) + "\n")
    words = (*CHOICE, "--deduplicate", "exact", "--skip-bad", "-o", 'part_weights={"reasoning": 0.5}')
    made = turnloom(sources.api.address, "dataset", "create", path, *words)
    assert made.code == 0, made.err
    assert "chats.jsonl: read as prompt_completion." in made.err
    assert "rows left out by the filter (filtered: 17)" in made.err
    assert "left out, seen before (duplicates: " in made.err
    assert "3 bad rows left out (skipped: 3)" in made.err
    assert f"Left out: {path}, line 10: is not JSON" in made.err
    assert f"Left out: {path}, line 14: prompt: is the number 7; give text." in made.err
    assert f"Left out: {path}, line 18: " in made.err
    shown = turnloom(sources.api.address, "dataset", "show", made.out.split("ds-")[1].split()[0].join(("ds-", "")))
    assert "source filter where: lang = en and score >= 2" in shown.out
    assert "\n  17 rows left out by the filter (filtered: 17)\n" in shown.out
    assert ("\n  part_weights = {" in shown.out, '"reasoning": 0.5' in shown.out) == (True, True), "as -o takes it"
    assert "\n  3 bad rows left out (skipped: 3)\n" in shown.out


def test_an_overlap_of_two_files_is_said(sources: Sources, tmp_path: Path) -> None:
    train, test = write_lines(tmp_path / "train.jsonl", 5), write_lines(tmp_path / "test.jsonl", 2)
    made = turnloom(sources.api.address, "dataset", "create", train, "--test", test)
    assert made.code == 0, made.err
    said = "2 test conversations also in the training part (overlapping: 2); take them out of one of the two"
    assert f"test.jsonl: {said}\n" in made.err
    of_test = next(line.split()[0] for line in made.out.splitlines() if " test.jsonl " in line)
    shown = turnloom(sources.api.address, "dataset", "show", of_test)
    assert f"\n  {said}\n" in shown.out
    assert "left out overlapping" not in shown.out
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": 5}\n')
    before = len(turnloom(sources.api.address, "dataset", "list", "--json").document)
    refused = turnloom(sources.api.address, "dataset", "create", train, "--test", bad)
    assert refused.code == 2
    assert f"{bad}, line 1: messages: is " in refused.err or f"{bad}: No known format" in refused.err
    assert len(turnloom(sources.api.address, "dataset", "list", "--json").document) == before


@pytest.mark.parametrize("command", ["create", "import"])
def test_a_bad_filter_is_refused_with_option_and_hint_before_anything_is_made(
    sources: Sources, store: Store, command: str
) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 2)
    for words, option, sentence in (
        (("--where", "lang"), "--where", "--where: 'lang' can't be read as a condition."),
        (("--where", "a < null"), "--where", "neither less nor greater than anything."),
        (("--min-messages", "4", "--max-messages", "2"), "--min-messages", "takes from 4 to 2 messages"),
    ):
        refused = turnloom(sources.api.address, "dataset", command, path, *words, "--json")
        assert refused.code == 2
        assert refused.error["field"] == option
        assert sentence in refused.error["message"]
        assert refused.error["hint"]
    assert list(store.datasets.list().items) == []


def test_the_api_refuses_a_bad_filter_by_its_field(sources: Sources, store: Store) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 2)
    said = refusal(lambda: sources.create(path, filter=pb.RowFilter(where=["a = b", "oops"])))
    assert list(said.fields) == ["header.source.filter.where[1]"]
    assert "COLUMN OPERATOR VALUE" in said.fields["header.source.filter.where[1]"]
    assert list(store.datasets.list().items) == []


def test_a_filter_that_wants_nothing_ends_the_dataset_with_its_count(sources: Sources) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 3)
    sources.workers.start()
    failed = sources.failed(sources.create(path, filter=pb.RowFilter(min_messages=3)))
    assert (failed.error.code, failed.error.message) == ("SOURCE_EMPTY", "The filter wants no row of 3.")


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"TURNLOOM_MAX_DATASET_CONVERSATIONS": "5"}, "The source has more than the 5 conversations"),
        ({"TURNLOOM_MAX_DATASET_BYTES": "200"}, "The source's conversations have more than the 200 bytes"),
    ],
)
def test_a_source_of_too_many_conversations_or_bytes_fails_with_a_sentence_and_leaves_nothing(
    sources: Sources, store: Store, tmp_path: Path, setting: dict[str, str], sentence: str
) -> None:
    path = write_lines(sources.roots / "chats.jsonl", 10)
    sources.workers.start(**setting)
    failed = sources.failed(sources.create(path))
    assert failed.error.code == "SOURCE_TOO_LARGE"
    assert failed.error.message == f"{sentence} that a dataset takes."
    assert next(iter(setting)) in failed.error.hint
    poll(lambda: store.redis.keys("tl:api:work*") == [])
    assert not [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
    assert sources.ready(path, limit=2).conversations == 2
    assert sources.ready(path, filter=pb.RowFilter(max_characters=20)).conversations == 2


def test_an_error_that_nobody_foresaw_leaves_its_class_and_place_in_redis_and_none_of_its_words(
    sources: Sources, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sources.create(write_lines(sources.roots / "chats.jsonl", 2))

    def fail(*_: object) -> None:
        raise KeyError("what a user wrote")

    monkeypatch.setattr(tasks, "TASKS", {"plan": fail})
    monkeypatch.setattr(jobs, "stay_small", lambda: None)
    work = DatasetWork(store.redis, lease_ttl=0.05)
    parts = TaskContext(ApiSettings(store_url=str(sources.roots)), store.datasets, work, store.tickets)
    answers = []
    for _ in range(4):
        answers.append(jobs._claimed(parts, asked.id, "plan"))
        poll(lambda: work.overdue(asked.id, "plan"))
    assert answers == ["KeyError", "KeyError", "KeyError", "given up"]
    failed = store.datasets.get(asked.id)
    assert failed.error is not None
    assert failed.error.code == "TASK_GIVEN_UP"
    assert "was begun 3 times and never finished: KeyError at test_sources_choosing.py:" in failed.error.message
    everything = [store.redis.dump(key) for key in store.redis.keys("*")]
    assert not any(b"what a user wrote" in dumped for dumped in everything if dumped)


def test_a_sender_may_leave_gaps_between_numbers_and_never_go_back(sources: Sources) -> None:
    head = next(dataset_stream())

    def stream(first: int, filtered: int = 4, links: Sequence[str] = ()) -> Iterator[pb.CreateDatasetRequest]:
        yield head
        yield pb.CreateDatasetRequest(chunk=pb.DatasetChunk(conversations=[chat("a", "b")] * 2))
        yield pb.CreateDatasetRequest(chunk=pb.DatasetChunk(conversations=[chat("c", "d")], first=first))
        counts = pb.LeftOut(unreadable=3, filtered=filtered, outside_links=links)
        yield pb.CreateDatasetRequest(end=pb.DatasetEnd(conversations=3, left_out=counts))

    made = sources.api.datasets.CreateDataset(stream(5), timeout=30).dataset
    assert (made.conversations, made.skipped_conversations, made.left_out.filtered) == (3, 3, 4)
    batches = sources.api.datasets.DownloadDataset(pb.DownloadDatasetRequest(id=made.id), timeout=30)
    assert [number for answer in batches for number in answer.batch.conversation_index] == [0, 1, 5]
    said = refusal(lambda: sources.api.datasets.CreateDataset(stream(1), timeout=30))
    assert said.fields == {"stream[2].chunk.first": "is 1; give 2 to 10000000."}
    said = refusal(lambda: sources.api.datasets.CreateDataset(stream(5, 2**60), timeout=30))
    assert said.fields == {"end.left_out.filtered": f"is {2**60}; give {MAX_ROWS} at most."}
    said = refusal(lambda: sources.api.datasets.CreateDataset(stream(5, links=["/x"]), timeout=30))
    assert said.fields == {"end.left_out.outside_links": "is for sources that a worker reads; leave it out."}


def test_what_a_sender_says_of_its_files_is_checked_and_kept(sources: Sources) -> None:
    said = refusal(
        lambda: sources.api.datasets.CreateDataset(
            dataset_stream([chat("a", "b")], sent_from=pb.DatasetSource(format="nonsense")), timeout=30
        )
    )
    assert list(said.fields) == ["header.sent_from.format"]
    origin = pb.DatasetSource(uri="../chats.jsonl", format="messages", filter=pb.RowFilter(min_messages=2))
    made = sources.api.datasets.CreateDataset(dataset_stream([chat("a", "b")], sent_from=origin), timeout=30).dataset
    assert made.source == origin, "it is never opened, so it may lie anywhere"


def test_a_large_file_is_looked_at_in_parts_and_is_the_dataset_of_the_same_small_one(sources: Sources) -> None:
    """Columns that nobody reads make the file large: two parts, each a task, whose duplicates are in the other."""
    small, large = sources.roots / "small.jsonl", sources.roots / "large.jsonl"
    lines = [json.loads(line) for line in chat_lines(400)]
    rows = [*lines, *lines[:50], *({**line, "lang": "de"} for line in lines[50:100])]
    small.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with large.open("w") as file:
        file.writelines(json.dumps({**row, "unused": "x" * 150_000}) + "\n" for row in rows)
    assert large.stat().st_size > 64 << 20
    sources.workers.start()
    sources.workers.start()
    asked = {"deduplicate": pb.DEDUPLICATE_NORMALIZED, "test_fraction": 0.2}
    for part in (False, True):
        made = [sources.ready(path, take_test=part, **asked) for path in (small, large)]
        assert made[0].sha256 == made[1].sha256
        assert made[1].left_out.unused_columns == ["unused"]
        assert made[0].left_out.overlapping == made[1].left_out.overlapping == 0
        assert made[1].conversations == (80 if part else 320)
    assert made[1].left_out.duplicates == 100
