"""DatasetService: made whole or not at all, once per request_id, and handed out as it was made."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from services.preprocess.api import rpc
from services.preprocess.domain.limits import CHUNK_BYTES
from services.preprocess.wire.batch import examples
from services.store.ids import new_id
from services.store.queueing.unwanted import remove_unwanted
from services.store.records import DatasetRecord, DatasetState, ErrorRecord
from services.store.shards.dataset_files import verify
from services.store.store import Store
from tests.support.api_calls import (
    MODEL,
    Api,
    Start,
    chat,
    dataset_stream,
    make_dataset,
    make_job,
    options,
    refusal,
    wait_until,
)
from turnloom.v1 import datasets_pb2 as pb
from turnloom.v1 import types_pb2

LIMIT = 30  #: seconds that any call here may take


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "store").rglob("*") if path.is_file())


def create(api: Api, *chunks: list[types_pb2.Conversation], **header: object) -> pb.CreateDatasetResponse:
    return api.datasets.CreateDataset(dataset_stream(*chunks, **header), timeout=LIMIT)


def test_a_stream_becomes_a_ready_dataset_whose_totals_are_those_of_its_rows(api: Api, store: Store) -> None:
    chats = [chat(f"q{i}", f"answer {i}", "again", f"more {i}") for i in range(700)]
    made = create(
        api, chats[:300], chats[300:], display_name="mine", metadata={"team": "a"}, options=options(date="2026-01-02")
    ).dataset
    assert made.state == pb.DATASET_STATE_READY
    assert (made.display_name, made.metadata["team"], made.conversations, made.examples) == ("mine", "a", 700, 700)
    rows = download(api, made.id)
    assert [index for index, _ in rows] == list(range(700))
    assert made.tokens == sum(len(row.token_ids) for _, row in rows)
    assert made.loss_tokens == sum(int(np.count_nonzero(row.target_weights())) for _, row in rows)
    assert made.weight_sum == sum(float(row.target_weights().sum()) for _, row in rows)
    assert made.target_bytes == sum(row.target_bytes for _, row in rows)
    assert sum(made.length_histogram.counts) == sum(made.loss_token_histogram.counts) == 700
    assert made.options.max_length == 2048
    assert made.options.date == "2026-01-02"
    assert made.tokenizer_sha256 == api.registry.get(MODEL).tokenizer_sha256
    record = store.datasets.get(made.id)
    assert verify(record.uri, record.options_json) == made.sha256
    assert api.datasets.GetDataset(pb.GetDatasetRequest(id=made.id), timeout=LIMIT).dataset == made


def download(api: Api, dataset: str, start: int = 0) -> list[tuple[int, object]]:
    request = pb.DownloadDatasetRequest(id=dataset, start_row=start)
    return [row for answer in api.datasets.DownloadDataset(request, timeout=LIMIT) for row in examples(answer.batch)]  # type: ignore[misc]


def test_a_dataset_equals_what_preprocess_gives_for_the_same_conversations(api: Api) -> None:
    from turnloom.v1 import preprocess_pb2

    chats = [chat("a", "b"), chat("c", "longer answer", "d", "e")]
    made = create(api, chats).dataset
    batch = api.preprocess.Preprocess(
        preprocess_pb2.PreprocessRequest(options=options(), conversations=chats), timeout=LIMIT
    ).batch
    answers = list(api.datasets.DownloadDataset(pb.DownloadDatasetRequest(id=made.id), timeout=LIMIT))
    assert [answer.batch for answer in answers] == [batch]


def test_the_same_rows_and_options_have_the_same_address_however_they_are_chunked(api: Api) -> None:
    chats = [chat(f"q{i}", f"a{i}") for i in range(20)]
    first = create(api, chats, options=options(date="2026-01-02")).dataset
    second = create(api, chats[:7], chats[7:], options=options(date="2026-01-02")).dataset
    other = create(api, chats, options=options(date="2026-01-02", max_length=100)).dataset
    assert first.id != second.id
    assert first.sha256 == second.sha256 != other.sha256


def test_a_bad_row_fails_the_dataset_and_nothing_is_left(api: Api, tmp_path: Path) -> None:
    good = [chat("a", "b")] * 300
    said = refusal(lambda: create(api, good, [chat("a", "b"), chat("no reply"), chat("c", "d")]))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(said.fields) == ["conversations[301]"]
    assert files(tmp_path) == []
    assert not api.datasets.ListDatasets(pb.ListDatasetsRequest(), timeout=LIMIT).datasets


def test_bad_rows_are_skipped_counted_and_named_where_asked(api: Api) -> None:
    chats = [chat("a", "b"), chat("no reply", id="row-1"), chat("c", "d")]
    made = create(api, chats, bad_rows=pb.BAD_ROWS_SKIP).dataset
    assert (made.conversations, made.skipped_conversations) == (2, 1)
    (issue,) = made.issues
    assert (issue.conversation_index, issue.conversation_id, issue.code) == (1, "row-1", "no_assistant_turn")
    assert [index for index, _ in download(api, made.id)] == [0, 2]


def test_conversations_that_are_too_long_are_left_out_and_counted_where_asked_and_others_still_end_it(api: Api) -> None:
    long = "word " * 200
    chats = [chat("a", "b"), chat(long, "cut away"), chat("c", "d")]
    asked = {"bad_rows": pb.BAD_ROWS_SKIP_TOO_LONG}
    made = create(api, chats, options=options(max_length=64), **asked).dataset
    assert (made.conversations, made.skipped_conversations, made.too_long_conversations) == (2, 1, 1)
    assert [(issue.conversation_index, issue.code) for issue in made.issues] == [(1, "too_long")]
    forbidden = options(max_length=64, truncation=types_pb2.TRUNCATION_ERROR)
    assert create(api, chats, options=forbidden, **asked).dataset.too_long_conversations == 1
    said = refusal(lambda: create(api, [*chats, chat("no reply")], options=options(max_length=64), **asked))
    assert list(said.fields) == ["conversations[3]"]
    both = create(api, [*chats, chat("no reply")], options=options(max_length=64), bad_rows=pb.BAD_ROWS_SKIP).dataset
    assert (both.skipped_conversations, both.too_long_conversations) == (2, 1)


def test_a_dataset_keeps_the_first_fifty_issues(api: Api) -> None:
    chats = [chat("no reply") for _ in range(80)] + [chat("a", "b")]
    made = create(api, chats, bad_rows=pb.BAD_ROWS_SKIP).dataset
    assert (made.skipped_conversations, len(made.issues)) == (80, 50)


def test_a_dataset_without_a_good_conversation_is_refused(api: Api, tmp_path: Path) -> None:
    said = refusal(lambda: create(api, [chat("no reply")] * 3, bad_rows=pb.BAD_ROWS_SKIP))
    assert said.fields["chunk.conversations"].startswith("all 3 conversations are bad, the first: ")
    assert refusal(lambda: create(api)).fields == {
        "chunk.conversations": "is empty; send at least one conversation that gives an example."
    }
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("header", "field", "sentence"),
    [
        (
            {"bad_rows": 0},
            "header.bad_rows",
            "is not set; choose one of BAD_ROWS_FAIL, BAD_ROWS_SKIP, BAD_ROWS_SKIP_TOO_LONG.",
        ),
        ({"display_name": "x" * 129}, "header.display_name", "has 129 bytes; send 128 at most."),
        ({"display_name": "a\x1b[2Jb"}, "header.display_name", "holds control characters (U+001B); take them out."),
        (
            {"metadata": {"a\u202e": "x"}},
            "header.metadata['a\\u202e'] (key)",
            "holds control characters (U+202E); take them out.",
        ),
        ({"request_id": "ü" * 65}, "header.request_id", "has 130 bytes; send 128 at most."),
        ({"metadata": {str(i): "" for i in range(33)}}, "header.metadata", "has 33 labels; send 32 at most."),
        ({"metadata": {"a": "x" * 257}}, "header.metadata['a']", "has 257 bytes; send 256 at most."),
        ({"options": options(max_length=1)}, "header.options.max_length", "is 1; give 2 to 131072 tokens."),
    ],
)
def test_a_bad_header_is_refused_with_its_field(api: Api, header: dict[str, object], field: str, sentence: str) -> None:
    said = refusal(lambda: create(api, [chat("a", "b")], **header))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.fields == {field: sentence}


def test_a_request_id_makes_one_dataset_and_other_content_is_refused(api: Api) -> None:
    chats = [chat("a", "b"), chat("c", "d")]
    first = create(api, chats, request_id="r1")
    again = create(api, chats[:1], chats[1:], request_id="r1")
    assert (first.deduplicated, again.deduplicated) == (False, True)
    assert again.dataset.id == first.dataset.id
    said = refusal(lambda: create(api, [*chats, chat("e", "f")], request_id="r1"))
    assert said.code is grpc.StatusCode.ALREADY_EXISTS
    assert first.dataset.id in said.message
    assert said.reason == "REQUEST_MISMATCH"
    assert len(api.datasets.ListDatasets(pb.ListDatasetsRequest(), timeout=LIMIT).datasets) == 1


def test_a_client_that_vanishes_leaves_nothing_behind(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "CANCELLATION_SECONDS", 60.0)  # the news of it may be late on a busy machine
    sent = threading.Event()
    leave = threading.Event()

    def half() -> Iterator[pb.CreateDatasetRequest]:
        yield from dataset_stream([chat("a", "b")] * 200, end=False)
        sent.set()
        assert leave.wait(LIMIT)

    call = api.datasets.CreateDataset.future(half(), timeout=LIMIT)
    assert sent.wait(LIMIT)
    wait_until(lambda: files(tmp_path) != [])
    call.cancel()
    leave.set()
    wait_until(lambda: api.handled("client_stream", "DatasetService", "CreateDataset", "CANCELLED") == 1)
    assert files(tmp_path) == []
    assert not api.datasets.ListDatasets(pb.ListDatasetsRequest(), timeout=LIMIT).datasets


def test_a_client_that_stalls_is_ended_and_leaves_nothing_behind(
    start_api: Start, redis_url: str, tmp_path: Path
) -> None:
    api = start_api(redis_url, idle_seconds=0.5)
    done = threading.Event()

    def stall() -> Iterator[pb.CreateDatasetRequest]:
        yield from dataset_stream([chat("a", "b")] * 200, end=False)
        done.wait(LIMIT)

    assert refusal(lambda: api.datasets.CreateDataset(stall(), timeout=LIMIT)).code is grpc.StatusCode.CANCELLED
    done.set()
    wait_until(lambda: api.handled("client_stream", "DatasetService", "CreateDataset", "CANCELLED") == 1)
    assert files(tmp_path) == []
    assert not api.datasets.ListDatasets(pb.ListDatasetsRequest(), timeout=LIMIT).datasets


def test_a_stream_without_its_end_or_with_another_count_makes_nothing(api: Api, tmp_path: Path) -> None:
    whole = list(dataset_stream([chat("a", "b")] * 3))
    said = refusal(lambda: api.datasets.CreateDataset(iter(whole[:-1]), timeout=LIMIT))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.fields == {"end": "the stream stopped without it; send end as the last message."}
    said = refusal(lambda: api.datasets.CreateDataset(iter([whole[0], whole[-1]]), timeout=LIMIT))
    assert said.fields == {"stream[1].end.conversations": "is 3, but 0 arrived; send all again."}
    said = refusal(lambda: api.datasets.CreateDataset(iter([*whole, whole[1]]), timeout=LIMIT))
    assert said.fields == {"stream[3].chunk": "comes after end; send end last."}
    assert files(tmp_path) == []
    assert not api.datasets.ListDatasets(pb.ListDatasetsRequest(), timeout=LIMIT).datasets


def test_a_source_outside_the_roots_is_refused_before_anything_is_made(api: Api, store: Store) -> None:
    said = refusal(lambda: api.datasets.CreateDataset(only_header(source=pb.DatasetSource(uri="/etc/passwd"))))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.fields["header.source.uri"] == (
        "/etc/passwd is not below a source root of this server (roots: none). "
        "Set TURNLOOM_SOURCE_ROOTS on API and workers, or let the client send the file."
    )
    assert store.datasets.list().items == []


def test_a_source_and_conversations_exclude_each_other(api: Api) -> None:
    said = refusal(lambda: create(api, [chat("a", "b")], source=pb.DatasetSource(uri="HuggingFaceH4/no_robots")))
    assert said.fields["stream[1]"].startswith("comes after a header that names a source")


def only_header(**header: object) -> Iterator[pb.CreateDatasetRequest]:
    yield next(dataset_stream(**header))


def test_datasets_are_listed_newest_first_in_pages_and_by_state(api: Api, store: Store) -> None:
    made = [make_dataset(api, 1, display_name=str(i)).id for i in range(3)]
    failed = store.datasets.create(
        replace(store.datasets.get(made[0]), id=new_id("ds"), state=DatasetState.CREATING, create_time=0.0)
    )
    store.datasets.fail(failed.dataset.id, ErrorRecord("SOURCE_GONE", "The source is gone."))
    seen, token = [], ""
    while True:
        page = api.datasets.ListDatasets(
            pb.ListDatasetsRequest(page_size=2, page_token=token, state=pb.DATASET_STATE_READY), timeout=LIMIT
        )
        seen += [dataset.id for dataset in page.datasets]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]
    said = refusal(lambda: api.datasets.ListDatasets(pb.ListDatasetsRequest(state=9), timeout=LIMIT))  # type: ignore[arg-type]
    assert said.fields["state"].startswith("is 9, which this server does not know")
    said = refusal(lambda: api.datasets.ListDatasets(pb.ListDatasetsRequest(page_token="x"), timeout=LIMIT))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", ["GetDataset", "DeleteDataset", "CancelDataset"])
def test_a_dataset_that_does_not_exist_is_not_found(api: Api, method: str) -> None:
    said = refusal(lambda: getattr(api.datasets, method)(getattr(pb, f"{method}Request")(id="ds-none"), timeout=LIMIT))
    assert said.code is grpc.StatusCode.NOT_FOUND
    assert said.message == "There is no dataset ds-none."
    assert said.reason == "NOT_FOUND"


def test_a_download_resumes_at_a_row_and_stays_below_a_mebibyte_a_message(api: Api) -> None:
    chats = [chat("a", "word " * 1500) for _ in range(300)]
    made = create(api, chats, options=options(max_length=100_000)).dataset
    request = pb.DownloadDatasetRequest(id=made.id)
    answers = list(api.datasets.DownloadDataset(request, timeout=LIMIT))
    assert len(answers) > 1
    assert all(len(answer.batch.token_ids) <= CHUNK_BYTES for answer in answers)
    assert len(download(api, made.id, start=290)) == 10
    assert download(api, made.id, start=300) == []
    said = refusal(lambda: download(api, made.id, start=301))
    assert said.fields == {"start_row": "is 301; give 0 to 300, the number of the dataset's rows."}


def test_the_file_goes_after_the_last_dataset_of_its_content(api: Api, store: Store, tmp_path: Path) -> None:
    chats = [chat("a", "b")]
    first = create(api, chats, options=options(date="2026-01-02")).dataset
    second = create(api, chats, options=options(date="2026-01-02")).dataset
    api.datasets.DeleteDataset(pb.DeleteDatasetRequest(id=first.id), timeout=LIMIT)
    assert len(download(api, second.id)) == 1
    remove_unwanted(store.unwanted, grace=0.0)
    assert len(files(tmp_path)) == 3, "a manifest, an index and a shard"
    api.datasets.DeleteDataset(pb.DeleteDatasetRequest(id=second.id), timeout=LIMIT)
    remove_unwanted(store.unwanted, grace=0.0)
    assert files(tmp_path) == []


@pytest.mark.usefixtures("gpu_host")
def test_a_dataset_that_a_job_uses_cannot_be_deleted(api: Api) -> None:
    dataset = make_dataset(api)
    job = make_job(api, dataset.id).job
    said = refusal(lambda: api.datasets.DeleteDataset(pb.DeleteDatasetRequest(id=dataset.id), timeout=LIMIT))
    assert said.code is grpc.StatusCode.FAILED_PRECONDITION
    assert job.id in said.message


def test_a_dataset_in_the_making_is_watched_until_its_end_and_cannot_be_downloaded(api: Api, store: Store) -> None:
    record = DatasetRecord(id=new_id("ds"), options_json=json.dumps(stored_options(api, store)))
    store.datasets.create(record)
    said = refusal(lambda: download(api, record.id))
    assert said.code is grpc.StatusCode.FAILED_PRECONDITION
    assert said.message == f"Dataset {record.id!r} is CREATING; use a dataset that is READY."
    watch = api.datasets.WatchDataset(pb.WatchDatasetRequest(id=record.id), timeout=LIMIT)
    assert next(watch).dataset.state == pb.DATASET_STATE_CREATING
    store.datasets.progress(record.id, conversations_read=7)
    assert next(watch).dataset.conversations_read == 7
    cancelled = api.datasets.CancelDataset(pb.CancelDatasetRequest(id=record.id), timeout=LIMIT).dataset
    assert cancelled.state == pb.DATASET_STATE_CANCELLED
    assert [answer.dataset.state for answer in watch] == [pb.DATASET_STATE_CANCELLED]
    ready = make_dataset(api, 1).id
    said = refusal(lambda: api.datasets.CancelDataset(pb.CancelDatasetRequest(id=ready), timeout=LIMIT))
    assert said.code is grpc.StatusCode.FAILED_PRECONDITION


def stored_options(api: Api, store: Store) -> dict[str, object]:
    options_json: dict[str, object] = json.loads(store.datasets.get(make_dataset(api, 1).id).options_json)
    return options_json


def test_without_redis_everything_but_preprocessing_is_unavailable_with_a_hint(
    start_api: Start, tmp_path: Path
) -> None:
    api = start_api()
    said = refusal(lambda: create(api, [chat("a", "b")]))
    assert said.code is grpc.StatusCode.UNAVAILABLE
    assert said.reason == "REDIS_UNAVAILABLE"
    assert "Check that Redis runs" in said.metadata["hint"]
    assert files(tmp_path) == []
