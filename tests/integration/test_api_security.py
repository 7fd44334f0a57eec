"""Tokens, TLS and limits of a real server: who is refused, with what sentence, and what is not disturbed by it."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status

from services.preprocess.api import preprocess_service
from services.preprocess.api.auth.bearer_tokens import create, revoke
from services.preprocess.api.auth.scopes import NEEDS, Need
from services.preprocess.api.auth.tls import tls_files
from services.preprocess.domain.caller import Scope
from services.preprocess.domain.limits import MAX_MESSAGE_BYTES
from services.preprocess.settings import ApiSettings
from services.store.records import HostRecord
from services.store.store import Store
from services.variables import BadSetting
from tests.support.api_calls import MODEL, Api, Start, chat, dataset_stream, first_request, options, refusal
from tests.support.certificates import Pair, authority, signed
from tests.support.cli_runs import turnloom
from turnloom.client import TurnloomClient
from turnloom.errors import NotAllowed, ResourceExhausted, ServerUnreachable
from turnloom.transport import handshake
from turnloom.transport.calls import Tls
from turnloom.v1 import preprocess_pb2 as pb
from turnloom.v1 import training_pb2 as tr

LIMIT = 30  #: seconds that any call here may take
CHAT = {"messages": [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]}


class People:
    """Tokens of a file, and clients that hold them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}
        for name, scopes in (("ann", "submit"), ("bob", "submit"), ("rita", "read"), ("root", "admin")):
            self.secrets[name] = create(path, name, frozenset({Scope(scopes)}))

    def metadata(self, name: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.secrets[name]}"),)

    def client(self, api: Api, name: str) -> TurnloomClient:
        return TurnloomClient(api.address, self.secrets[name])


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "tokens.json")


@pytest.fixture
def guarded(start_api: Start, people: People, redis_url: str) -> Api:
    """A server that wants tokens."""
    return start_api(redis_url, tokens=people.path)


def request(count: int = 1) -> pb.PreprocessRequest:
    return pb.PreprocessRequest(options=options(), conversations=[chat("question", "answer")] * count)


def retry_seconds(error: grpc.RpcError) -> float | None:
    """What RetryInfo says."""
    status, info = rpc_status.from_call(error), RetryInfo()
    found = status is not None and any(item.Unpack(info) for item in status.details)
    return info.retry_delay.ToTimedelta().total_seconds() if found else None


def exhausted(call: Callable[[], object]) -> tuple[str, float | None]:
    """Reason and retry delay of a call that must be refused with RESOURCE_EXHAUSTED."""
    seen: list[grpc.RpcError] = []

    def keep() -> None:
        try:
            call()
        except grpc.RpcError as error:
            seen.append(error)
            raise

    said = refusal(keep)
    assert said.code is grpc.StatusCode.RESOURCE_EXHAUSTED, said
    return said.reason, retry_seconds(seen[0])


