"""PreprocessService over a real channel: what is right comes back in columns, what is wrong in one clear sentence."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.preprocess.api import preprocess_service
from services.preprocess.models.registry import load_entry
from services.preprocess.wire.batch import examples
from services.store.logs import JsonLines
from tests.support.api_calls import MODEL, Start, chat, first_request, options, refusal, wait_until
from turnloom.masks.domain.errors import ModelNotUsable
from turnloom.masks.model import Model
from turnloom.masks.sandbox.pool import Sandbox
from turnloom.models_file import ModelEntry
from turnloom.v1 import preprocess_pb2 as pb
from turnloom.v1 import types_pb2

LIMIT = 30  #: seconds that any call here may take


def request(*conversations: types_pb2.Conversation, **fields: object) -> pb.PreprocessRequest:
    base: dict[str, object] = {"options": options(), "conversations": conversations}
    return pb.PreprocessRequest(**{**base, **fields})  # type: ignore[arg-type]


def test_examples_come_back_with_weights_on_the_replies_only(start_api: Start) -> None:
    api, before = start_api(), datetime.now(UTC).date().isoformat()
    answer = api.preprocess.Preprocess(request(chat("hello", "world"), chat("a", "b", "c", "d")), timeout=LIMIT)
    rows = examples(answer.batch)
    assert [index for index, _ in rows] == [0, 1]
    vocabulary = api.registry.get(MODEL).vocabulary
    for (_, row), replies in zip(rows, (["world"], ["b", "d"]), strict=True):
        trained = row.token_ids[1:][row.target_weights() > 0]
        expected = "".join(f"{reply}<|im_end|>" for reply in replies)
        assert vocabulary.decode(trained.tolist()).decode() == expected
        assert row.target_bytes == len(expected)
    assert not answer.issues
    assert before <= answer.date <= datetime.now(UTC).date().isoformat()
    assert api.sample("turnloom_preprocess_examples_total", model=MODEL, outcome="made") == 2


def test_a_batch_is_all_or_nothing_and_names_every_bad_conversation(start_api: Start) -> None:
    api = start_api()
    bad = types_pb2.Conversation(messages=[types_pb2.Message(role="user", text="alone")])
    said = refusal(
        lambda: api.preprocess.Preprocess(request(chat("a", "b"), bad, chat(), chat("c", "d")), timeout=LIMIT)
    )
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(said.fields) == ["conversations[1]", "conversations[2]"]
    assert said.message.startswith("conversations[1]: ")
    assert said.message.endswith(" (and 1 more)")


def test_skip_bad_reports_issues_and_keeps_the_positions_of_the_others(start_api: Start) -> None:
    api = start_api()
    bad = types_pb2.Conversation(messages=[types_pb2.Message(role="user", text="secret text")], id="row-7")
    answer = api.preprocess.Preprocess(request(chat("a", "b"), bad, chat("c", "d"), skip_bad=True), timeout=LIMIT)
    assert list(answer.batch.conversation_index) == [0, 2]
    (issue,) = answer.issues
    assert (issue.conversation_index, issue.conversation_id, issue.code) == (1, "row-7", "no_assistant_turn")
    assert "secret text" not in issue.message
    assert api.sample("turnloom_preprocess_issues_total", code="no_assistant_turn") == 1


@pytest.mark.parametrize(
    ("conversation", "field", "part"),
    [
        (types_pb2.Conversation(), "conversations[0]", "message"),
        (
            types_pb2.Conversation(
                messages=[types_pb2.Message(role="", text="a"), types_pb2.Message(role="assistant", text="b")]
            ),
            "conversations[0].messages[0].role",
            "role",
        ),
        (
            types_pb2.Conversation(
                messages=[
                    types_pb2.Message(
                        role="user", parts=types_pb2.ContentParts(parts=[types_pb2.ContentPart(type="image_url")])
                    ),
                    types_pb2.Message(role="assistant", text="a"),
                ]
            ),
            "conversations[0].messages[0].parts[0].type",
            "is 'image_url'; send parts of type 'text'.",
        ),
        (
            types_pb2.Conversation(messages=[types_pb2.Message(role="assistant", text="a", extra_json="{")]),
            "conversations[0].messages[0].extra_json",
            "is not JSON",
        ),
    ],
)
def test_bad_conversations_are_refused_with_their_place(
    start_api: Start, conversation: types_pb2.Conversation, field: str, part: str
) -> None:
    said = refusal(lambda: start_api().preprocess.Preprocess(request(conversation), timeout=LIMIT))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert part in said.fields[field]


def test_an_over_long_conversation_is_refused_where_the_options_say_so(start_api: Start) -> None:
    said = refusal(
        lambda: start_api().preprocess.Preprocess(
            request(
                chat("a", "word " * 100),
                options=options(max_length=8, truncation=types_pb2.TRUNCATION_ERROR),
            ),
            timeout=LIMIT,
        )
    )
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "8" in said.fields["conversations[0]"]


def test_an_unknown_model_is_not_found_and_the_served_ones_are_named(start_api: Start) -> None:
    api = start_api()
    said = refusal(
        lambda: api.preprocess.Preprocess(request(chat("a", "b"), options=options(model="gpt")), timeout=LIMIT)
    )
    assert said.code is grpc.StatusCode.NOT_FOUND
    assert said.message == (
        "Model 'gpt' is not served here (served: small/chat); name one of these, or add it to models.toml."
    )
    assert said.reason == "UNKNOWN_MODEL"


def test_a_missing_model_is_refused_with_its_field(start_api: Start) -> None:
    said = refusal(lambda: start_api().preprocess.Preprocess(pb.PreprocessRequest(), timeout=LIMIT))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert set(said.fields) == {"options.model"}
    assert said.metadata["param"] == "options.model"


@pytest.mark.parametrize("count", [0, 513])
def test_a_batch_of_no_or_too_many_conversations_is_refused(start_api: Start, count: int) -> None:
    said = refusal(lambda: start_api().preprocess.Preprocess(request(*[chat("a", "b")] * count), timeout=LIMIT))
    assert said.fields == {"conversations": f"holds {count} conversations; send 1 to 512 at once."}


def test_a_hundred_bad_conversations_fit_into_the_trailers(start_api: Start) -> None:
    bad = [types_pb2.Conversation(messages=[types_pb2.Message(role="user", text="x")], id=str(i)) for i in range(100)]
    said = refusal(lambda: start_api().preprocess.Preprocess(request(*bad), timeout=LIMIT))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert 1 <= len(said.fields) <= 50


def test_a_stream_answers_chunk_by_chunk_and_one_bad_row_never_ends_it(start_api: Start) -> None:
    api = start_api()
    answered = threading.Event()

    def send() -> Iterator[pb.StreamPreprocessRequest]:
        yield first_request(options(date="2026-01-02"))
        yield pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=[chat("a", "b"), chat("alone")]))
        assert answered.wait(LIMIT)  # the first answer comes before the second chunk is sent
        yield pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=[chat("c", "d")]))

    answers = []
    for answer in api.preprocess.StreamPreprocess(send(), timeout=LIMIT):
        answers.append(answer)
        answered.set()
    assert [list(answer.batch.conversation_index) for answer in answers] == [[0], [2]]
    assert [[issue.conversation_index for issue in answer.issues] for answer in answers] == [[1], []]
    assert {answer.date for answer in answers} == {"2026-01-02"}


@pytest.mark.parametrize(
    ("messages", "field", "sentence"),
    [
        ([], "stream[0].options", "the stream is empty; send options as the first message."),
        (
            [pb.StreamPreprocessRequest(chunk=pb.ConversationChunk())],
            "stream[0].options",
            "the stream begins with chunk; send options as the first message.",
        ),
        (
            [pb.StreamPreprocessRequest()],
            "stream[0].options",
            "the stream begins with an empty message; send options as the first message.",
        ),
        ([first_request(options())] * 2, "stream[1].options", "is a second header; send chunks after the first."),
        (
            [first_request(options()), pb.StreamPreprocessRequest(chunk=pb.ConversationChunk())],
            "stream[1].chunk.conversations",
            "holds 0 conversations; send 1 to 512 at once.",
        ),
    ],
)
def test_a_stream_of_the_wrong_shape_is_refused(
    start_api: Start, messages: list[pb.StreamPreprocessRequest], field: str, sentence: str
) -> None:
    api = start_api()
    said = refusal(lambda: list(api.preprocess.StreamPreprocess(iter(messages), timeout=LIMIT)))
    assert said.fields == {field: sentence}


def test_a_preview_shows_every_token_with_its_weight_and_role(start_api: Start) -> None:
    answer = start_api().preprocess.PreviewConversation(
        pb.PreviewConversationRequest(options=options(), conversation=chat("hi", "ho")), timeout=LIMIT
    )
    (example,) = answer.examples
    assert example.rendered_text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>\n"
    assert "".join(token.text for token in example.tokens) == example.rendered_text
    trained = [token for token in example.tokens if token.weight > 0]
    assert "".join(token.text for token in trained) == "ho<|im_end|>"
    assert {token.role for token in trained} == {"assistant"}
    assert [token.kind for token in trained][-1] == "eot"


def test_a_preview_of_a_bad_conversation_names_its_place(start_api: Start) -> None:
    said = refusal(
        lambda: start_api().preprocess.PreviewConversation(
            pb.PreviewConversationRequest(options=options(), conversation=chat("hi")), timeout=LIMIT
        )
    )
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(said.fields) == ["conversation"]
    assert said.reason == "INVALID_REQUEST"


def lint_stream(*chunks: pb.LintConversationsRequest, **fields: object) -> Iterator[pb.LintConversationsRequest]:
    yield pb.LintConversationsRequest(options=pb.LintOptions(options=options(), **fields))  # type: ignore[arg-type]
    yield from chunks


def test_a_lint_counts_codes_and_names_offenders_by_their_place_in_the_stream(start_api: Start) -> None:
    api = start_api()
    unreadable = types_pb2.Conversation(messages=[types_pb2.Message(role="user", extra_json="{")], id="bad")
    chunk = [chat("a", "b"), unreadable, chat("a", "b", id="again"), chat("c", "d")]
    tests = [chat("x", "y"), chat("c", "d")]
    answer = api.preprocess.LintConversations(
        lint_stream(
            pb.LintConversationsRequest(chunk=pb.ConversationChunk(conversations=chunk)),
            pb.LintConversationsRequest(chunk=pb.ConversationChunk(conversations=[unreadable, chat("e", "")])),
            pb.LintConversationsRequest(test_chunk=pb.ConversationChunk(conversations=tests)),
        ),
        timeout=LIMIT,
    )
    found = {finding.code: finding for finding in answer.findings}
    assert found["not_trainable"].count == 2
    assert [(item.conversation_index, item.conversation_id) for item in found["not_trainable"].offenders] == [
        (1, "bad"),
        (4, "bad"),
    ]
    (duplicate,) = found["duplicate"].offenders
    assert (duplicate.conversation_index, duplicate.conversation_id) == (2, "again")
    assert [item.conversation_index for item in found["empty_assistant"].offenders] == [5]
    (overlap,) = found["train_test_overlap"].offenders
    assert overlap.conversation_index == 1
    assert overlap.message.startswith("In the test set: ")
    assert all(finding.explanation for finding in answer.findings)
    assert (answer.conversations, answer.examples) == (6, 4)
    assert sum(answer.length_histogram.counts) == answer.examples


def test_a_lint_lists_as_many_offenders_as_asked(start_api: Start) -> None:
    api = start_api()
    chunk = pb.LintConversationsRequest(chunk=pb.ConversationChunk(conversations=[chat("a", "b")] * 10))
    answer = api.preprocess.LintConversations(lint_stream(chunk, max_offenders=7), timeout=LIMIT)
    (finding,) = [finding for finding in answer.findings if finding.code == "duplicate"]
    assert (finding.count, len(finding.offenders)) == (9, 7)
    said = refusal(lambda: api.preprocess.LintConversations(lint_stream(chunk, max_offenders=1001), timeout=LIMIT))
    assert said.fields == {"options.max_offenders": "is 1001; give 1000 at most."}


def test_a_template_of_the_client_runs_in_the_sandbox(start_api: Start) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    with closing(Sandbox()) as sandbox:
        api = start_api(load=partial(load_entry, sandbox=sandbox))
        assert api.registry.wait(LIMIT)
        answer = api.preprocess.PreviewConversation(
            pb.PreviewConversationRequest(options=options(chat_template=template), conversation=chat("hi", "ho")),
            timeout=LIMIT,
        )
        assert answer.examples[0].rendered_text == "<|im_start|>user: hi<|im_end|><|im_start|>assistant: ho<|im_end|>"
        slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        said = refusal(
            lambda: api.preprocess.Preprocess(
                request(chat("a", "b"), options=options(chat_template=slow)), timeout=LIMIT
            )
        )
        assert said.code is grpc.StatusCode.INVALID_ARGUMENT
        assert said.fields == {"conversations[0]": "the chat template took longer than 4 s"}


def test_a_server_without_a_sandbox_refuses_templates_of_clients(start_api: Start) -> None:
    said = refusal(
        lambda: start_api().preprocess.Preprocess(
            request(chat("a", "b"), options=options(chat_template="x")), timeout=LIMIT
        )
    )
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.fields == {"options.chat_template": "can't be rendered here; register the template with a model"}


def test_a_message_above_the_limit_is_refused_by_the_server(start_api: Start) -> None:
    said = refusal(
        lambda: start_api().preprocess.Preprocess(request(chat("a", "x" * (64 * 1024 * 1024 + 1))), timeout=LIMIT)
    )
    assert said.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_models_are_listed_in_pages(start_api: Start) -> None:
    api = start_api()
    answer = api.preprocess.ListModels(pb.ListModelsRequest(page_size=1), timeout=LIMIT)
    (model,) = answer.models
    assert (model.name, model.tuft_model_name, model.has_generation_blocks) == (MODEL, "tuft/small", False)
    assert len(model.template_sha256) == len(model.tokenizer_sha256) == 64
    assert answer.next_page_token == ""
    said = refusal(lambda: api.preprocess.ListModels(pb.ListModelsRequest(page_token="!"), timeout=LIMIT))
    assert said.fields == {"page_token": "is not a token of this server; give one that it sent, or leave it empty."}
    said = refusal(lambda: api.preprocess.ListModels(pb.ListModelsRequest(page_size=1001), timeout=LIMIT))
    assert said.fields == {"page_size": "is 1001; ask for 1000 at most."}


def test_skipped_comparisons_are_counted_in_the_reply(start_api: Start) -> None:
    api = start_api()
    for tokenization, expected in ((types_pb2.TOKENIZATION_HF, 2), (types_pb2.TOKENIZATION_EXACT, 0)):
        chosen, sent = options(tokenization=tokenization), [chat("a", "b"), chat("c", "d")]
        assert api.preprocess.Preprocess(request(*sent, options=chosen), timeout=LIMIT).unchecked_examples == expected
        stream = [
            pb.StreamPreprocessRequest(options=chosen),
            pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=sent)),
        ]
        (answer,) = api.preprocess.StreamPreprocess(iter(stream), timeout=LIMIT)
        assert answer.unchecked_examples == expected


def test_limits_are_published(start_api: Start) -> None:
    info = start_api().preprocess.GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
    assert (info.max_message_bytes, info.max_batch_conversations) == (64 * 1024 * 1024, 512)
    assert info.version


def test_a_batch_above_the_default_size_of_grpc_is_taken_and_given(start_api: Start) -> None:
    api = start_api()
    text = "word " * 4_000
    sent = request(*[chat("a", text) for _ in range(400)], options=options(max_length=100_000))
    assert sent.ByteSize() > 4 * 1024 * 1024
    answer = api.preprocess.Preprocess(sent, timeout=120)
    assert len(answer.batch.row_lengths) == 400
    assert len(np.frombuffer(answer.batch.token_ids, "<i4")) == sum(answer.batch.row_lengths)


def test_while_models_load_calls_are_unavailable_with_a_hint_and_health_says_so(start_api: Start) -> None:
    release = threading.Event()

    def slowly(entry: ModelEntry, cache: Path) -> Model:
        assert release.wait(LIMIT)
        return load_entry(entry, cache)

    api = start_api(load=slowly)
    health = HealthStub(api.channel)
    service = HealthCheckRequest(service="turnloom.v1.PreprocessService")
    said = refusal(lambda: api.preprocess.Preprocess(request(chat("a", "b")), timeout=LIMIT))
    assert said.code is grpc.StatusCode.UNAVAILABLE
    assert said.message == "The server is still loading its models; try again in a few seconds."
    assert "hint" in said.metadata
    assert refusal(lambda: api.preprocess.ListModels(pb.ListModelsRequest(), timeout=LIMIT)).reason == "LOADING"
    assert health.Check(HealthCheckRequest(), timeout=LIMIT).status == HealthCheckResponse.SERVING
    assert health.Check(service, timeout=LIMIT).status == HealthCheckResponse.NOT_SERVING
    watch = health.Watch(service, timeout=LIMIT)
    assert next(watch).status == HealthCheckResponse.NOT_SERVING
    release.set()
    assert next(watch).status == HealthCheckResponse.SERVING
    assert api.preprocess.Preprocess(request(chat("a", "b")), timeout=LIMIT).batch.row_lengths


def test_a_model_that_cannot_be_loaded_is_refused_with_its_reason(start_api: Start) -> None:
    def broken(entry: ModelEntry, cache: Path) -> Model:
        raise ModelNotUsable(f"{entry.name} has no vocabulary")

    api = start_api(load=broken)
    assert api.registry.wait(LIMIT)
    said = refusal(lambda: api.preprocess.Preprocess(request(chat("a", "b")), timeout=LIMIT))
    assert said.code is grpc.StatusCode.FAILED_PRECONDITION
    assert said.message == "Model 'small/chat' could not be loaded: small/chat has no vocabulary"
    health = HealthStub(api.channel).Check(HealthCheckRequest(service="turnloom.v1.PreprocessService"), timeout=LIMIT)
    assert health.status == HealthCheckResponse.NOT_SERVING


def test_an_unforeseen_error_is_answered_with_an_id_and_logged_under_it(
    start_api: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    api = start_api()

    def crash(*_: object) -> None:
        raise KeyError("conversation text")

    monkeypatch.setattr(preprocess_service, "token_batch", crash)
    said = refusal(lambda: api.preprocess.Preprocess(request(chat("a", "b")), timeout=LIMIT))
    assert said.code is grpc.StatusCode.INTERNAL
    assert "conversation text" not in said.message
    (logged,) = [record for record in caplog.records if record.message == "unforeseen error"]
    assert vars(logged)["error_id"] == said.metadata["error_id"]
    assert logged.exc_info is not None


def test_every_call_is_counted_once_with_its_code_and_logged_without_text(
    start_api: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "turnloom.api")
    api = start_api()
    api.preprocess.Preprocess(request(chat("private words", "more of them")), timeout=LIMIT)
    refusal(lambda: api.preprocess.Preprocess(request(chat("private words")), timeout=LIMIT))
    api.channel.close()
    labels = {"grpc_type": "unary", "grpc_service": "turnloom.v1.PreprocessService", "grpc_method": "Preprocess"}
    wait_until(lambda: api.handled("unary", "PreprocessService", "Preprocess", "INVALID_ARGUMENT") == 1)
    assert api.handled("unary", "PreprocessService", "Preprocess", "OK") == 1
    assert api.sample("grpc_server_started_total", **labels) == 2
    assert api.sample("grpc_server_handling_seconds_count", **labels) == 2
    lines = [JsonLines().format(record) for record in caplog.records if record.message == "rpc"]
    assert [json.loads(line)["code"] for line in lines] == ["OK", "INVALID_ARGUMENT"]
    assert not any("private" in line or "more of" in line for line in lines)


def test_reflection_names_the_three_services(start_api: Start) -> None:
    database = ProtoReflectionDescriptorDatabase(start_api().channel)
    assert {f"turnloom.v1.{name}" for name in ("PreprocessService", "DatasetService", "FineTuningService")} <= set(
        database.get_services()
    )


def test_a_stream_that_sends_nothing_is_ended_and_gives_its_slot_back(start_api: Start) -> None:
    api = start_api(threads=4, idle_seconds=0.3)
    done = threading.Event()

    def stall() -> Iterator[pb.StreamPreprocessRequest]:
        yield first_request(options())
        done.wait(LIMIT)

    def ended() -> float:
        return api.handled("bidi_stream", "PreprocessService", "StreamPreprocess", "CANCELLED")

    for number in range(1, 4):
        said = refusal(lambda: list(api.preprocess.StreamPreprocess(stall(), timeout=LIMIT)))
        assert said.code is grpc.StatusCode.CANCELLED
        wait_until(lambda number=number: ended() == number)  # the client hears it before the slot is free
    done.set()


def test_streams_beyond_the_limit_are_refused_and_short_calls_go_on(start_api: Start) -> None:
    api = start_api(threads=4)
    done = threading.Event()

    def hold() -> Iterator[pb.StreamPreprocessRequest]:
        yield first_request(options())
        yield pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=[chat("a", "b")]))
        done.wait(LIMIT)

    held = [api.preprocess.StreamPreprocess(hold(), timeout=LIMIT) for _ in range(2)]
    for stream in held:
        next(stream)
    said = refusal(lambda: next(api.preprocess.StreamPreprocess(hold(), timeout=LIMIT)))
    assert said.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert said.message == "All 2 slots for streaming calls are taken; end one, or try again in a few seconds."
    assert api.preprocess.Preprocess(request(chat("a", "b")), timeout=LIMIT).batch.row_lengths
    done.set()
    for stream in held:
        assert list(stream) == []
    assert next(api.preprocess.StreamPreprocess(hold(), timeout=LIMIT)).batch.row_lengths


def test_counters_of_a_served_model_are_there_at_zero_before_its_first_batch(api):
    def value(name, **labels):
        return api.metrics.registry.get_sample_value(name, labels)

    for outcome in ("made", "refused"):
        assert value("turnloom_preprocess_examples_total", model=MODEL, outcome=outcome) == 0
    for name in ("tokens", "loss_tokens", "truncated"):
        assert value(f"turnloom_preprocess_{name}_total", model=MODEL) == 0
    for code in ("no_assistant_turn", "too_long", "round_trip_failed"):
        assert value("turnloom_preprocess_issues_total", code=code) == 0
    assert value("turnloom_preprocess_issues_total", code="invalid_option") is None
    assert value("turnloom_preprocess_stage_duration_seconds_count", stage="preprocess") == 0
