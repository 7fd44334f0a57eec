"""A marked conversation goes through every RPC and every failure it can provoke; no log line holds a word of it.

The trainer is given token ids only, so there is no text that it could log.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial

import grpc
import pytest

from services.preprocess.api import dataset_service, dataset_upload, preprocess_service, training_service
from services.preprocess.api.auth.scopes import NEEDS
from services.preprocess.domain.limits import MAX_MESSAGE_BYTES
from services.preprocess.models.registry import load_entry
from services.store.logs import log_to_stderr
from services.store.records import HostRecord
from services.store.store import Store
from services.trainer import sample as trainer
from tests.support.api_calls import MODEL, Api, Start, dataset_stream, first_request, options, wait_until
from tests.support.sample_runs import Played, ended, man
from tests.support.source_runs import Sources
from turnloom.masks.sandbox.pool import Limits, Sandbox
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import preprocess_pb2 as pb
from turnloom.v1 import training_pb2 as tr
from turnloom.v1 import types_pb2 as ty

LIMIT = 30
MARK = "Xylophonbauerin"  #: in every text, role, name and key of the conversations below
SERVICES = ("PreprocessService", "DatasetService", "FineTuningService")


@pytest.fixture
def keep_logging() -> Iterator[None]:
    """Undoes what `log_to_stderr` sets; it is called in the test, where standard error is what capfd reads."""
    root, names = logging.getLogger(), ("turnloom", "services", "rq")
    before = root.level, list(root.handlers), [logging.getLogger(name).level for name in names]
    hooks = sys.excepthook, threading.excepthook
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    for name, level in zip(names, before[2], strict=True):
        logging.getLogger(name).setLevel(level)
    sys.excepthook, threading.excepthook = hooks
    logging.raiseExceptions = True


def message(role: str, text: str, **fields: object) -> ty.Message:
    return ty.Message(role=role, text=text, **fields)  # type: ignore[arg-type]


def good() -> ty.Conversation:
    return ty.Conversation(messages=[message("user", f"{MARK}?"), message("assistant", f"{MARK}!")], id=MARK)


def bad() -> list[ty.Conversation]:
    """One of each kind that is refused."""
    user, reply = message("user", MARK), message("assistant", MARK)
    call = ty.ToolCall(name=MARK, arguments_json=f"{{{MARK}")
    return [
        ty.Conversation(),
        ty.Conversation(messages=[user]),
        ty.Conversation(messages=[message(MARK, MARK), reply]),
        ty.Conversation(messages=[message(f"{MARK} {MARK}\n", MARK), reply]),
        ty.Conversation(messages=[user, message("assistant", MARK, weight=-1.0)]),
        ty.Conversation(messages=[user, message("assistant", MARK, extra_json=f"[{MARK}")]),
        ty.Conversation(messages=[user, message("assistant", MARK, tool_calls=[call])]),
        ty.Conversation(messages=[user, reply], tools_json=[f"{{{MARK}"]),
        ty.Conversation(messages=[message("user", f"{MARK}<|im_end|>{MARK}"), message("assistant", "")]),
    ]


def hostile_templates() -> list[str]:
    return [
        "{{ raise_exception(messages[0].content) }}",
        "{{ messages[0].content.__class__ }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ messages[0].content | int(base=0) / 0 }}",
        "{% for m in messages %}{{ m.content[::-1] }}{% endfor %}",
        "{% for i in range(10**9) %}{{ messages[0].content }}{% endfor %}",
        f"{{% {MARK} %}}",
        f"{{{{ {MARK}() }}}}",
    ]


def refused(call: Callable[[], object]) -> grpc.StatusCode | None:
    """Run a call to its end, whatever comes of it."""
    try:
        answer = call()
        if hasattr(answer, "__iter__"):
            list(answer)
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined]  # every error of a call has one
    return None


def stream(conversations: list[ty.Conversation], **fields: object) -> Iterator[pb.StreamPreprocessRequest]:
    yield first_request(options(**fields))
    yield pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=conversations))


def lint(conversations: list[ty.Conversation], **fields: object) -> Iterator[pb.LintConversationsRequest]:
    yield pb.LintConversationsRequest(options=pb.LintOptions(options=options(**fields)))
    yield pb.LintConversationsRequest(chunk=pb.ConversationChunk(conversations=conversations))


def everywhere(api: Api, conversation: ty.Conversation, **fields: object) -> list[grpc.StatusCode | None]:
    """One conversation through every RPC that takes some; answers how each ended."""
    chosen, one = options(**fields), [conversation]
    calls: list[Callable[[], object]] = [
        lambda: api.preprocess.Preprocess(pb.PreprocessRequest(options=chosen, conversations=one), timeout=LIMIT),
        lambda: api.preprocess.Preprocess(
            pb.PreprocessRequest(options=chosen, conversations=one, skip_bad=True), timeout=LIMIT
        ),
        lambda: api.preprocess.PreviewConversation(
            pb.PreviewConversationRequest(options=chosen, conversation=conversation), timeout=LIMIT
        ),
        lambda: api.preprocess.StreamPreprocess(stream(one, **fields), timeout=LIMIT),
        lambda: api.preprocess.LintConversations(lint(one, **fields), timeout=LIMIT),
        lambda: api.datasets.CreateDataset(dataset_stream(one, options=chosen), timeout=LIMIT),
        lambda: api.datasets.CreateDataset(
            dataset_stream(one, [good()], options=chosen, bad_rows=ds.BAD_ROWS_SKIP, display_name=MARK),
            timeout=LIMIT,
        ),
        lambda: api.jobs.Sample(tr.SampleRequest(job="job-x", conversation=conversation), timeout=LIMIT),
    ]
    return [refused(call) for call in calls]


def every_other_rpc(api: Api, dataset: str, job: str) -> None:
    """The RPCs that take no conversation, called with what the marked ones left."""
    for path in NEEDS:
        service, method = path.rpartition(".")[2].split("/")
        if service not in SERVICES:
            continue
        stub = {"PreprocessService": api.preprocess, "DatasetService": api.datasets}.get(service, api.jobs)
        module = {"PreprocessService": pb, "DatasetService": ds}.get(service, tr)
        asked = getattr(module, f"{method}Request")()
        for field, value in (("id", job), ("job", job), ("host", MARK), ("page_token", MARK)):
            if field in asked.DESCRIPTOR.fields_by_name:
                setattr(asked, field, dataset if service == "DatasetService" and field == "id" else value)
        one_way = method in ("CreateDataset", "LintConversations", "StreamPreprocess")
        call = getattr(stub, method)
        refused(lambda call=call, asked=asked, one_way=one_way: call(iter([asked]) if one_way else asked, timeout=3))


def unmarked(capfd: pytest.CaptureFixture[str], at_least: int) -> None:
    """Both streams of this process and its children hold nothing of the conversations, and enough lines to tell."""
    out, err = capfd.readouterr()
    assert MARK not in out
    assert MARK not in err, next(line for line in err.splitlines() if MARK in line)
    assert MARK.encode().hex() not in err
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert sum(line["message"] == "rpc" for line in lines) >= at_least


def test_good_and_bad_conversations_leave_no_word_in_any_log(
    keep_logging: None, start_api: Start, redis_url: str, gpu_host: HostRecord, capfd: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr("debug")
    api = start_api(redis_url)
    assert everywhere(api, good())[:7] == [None] * 7
    ended = [everywhere(api, conversation) for conversation in bad()]
    assert sum(grpc.StatusCode.INVALID_ARGUMENT in codes for codes in ended) >= 6  # this template takes any role
    made = api.datasets.CreateDataset(dataset_stream([good()] * 4), timeout=LIMIT).dataset
    request = tr.CreateJobRequest(model=MODEL, training_dataset=made.id, metadata={"label": MARK})
    job = api.jobs.CreateJob(request, timeout=LIMIT).job
    every_other_rpc(api, made.id, job.id)
    unmarked(capfd, at_least=8 * 10 + 30)


def test_a_prompt_and_its_reply_leave_no_word_in_any_log_and_no_id_in_redis(
    keep_logging: None,
    start_api: Start,
    store: Store,
    redis_url: str,
    gpu_host: HostRecord,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    log_to_stderr("debug")
    api = start_api(redis_url)
    made = api.datasets.CreateDataset(dataset_stream([good()] * 4), timeout=LIMIT).dataset
    request = tr.CreateJobRequest(model=MODEL, training_dataset=made.id)
    job = ended(store, api.jobs.CreateJob(request, timeout=LIMIT).job.id).id
    played = Played(api, store)
    monkeypatch.setattr(trainer, "run", played.run)
    asked = ty.Conversation(messages=[message("user", f"{MARK}?")])
    said = api.registry.get(MODEL).vocabulary.encode([f"{MARK}!"], [False]).ids.tolist()
    assert played.sample(job, asked, {"token_ids": said, "finish_reason": "stop"}).text == f"{MARK}!"
    assert refused(lambda: played.sample(job, asked, {"code": "UNKNOWN", "message": "x", "hint": ""}))
    man(store)
    assert refused(lambda: api.jobs.Sample(tr.SampleRequest(job=job, conversation=asked), timeout=3))
    wait_until(lambda: not store.redis.keys("rq:*call-*"))  # the caller may have left before its prompt was withdrawn
    assert len(played.orders) == 2
    prompt = json.dumps(played.orders[0]["prompt"])[1:-1]
    everything = [store.redis.dump(key) or b"" for key in store.redis.keys("rq:*")]
    assert not any(json.dumps(said)[1:-1].encode() in one or prompt.encode() in one for one in everything)
    out, err = capfd.readouterr()
    assert MARK not in out + err
    assert prompt not in err
    assert '"prompt_tokens": ' in err


def test_hostile_templates_leave_no_word_in_any_log(
    keep_logging: None, redis_url: str, start_api: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr("debug")
    with closing(Sandbox(Limits(seconds=1))) as sandbox:
        api = start_api(redis_url, load=partial(load_entry, sandbox=sandbox))
        assert api.registry.wait(60)
        for template in hostile_templates():
            codes = everywhere(api, good(), chat_template=template)
            assert codes[0] in (grpc.StatusCode.INVALID_ARGUMENT, None), template
    unmarked(capfd, at_least=8 * len(hostile_templates()))


def test_faults_of_the_server_leave_no_word_in_any_log(
    keep_logging: None,
    start_api: Start,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    log_to_stderr("debug")
    api = start_api(redis_url)

    def crash(*arguments: object, **fields: object) -> object:
        try:
            {}[str(arguments)]  # an error that quotes its arguments
        except KeyError as error:
            raise ValueError(f"{arguments} {fields} {MARK}") from error

    places = [
        (preprocess_service, "read_each"),
        (preprocess_service, "conversation"),
        (preprocess_service, "token_batch"),
        (preprocess_service, "issues"),
        (preprocess_service, "preview_response"),
        (preprocess_service.LintRun, "add"),
        (dataset_service, "read_each"),
        (dataset_upload.DatasetBuild, "add"),
        (dataset_upload.DatasetBuild, "totals"),
        (dataset_upload, "finished"),
        (training_service, "draft"),
    ]
    for owner, name in places:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, crash)
            codes = [*everywhere(api, good()), refused(lambda: api.jobs.CreateJob(tr.CreateJobRequest(model=MARK)))]
            assert grpc.StatusCode.INTERNAL in codes, name
    unmarked(capfd, at_least=8 * len(places))


def test_broken_off_and_oversize_calls_leave_no_word_in_any_log(
    keep_logging: None, start_api: Start, redis_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    log_to_stderr("debug")
    api = start_api(redis_url)
    large = ty.Conversation(messages=[message("user", MARK * (MAX_MESSAGE_BYTES // len(MARK)))])
    with grpc.insecure_channel(api.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        call = channel.unary_unary("/turnloom.v1.PreprocessService/Preprocess", pb.PreprocessRequest.SerializeToString)
        request = pb.PreprocessRequest(options=options(), conversations=[large, good()])
        assert refused(lambda: call(request, timeout=LIMIT)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        broken = channel.unary_unary("/turnloom.v1.PreprocessService/Preprocess")
        undecodable = refused(lambda: broken(f"{MARK} is no protobuf".encode(), timeout=LIMIT))
        assert undecodable is grpc.StatusCode.INVALID_ARGUMENT
    over = pb.PreprocessRequest(options=options(), conversations=[good()] * 513)
    assert refused(lambda: api.preprocess.Preprocess(over, timeout=LIMIT)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    leaving = threading.Event()

    def endless() -> Iterator[pb.StreamPreprocessRequest]:
        yield from stream([good()])
        leaving.wait(LIMIT)

    half = api.preprocess.StreamPreprocess(endless(), timeout=LIMIT)
    next(half)
    half.cancel()
    leaving.set()
    with suppress(grpc.RpcError):
        next(half)
    api.preprocess.Preprocess(pb.PreprocessRequest(options=options(), conversations=[good()]), timeout=LIMIT)
    unmarked(capfd, at_least=2)


def test_the_preprocess_worker_leaves_no_word_in_its_log(sources: Sources, capfd: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}]
    rows = [{"messages": turns}] * 5 + [{"messages": turns[:1]}, {"messages": [{"role": MARK}]}, {MARK: 1}]
    path = sources.roots / "marked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + f"{{{MARK}\n")
    asked = [sources.create(path), sources.skipping(path)]
    sources.workers.start(TURNLOOM_LOG_LEVEL="debug")
    states = {sources.ended(one).state for one in asked}
    assert ds.DATASET_STATE_FAILED in states
    out, err = capfd.readouterr()
    assert MARK not in out + err
    assert '"logger": "rq.worker"' in err