class TestTokens:
    def test_every_rpc_refuses_a_call_without_a_token_before_it_reads_a_message(self, guarded: Api) -> None:
        for path, need in NEEDS.items():
            call = guarded.channel.stream_stream(path)
            said = refusal(lambda call=call: next(call(iter(()), timeout=LIMIT)))
            if need is Need.NOTHING:
                assert said.code is not grpc.StatusCode.UNAUTHENTICATED
            else:
                assert (path, said.code) == (path, grpc.StatusCode.UNAUTHENTICATED)
                assert said.message == (
                    "The call brought no token, which this server needs; set TURNLOOM_TOKEN or --token."
                )
                assert said.reason == "UNAUTHENTICATED"
        assert guarded.handled("unary", "PreprocessService", "Preprocess", "UNAUTHENTICATED") == 1
        assert guarded.handled("client_stream", "DatasetService", "CreateDataset", "UNAUTHENTICATED") == 1

    def test_a_wrong_and_a_revoked_token_are_refused_at_the_next_call(self, guarded: Api, people: People) -> None:
        wrong = (("authorization", "Bearer tl_wrong"),)
        said = refusal(lambda: guarded.preprocess.Preprocess(request(), metadata=wrong, timeout=LIMIT))
        assert said.code is grpc.StatusCode.UNAUTHENTICATED
        assert "tl_wrong" not in said.message
        with people.client(guarded, "ann") as ann:
            ann.preprocess([CHAT], model=MODEL)
            revoke(people.path, "ann")
            with pytest.raises(NotAllowed, match="The token is unknown here: mistyped, revoked"):
                ann.preprocess([CHAT], model=MODEL)

    def test_health_stays_open(self, guarded: Api) -> None:
        answer = HealthStub(guarded.channel).Check(HealthCheckRequest(), timeout=LIMIT)
        assert answer.status == HealthCheckResponse.SERVING

    def test_a_file_that_breaks_closes_the_server_and_says_so(
        self, guarded: Api, people: People, caplog: pytest.LogCaptureFixture
    ) -> None:
        people.path.write_text("{")
        stub, metadata = guarded.preprocess, people.metadata("root")
        said = refusal(lambda: stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=metadata, timeout=LIMIT))
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "TOKENS_UNREADABLE")
        assert "no call is answered until the file of tokens can be read" in caplog.messages

    def test_server_info_does_not_tell_how_the_server_is_guarded(self, guarded: Api, people: People) -> None:
        with people.client(guarded, "ann") as ann:
            text = str(ann.server_info())
        assert "token" not in text.lower()
        assert str(people.path) not in text

    def test_an_open_server_says_aloud_that_it_is(self, start_api: Start, caplog: pytest.LogCaptureFixture) -> None:
        start_api().preprocess.Preprocess(request(), timeout=LIMIT)
        assert "TURNLOOM_TOKENS is not set: whoever reaches this address may do everything" in caplog.messages

    def test_tokens_without_tls_are_warned_of(self, guarded: Api, caplog: pytest.LogCaptureFixture) -> None:
        setup = [record.getMessage() for record in caplog.get_records("setup")]
        assert "TURNLOOM_TLS_CERT is not set: tokens and conversations travel unencrypted" in setup

    def test_no_secret_is_in_any_log_line(self, guarded: Api, people: People, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        with people.client(guarded, "ann") as ann:
            ann.preprocess([CHAT], model=MODEL)
        lines = [vars(record) for record in caplog.records]
        assert any(line.get("token") == "ann" for line in lines)  # the name, for whoever reads the log
        assert not any(secret in str(line) for line in lines for secret in people.secrets.values())


class TestScopes:
    def test_a_reader_reads_all_and_changes_nothing(self, guarded: Api, people: People) -> None:
        with people.client(guarded, "ann") as ann, people.client(guarded, "rita") as rita:
            made = ann.datasets.create([CHAT], model=MODEL)
            assert made.owner == "ann"
            assert rita.datasets.retrieve(made.id).id == made.id
            assert [one.id for one in rita.datasets.list()] == [made.id]
            for change in (
                lambda: rita.datasets.delete(made.id),
                lambda: rita.datasets.create([CHAT], model=MODEL),
                lambda: rita.preprocess([CHAT], model=MODEL),
            ):
                with pytest.raises(NotAllowed, match="needs the scope submit, and token 'rita' has read"):
                    change()

    def test_submit_sees_and_changes_only_what_it_made(self, guarded: Api, people: People) -> None:
        with people.client(guarded, "ann") as ann, people.client(guarded, "bob") as bob:
            hers, his = (who.datasets.create([CHAT], model=MODEL, date="2026-01-02") for who in (ann, bob))
            assert hers.sha256 == his.sha256  # the same content, and still two things
            assert [one.id for one in ann.datasets.list()] == [hers.id]
            for look in (
                lambda: bob.datasets.retrieve(hers.id),
                lambda: list(bob.datasets.download(hers.id)),
                lambda: list(bob.datasets.watch(hers.id)),
            ):
                with pytest.raises(NotAllowed, match=f"Dataset '{hers.id}' was made with another token"):
                    look()
            for change in (lambda: bob.datasets.delete(hers.id), lambda: bob.datasets.cancel(hers.id)):
                with pytest.raises(NotAllowed, match="token 'bob' changes only what it made"):
                    change()
            bob.datasets.delete(his.id)
            assert ann.datasets.retrieve(hers.id).examples == 1
            assert len(list(ann.datasets.download(hers.id))) == 1

    def test_admin_changes_what_others_made(self, guarded: Api, people: People) -> None:
        with people.client(guarded, "ann") as ann, people.client(guarded, "root") as root:
            made = ann.datasets.create([CHAT], model=MODEL)
            root.datasets.delete(made.id)
            assert list(ann.datasets.list()) == []

    def test_jobs_belong_to_the_token_that_made_them(self, guarded: Api, people: People, gpu_host: HostRecord) -> None:
        with people.client(guarded, "ann") as ann, people.client(guarded, "bob") as bob:
            dataset = ann.datasets.create([CHAT] * 4, model=MODEL)
            job = ann.jobs.create(model=MODEL, training_dataset=dataset.id, lora_rank=8)
            assert job.owner == "ann"
            with pytest.raises(NotAllowed, match=f"Dataset '{dataset.id}' was made with another token"):
                bob.jobs.create(model=MODEL, training_dataset=dataset.id, lora_rank=8)
            own = bob.datasets.create([CHAT] * 4, model=MODEL)
            with pytest.raises(NotAllowed, match=f"Job '{job.id}' was made with another token"):
                bob.jobs.create(model=MODEL, training_dataset=own.id, lora_rank=8, start_from=tr.StartFrom(job=job.id))
            for call in (
                lambda: bob.jobs.retrieve(job.id),
                lambda: list(bob.jobs.events(job.id)),
                lambda: list(bob.jobs.steps(job.id)),
                lambda: list(bob.jobs.checkpoints(job.id)),
                lambda: next(iter(bob.jobs.watch(job.id))),
                lambda: bob.jobs.download_adapter(job.id, people.path.parent),
                lambda: bob.jobs.cancel(job.id),
                lambda: bob.jobs.pause(job.id),
                lambda: bob.jobs.resume(job.id),
                lambda: bob.jobs.delete(job.id),
            ):
                with pytest.raises(NotAllowed, match=f"Job '{job.id}' was made with another token"):
                    call()
            assert list(bob.jobs.list()) == []
            assert [one.id for one in ann.jobs.list()] == [job.id]
            assert ann.jobs.cancel(job.id).state == tr.JOB_STATE_CANCELLED
            assert guarded.handled("unary", "FineTuningService", "CancelJob", "PERMISSION_DENIED") == 1

    def test_a_request_id_is_its_owners_alone(self, guarded: Api, people: People) -> None:
        with people.client(guarded, "ann") as ann, people.client(guarded, "bob") as bob:
            first = ann.datasets.create([CHAT], model=MODEL, request_id="r1")
            assert ann.datasets.create([CHAT], model=MODEL, request_id="r1").id == first.id
            assert bob.datasets.create([CHAT], model=MODEL, request_id="r1").id != first.id

    def test_a_thing_that_an_open_server_made_belongs_to_admin(
        self, guarded: Api, start_api: Start, people: People, redis_url: str
    ) -> None:
        with TurnloomClient(start_api(redis_url).address) as anybody:
            made = anybody.datasets.create([CHAT], model=MODEL)
        with people.client(guarded, "ann") as ann, people.client(guarded, "root") as root:
            with pytest.raises(NotAllowed, match="was made with another token"):
                ann.datasets.delete(made.id)
            root.datasets.delete(made.id)


class TestTls:
    @pytest.fixture(autouse=True)
    def a_look_may_take_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handshake, "SECONDS", LIMIT)

    @pytest.fixture
    def ca(self, tmp_path: Path) -> Pair:
        return authority(tmp_path, "ca")

    @pytest.fixture
    def server(self, tmp_path: Path, ca: Pair) -> Pair:
        return signed(tmp_path, "server", ca)

    def test_a_client_that_knows_the_authority_is_served(
        self, start_api: Start, ca: Pair, server: Pair, people: People
    ) -> None:
        api = start_api(tls_cert=server.certificate, tls_key=server.key, tokens=people.path)
        with TurnloomClient(api.address, people.secrets["ann"], tls=Tls(ca.certificate)) as client:
            assert len(client.preprocess([CHAT], model=MODEL).batch) == 1
        token = ("--token", people.secrets["ann"])
        ran = turnloom(api.address, "models", *token, "--tls-ca", ca.certificate, "--json")
        assert (ran.code, MODEL in ran.out) == (0, True)
        ran = turnloom(api.address, "models", *token)
        assert ran.code == 3
        assert f"The server at {api.address} speaks TLS, and was called without." in ran.err

    def test_a_call_without_tls_is_refused_with_what_to_do(self, start_api: Start, server: Pair) -> None:
        api = start_api(tls_cert=server.certificate, tls_key=server.key)
        with TurnloomClient(api.address) as client, pytest.raises(ServerUnreachable) as caught:
            client.models.list()
        assert str(caught.value) == f"The server at {api.address} speaks TLS, and was called without."
        assert caught.value.hint.startswith("Give --tls, and --tls-ca with the authority's file")

    def test_a_certificate_of_a_stranger_is_not_trusted(self, start_api: Start, server: Pair, tmp_path: Path) -> None:
        api = start_api(tls_cert=server.certificate, tls_key=server.key)
        stranger = authority(tmp_path, "stranger")
        tls = Tls(stranger.certificate)
        with TurnloomClient(api.address, tls=tls) as client, pytest.raises(ServerUnreachable) as caught:
            client.models.list()
        assert str(caught.value).startswith(f"The certificate of the server at {api.address} is not trusted: ")

    def test_tls_where_the_server_has_none_is_named(self, start_api: Start, ca: Pair) -> None:
        api = start_api()
        tls = Tls(ca.certificate)
        with TurnloomClient(api.address, tls=tls) as client, pytest.raises(ServerUnreachable) as caught:
            client.models.list()
        assert str(caught.value) == f"The server at {api.address} does not speak TLS."

    def test_mtls_serves_only_clients_with_a_certificate_of_the_authority(
        self, start_api: Start, ca: Pair, server: Pair, tmp_path: Path
    ) -> None:
        api = start_api(tls_cert=server.certificate, tls_key=server.key, tls_client_ca=ca.certificate)
        own = signed(tmp_path, "client", ca)
        with TurnloomClient(api.address, tls=Tls(ca.certificate, own.certificate, own.key)) as client:
            assert [model.name for model in client.models.list()] == [MODEL]
        with (
            TurnloomClient(api.address, tls=Tls(ca.certificate)) as client,
            pytest.raises(ServerUnreachable, match=f"The server at {api.address} wants a client's certificate"),
        ):
            client.models.list()
        forged = signed(tmp_path, "forged", authority(tmp_path, "stranger"))
        with (
            TurnloomClient(api.address, tls=Tls(ca.certificate, forged.certificate, forged.key)) as client,
            pytest.raises(ServerUnreachable, match=f"The server at {api.address} refuses this client's certificate"),
        ):
            client.models.list()

    def test_a_renewed_certificate_is_used_without_a_restart_and_a_broken_one_is_not(
        self, start_api: Start, ca: Pair, server: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        api = start_api(tls_cert=server.certificate, tls_key=server.key)
        new_ca = authority(tmp_path, "new-ca")
        new = signed(tmp_path, "new-server", new_ca)
        shutil.copy(new.key, server.key)
        shutil.copy(new.certificate, server.certificate)
        with TurnloomClient(api.address, tls=Tls(new_ca.certificate)) as client:
            client.models.list()
        server.certificate.write_text("broken")
        with TurnloomClient(api.address, tls=Tls(new_ca.certificate)) as client:
            client.models.list()
        assert "renewed TLS files can't be used; the old ones stay" in caplog.messages

    def test_settings_that_do_not_fit_together_are_named(self, ca: Pair, server: Pair, tmp_path: Path) -> None:
        def sentence(**files: Path) -> str:
            with pytest.raises(BadSetting) as caught:
                tls_files(ApiSettings(**files))  # type: ignore[arg-type]
            return str(caught.value)

        both = "TLS needs both TURNLOOM_TLS_CERT and TURNLOOM_TLS_KEY; set both, or none of TURNLOOM_TLS_*."
        assert sentence(tls_cert=server.certificate) == both
        assert sentence(tls_client_ca=ca.certificate) == both
        assert sentence(tls_cert=server.certificate, tls_key=tmp_path / "none").startswith(
            f"TURNLOOM_TLS_KEY: {tmp_path / 'none'} can't be read (No such file or directory)"
        )
        assert "don't fit each other; give a PEM certificate and its own key" in sentence(
            tls_cert=server.certificate, tls_key=ca.key
        )
        empty = tmp_path / "empty.pem"
        empty.touch()
        assert sentence(tls_cert=server.certificate, tls_key=server.key, tls_client_ca=empty).endswith(
            "holds no PEM certificate; name a file with one."
        )


class TestLimits:
    def test_a_batch_over_the_limit_is_refused_with_what_may_be_sent(self, start_api: Start) -> None:
        api = start_api()
        assert exhausted(lambda: api.preprocess.Preprocess(request(513), timeout=LIMIT)) == ("TOO_LARGE", 0)
        said = refusal(lambda: api.preprocess.Preprocess(request(513), timeout=LIMIT))
        assert said.fields == {"conversations": "holds 513 conversations; send 1 to 512 at once."}
        assert len(api.preprocess.Preprocess(request(512), timeout=LIMIT).batch.row_lengths) == 512

    def test_a_message_over_the_limit_is_refused_unread_and_the_server_goes_on(self, start_api: Start) -> None:
        api = start_api()
        large = pb.PreprocessRequest(options=options(), conversations=[chat("x" * MAX_MESSAGE_BYTES, "y")])
        with grpc.insecure_channel(api.address, options=[("grpc.max_send_message_length", -1)]) as channel:
            call = channel.unary_unary(
                "/turnloom.v1.PreprocessService/Preprocess", pb.PreprocessRequest.SerializeToString
            )
            assert refusal(lambda: call(large, timeout=LIMIT)).code is grpc.StatusCode.RESOURCE_EXHAUSTED
        with TurnloomClient(api.address) as client, pytest.raises(ResourceExhausted) as caught:
            client.preprocess([{"messages": [{"role": "user", "content": "x" * MAX_MESSAGE_BYTES}]}], model=MODEL)
        assert caught.value.hint == ("A message holds at most 64 MiB; send fewer or shorter conversations at once.")
        api.preprocess.Preprocess(request(), timeout=LIMIT)

    def test_unary_calls_over_a_tokens_rate_are_refused_and_others_are_not(
        self, start_api: Start, people: People
    ) -> None:
        api = start_api(tokens=people.path, rate=0.05)
        stub, ann = api.preprocess, people.metadata("ann")
        stub.Preprocess(request(512), metadata=ann, timeout=LIMIT)
        reason, seconds = exhausted(lambda: stub.Preprocess(request(10), metadata=ann, timeout=LIMIT))
        assert reason == "RATE_EXCEEDED"
        assert seconds is not None
        assert 100 <= seconds <= 200  # less what passed since the first call
        stub.Preprocess(request(10), metadata=people.metadata("bob"), timeout=LIMIT)

    def test_a_stream_over_its_tokens_rate_is_slowed_down_and_stays_whole(
        self, start_api: Start, people: People
    ) -> None:
        api = start_api(tokens=people.path, rate=500.0)
        chunks = [[chat("question", "answer")] * 512] * 11  # 5,000 at once, then 500 a second: 1.3 s

        def send() -> Iterator[pb.StreamPreprocessRequest]:
            yield first_request(options())
            for chunk in chunks:
                yield pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=chunk))

        call = api.preprocess.StreamPreprocess(send(), metadata=people.metadata("ann"), timeout=LIMIT)
        assert sum(len(answer.batch.row_lengths) for answer in call) == 11 * 512
        began = api.sample("grpc_server_handling_seconds_sum", **labels("bidi_stream", "StreamPreprocess"))
        assert began >= 1.2

    def test_a_stream_that_would_be_held_back_too_long_is_refused(
        self, start_api: Start, people: People, redis_url: str
    ) -> None:
        api = start_api(redis_url, tokens=people.path, rate=1.0)
        stub, ann = api.datasets, people.metadata("ann")
        api.preprocess.Preprocess(request(512), metadata=ann, timeout=LIMIT)
        stream = dataset_stream([chat("question", "answer")] * 100)
        assert exhausted(lambda: stub.CreateDataset(stream, metadata=ann, timeout=LIMIT))[0] == "RATE_EXCEEDED"

    def test_a_dataset_of_too_many_conversations_or_bytes_is_refused_and_leaves_nothing(
        self, start_api: Start, redis_url: str, store: Store, tmp_path: Path
    ) -> None:
        chats = [chat(f"question {i}", "answer") for i in range(6)]
        for setting in ({"max_dataset_conversations": 5}, {"max_dataset_bytes": 200}):
            api = start_api(redis_url, **setting)
            create_ = api.datasets.CreateDataset
            reason = exhausted(lambda make=create_: make(dataset_stream(chats[:3], chats[3:]), timeout=LIMIT))
            assert reason == ("TOO_LARGE", 0)
            said = refusal(lambda make=create_: make(dataset_stream(chats[:3], chats[3:]), timeout=LIMIT))
            assert said.fields.popitem()[0] == "stream[2].chunk.conversations"
            assert list(store.datasets.list().items) == []
            assert not [file for file in (tmp_path / "store").rglob("*") if file.is_file()]
        api = start_api(redis_url, max_dataset_conversations=6)
        assert api.datasets.CreateDataset(dataset_stream(chats), timeout=LIMIT).dataset.conversations == 6

    def test_64_clients_at_once_are_all_served(self, start_api: Start) -> None:
        api = start_api(threads=16)
        together = threading.Barrier(64, timeout=LIMIT)

        def ask(_: int) -> int:
            with grpc.insecure_channel(api.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                call = channel.unary_unary(
                    "/turnloom.v1.PreprocessService/Preprocess",
                    pb.PreprocessRequest.SerializeToString,
                    pb.PreprocessResponse.FromString,
                )
                together.wait()
                return len(call(request(8), timeout=LIMIT).batch.row_lengths)

        with ThreadPoolExecutor(64) as pool:
            assert list(pool.map(ask, range(64))) == [8] * 64

    def test_calls_over_the_limit_are_refused_at_once_while_every_thread_is_busy_and_the_others_are_served(
        self, start_api: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        api = start_api(threads=4, max_calls=8)
        go_on, real = threading.Event(), preprocess_service.token_batch

        def wait(*arguments: object) -> object:
            assert go_on.wait(LIMIT)
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(preprocess_service, "token_batch", wait)
        calls = [api.preprocess.Preprocess.future(request(), timeout=LIMIT) for _ in range(64)]
        refused = threading.Semaphore(0)
        for call in calls:
            call.add_done_callback(lambda _: refused.release())
        for _ in range(56):
            assert refused.acquire(timeout=LIMIT)  # while the eight others hold every thread
        go_on.set()
        codes = [call.code() for call in calls]
        assert codes.count(grpc.StatusCode.OK) == 8
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 56
        late = [call for call in calls if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert {call.details() for call in late} == {"All 8 places for calls are taken; try again in a moment."}
        assert {retry_seconds(call) for call in late} == {1}
        api.preprocess.Preprocess(request(), timeout=LIMIT)  # every place was given back

    def test_a_source_of_calls_that_leave_early_takes_no_place_for_good(self, start_api: Start) -> None:
        api = start_api(threads=4, max_calls=4)
        for _ in range(40):
            api.preprocess.Preprocess.future(request(), timeout=LIMIT).cancel()
        with TurnloomClient(api.address) as client:
            _until_served(client)


def _until_served(client: TurnloomClient) -> None:
    """Cancelled calls give their places back in their own time."""
    for _ in range(200):
        try:
            client.preprocess([CHAT], model=MODEL)
            return
        except ResourceExhausted:
            threading.Event().wait(0.05)
    raise AssertionError("no place was given back")


def labels(kind: str, method: str) -> dict[str, str]:
    return {"grpc_type": kind, "grpc_service": "turnloom.v1.PreprocessService", "grpc_method": method}
