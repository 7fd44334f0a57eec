"""Jobs over HTTP at a real API without a trainer: what is made of a request, whose it is, and what is refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
from openai import OpenAI

from services.preprocess.api import rpc
from services.rest.gateway import Turnloom
from services.rest.settings import RestSettings
from services.store.store import Store
from tests.support.api_calls import MODEL, Start
from tests.support.rest_server import CHAT, Rest, error_of, lines, openai_client, serving, valid, wait
from turnloom.client import TurnloomClient
from turnloom.embedded.ports import free_port

pytestmark = pytest.mark.usefixtures("gpu_host")

NO_REPLY = b'{"messages": [{"role": "user", "content": "question"}]}\n'


@pytest.fixture
def ann(rest: Rest) -> OpenAI:
    return rest.client("ann")


@pytest.fixture
def file(ann: OpenAI) -> str:
    return ann.files.create(file=("chats.jsonl", lines(40)), purpose="fine-tune").id


@pytest.fixture
def direct(rest: Rest) -> Iterator[TurnloomClient]:
    """Ann's client of the API itself."""
    with TurnloomClient(rest.api.address, rest.tokens["ann"]) as client:
        yield client


def test_auto_is_decided_by_the_data_and_answered_as_numbers(ann: OpenAI, file: str, direct: TurnloomClient) -> None:
    job = valid(ann.fine_tuning.jobs.create(model=MODEL, training_file=file))
    assert (job.status, job.model, job.training_file, job.validation_file) == ("queued", MODEL, file, None)
    assert job.organization_id == "ann"
    assert job.hyperparameters.model_dump() == {"n_epochs": 3, "batch_size": 16, "learning_rate_multiplier": 1.0}
    assert job.method.supervised.hyperparameters.model_dump() == job.hyperparameters.model_dump()
    assert (job.fine_tuned_model, job.finished_at, job.trained_tokens, job.error, job.result_files) == (
        None,
        None,
        None,
        None,
        [],
    )
    used = direct.jobs.retrieve(job.id).hyperparameters
    assert (used.epochs, used.batch_size, used.learning_rate, used.seed) == (3, 16, 1e-4, 0)
    assert ann.fine_tuning.jobs.retrieve(job.id) == job


def test_everything_that_is_given_reaches_the_job(ann: OpenAI, file: str, direct: TurnloomClient, store: Store) -> None:
    validation = ann.files.create(file=("valid.jsonl", lines(4)), purpose="fine-tune").id
    wandb = {"project": "p", "name": "n", "tags": ["t"]}
    job = valid(
        ann.fine_tuning.jobs.create(
            model=MODEL,
            training_file=file,
            validation_file=validation,
            suffix="mine-1",
            seed=-7,
            metadata={"team": "ü", "empty": ""},
            method={
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": 5, "learning_rate_multiplier": 0.5}},
            },
            integrations=[{"type": "wandb", "wandb": wandb}],
            extra_body={
                "turnloom": {
                    "hyperparameters": {"lora_rank": 8, "schedule": "cosine"},
                    "options": {"max_length": 64, "train_on": "last_assistant_message"},
                    "host": "gpu-a",
                }
            },
        )
    )
    assert job.hyperparameters.model_dump() == {"n_epochs": 2, "batch_size": 5, "learning_rate_multiplier": 0.5}
    assert (job.seed, job.metadata, job.validation_file) == (-7, {"team": "ü", "empty": ""}, validation)
    assert job.integrations[0].wandb.model_dump(exclude_none=True) == wandb
    made = direct.jobs.retrieve(job.id)
    assert (made.hyperparameters.lora_rank, made.hyperparameters.schedule) == (8, 3)
    assert store.jobs.get(job.id).spec.host == "gpu-a"
    options = direct.datasets.retrieve(made.training_dataset).options
    assert (options.max_length, options.train_on) == (64, 2)
    assert direct.datasets.retrieve(made.test_dataset).conversations == 4


def test_the_old_place_of_hyperparameters_and_max_steps_work(ann: OpenAI, file: str, direct: TurnloomClient) -> None:
    old = ann.fine_tuning.jobs.create(
        model=MODEL, training_file=file, hyperparameters={"n_epochs": 4, "batch_size": "auto"}
    )
    assert old.hyperparameters.n_epochs == 4
    steps = ann.fine_tuning.jobs.create(
        model=MODEL, training_file=file, extra_body={"turnloom": {"hyperparameters": {"max_steps": 9}}}
    )
    assert direct.jobs.retrieve(steps.id).progress.planned_steps == 9
    assert valid(steps).hyperparameters.n_epochs is None


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"method": {"type": "reinforcement"}}, "method", "reinforcement is not possible"),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.1}}}}, "method", "dpo is not possible"),
        ({"model": "nothing"}, "model", "The model 'nothing' does not exist"),
        ({"training_file": "file-none"}, "training_file", "there is no file 'file-none'"),
        ({"validation_file": "file-none"}, "validation_file", "there is no file 'file-none'"),
        ({"suffix": "a:b"}, "suffix", "send 64 letters"),
        ({"metadata": {"openai.x": "y"}}, "metadata", "'openai.x' begins with openai."),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "has 17 pairs; send 16 at most"),
        ({"hyperparameters": {"n_epochs": 0}}, "n_epochs", "is 0; give a number above 0"),
        (
            {"hyperparameters": {"learning_rate_multiplier": -1}},
            "learning_rate_multiplier",
            "give a number above 0",
        ),
        ({"extra_body": {"turnloom": {"hyperparameters": {"lora_rnk": 8}}}}, "lora_rnk", "Did you mean lora_rank?"),
        ({"extra_body": {"turnloom": {"options": {"mask": "x"}}}}, "mask", "there is no 'x'. Choose from"),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs", 'send a whole number or "auto".'),
        ({"seed": "x"}, "seed", 'is "x"; send a whole number.'),
        ({"extra_body": {"turnlom": {}}}, "turnlom", "is no field of this request"),
        (
            {"hyperparameters": {"batch_size": 2}, "extra_body": {"turnloom": {"hyperparameters": {"batch_size": 3}}}},
            "turnloom.hyperparameters.batch_size",
            "repeats batch_size",
        ),
        (
            {"hyperparameters": {"n_epochs": 2}, "extra_body": {"turnloom": {"hyperparameters": {"max_steps": 3}}}},
            "turnloom.hyperparameters.max_steps",
            "excludes n_epochs",
        ),
        ({"extra_body": {"turnloom": {"hyperparameters": {"lora_rank": 65}}}}, None, "No host serves model"),
        ({"extra_body": {"turnloom": {"hyperparameters": {"beta1": 2}}}}, "hyperparameters.beta1", "beta1"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_field(
    ann: OpenAI, file: str, fields: dict, param: str | None, sentence: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ann.fine_tuning.jobs.create(**{"model": MODEL, "training_file": file, **fields})
    assert caught.value.status_code == (404 if param == "model" else 400)
    assert sentence in caught.value.message
    assert caught.value.param == param
    assert ann.fine_tuning.jobs.list().data == []


def test_a_conversation_that_cannot_be_trained_on_is_named_by_its_line(ann: OpenAI) -> None:
    content = lines(3) + b"\n" + NO_REPLY + lines(1)
    bad = ann.files.create(file=("bad.jsonl", content), purpose="fine-tune").id
    with pytest.raises(openai.BadRequestError) as caught:
        ann.fine_tuning.jobs.create(model=MODEL, training_file=bad)
    assert caught.value.param == "training_file"
    assert "training_file: bad.jsonl, line 5: " in caught.value.message
    assert caught.value.code == "invalid_training_file"


def test_a_key_whose_file_was_deleted_may_send_another_file_to_train_on(ann: OpenAI, direct: TurnloomClient) -> None:
    counts = []
    for conversations in (3, 5):
        file = ann.files.create(
            file=("a.jsonl", lines(conversations)), purpose="fine-tune", extra_headers={"Idempotency-Key": "k"}
        )
        job = ann.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
        counts.append(direct.datasets.retrieve(direct.jobs.retrieve(job.id).training_dataset).conversations)
        ann.files.delete(file.id)
    assert counts == [3, 5]


def test_an_idempotency_key_makes_one_job(ann: OpenAI, file: str) -> None:
    def create(rank: int = 8) -> str:
        return ann.fine_tuning.jobs.create(
            model=MODEL,
            training_file=file,
            extra_headers={"Idempotency-Key": "once"},
            extra_body={"turnloom": {"hyperparameters": {"lora_rank": rank}}},
        ).id

    with ThreadPoolExecutor(4) as threads:
        assert len({job.result() for job in [threads.submit(create) for _ in range(4)]}) == 1
    with pytest.raises(openai.BadRequestError) as caught:
        create(16)
    assert caught.value.code == "idempotency_key_in_use"
    assert "from other content; use a new Idempotency-Key." in caught.value.message
    assert "request_id" not in caught.value.message
    assert len(ann.fine_tuning.jobs.list().data) == 1


def test_one_file_becomes_one_dataset_for_a_model_and_options(ann: OpenAI, file: str, direct: TurnloomClient) -> None:
    first, second = (ann.fine_tuning.jobs.create(model=MODEL, training_file=file).turnloom for _ in range(2))
    assert first["training_dataset"] == second["training_dataset"]
    direct.jobs.cancel(next(iter(direct.jobs.list())).id)
    other = ann.fine_tuning.jobs.create(
        model=MODEL, training_file=file, extra_body={"turnloom": {"options": {"max_length": 99}}}
    )
    assert other.turnloom["training_dataset"] != first["training_dataset"]
    named = ann.fine_tuning.jobs.create(model=MODEL, training_file=first["training_dataset"])
    assert named.turnloom["training_dataset"] == named.training_file == first["training_dataset"]


def test_jobs_are_listed_in_pages_and_by_label(ann: OpenAI, file: str) -> None:
    made = [
        ann.fine_tuning.jobs.create(model=MODEL, training_file=file, metadata={"kind": str(n % 2)}).id for n in range(5)
    ]
    assert [job.id for job in ann.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert [job.id for job in ann.fine_tuning.jobs.list(limit=1, metadata={"kind": "1"})] == [made[3], made[1]]
    assert not ann.fine_tuning.jobs.list(limit=5).has_more
    with pytest.raises(openai.BadRequestError, match="after: there is no 'job-x'"):
        ann.fine_tuning.jobs.list(after="job-x")


def test_a_job_of_the_command_line_is_a_job_here_too(ann: OpenAI, direct: TurnloomClient) -> None:
    data = direct.datasets.create([CHAT], model=MODEL)
    made = direct.jobs.create(model=MODEL, training_dataset=data.id, metadata={"own": "label"})
    job = valid(ann.fine_tuning.jobs.retrieve(made.id))
    assert (job.training_file, job.metadata) == (data.id, {"own": "label"})


def test_a_queued_job_is_cancelled_and_resumed(ann: OpenAI, file: str) -> None:
    job = ann.fine_tuning.jobs.create(model=MODEL, training_file=file)
    with pytest.raises(openai.BadRequestError, match="is QUEUED and can't become PAUSING"):
        ann.fine_tuning.jobs.pause(job.id)
    assert valid(ann.fine_tuning.jobs.cancel(job.id)).status == "cancelled"
    assert valid(ann.fine_tuning.jobs.resume(job.id)).status == "queued"
    events = [valid(event).message for event in ann.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert "The job was created" in events[-1]
    assert ann.fine_tuning.jobs.checkpoints.list(job.id).data == []


def test_anothers_job_can_be_looked_at_with_read_and_changed_by_admin_only(rest: Rest, ann: OpenAI, file: str) -> None:
    job = ann.fine_tuning.jobs.create(model=MODEL, training_file=file).id
    bob, rita, root = map(rest.client, ("bob", "rita", "root"))
    with pytest.raises(openai.PermissionDeniedError, match="was made with another token"):
        bob.fine_tuning.jobs.retrieve(job)
    assert bob.fine_tuning.jobs.list().data == []
    assert rita.fine_tuning.jobs.retrieve(job).id == job
    with pytest.raises(openai.PermissionDeniedError):
        rita.fine_tuning.jobs.cancel(job)
    with pytest.raises(openai.BadRequestError, match="there is no file"):
        bob.fine_tuning.jobs.create(model=MODEL, training_file=file)
    assert root.fine_tuning.jobs.cancel(job).status == "cancelled"
    with pytest.raises(openai.NotFoundError):
        root.fine_tuning.jobs.retrieve("job-000000000000")


def test_a_client_that_leaves_while_its_job_is_being_made_leaves_no_job(
    rest: Rest, ann: OpenAI, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc, "CANCELLATION_SECONDS", 60.0)  # the news of it may be late on a busy machine
    begun, left = threading.Event(), threading.Event()
    make = Turnloom.create_dataset

    def slowly(self: Turnloom, asked: object, conversations: Iterator) -> object:
        def held() -> Iterator:
            yield next(conversations)
            begun.set()
            assert left.wait(60)
            wait(lambda: stopping(conversations), "the work hears that its client left")
            yield from conversations

        return make(self, asked, held())

    def stopping(conversations: Iterator) -> bool:
        return conversations.gi_frame.f_locals["self"]._left.is_set()

    monkeypatch.setattr(Turnloom, "create_dataset", slowly)
    host, port = rest.url.removeprefix("http://").split(":")
    body = f'{{"model": "{MODEL}", "training_file": "{file}"}}'
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/fine_tuning/jobs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {rest.tokens['ann']}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        assert begun.wait(60)
    left.set()
    wait(
        lambda: rest.api.handled("client_stream", "DatasetService", "CreateDataset", "CANCELLED") == 1,
        "the stream ends",
    )
    assert ann.fine_tuning.jobs.list().data == []


def test_two_hundred_polls_at_once_are_answered(rest: Rest, ann: OpenAI, file: str) -> None:
    job = ann.fine_tuning.jobs.create(model=MODEL, training_file=file).id
    with (
        httpx.Client(limits=httpx.Limits(max_connections=200), headers=rest.headers("ann"), timeout=60) as client,
        ThreadPoolExecutor(200) as threads,
    ):
        together = threading.Barrier(200)

        def poll() -> int:
            together.wait(60)
            return client.get(f"{rest.url}/v1/fine_tuning/jobs/{job}").status_code

        polls = [threads.submit(poll) for _ in range(200)]
        assert {poll.result() for poll in polls} == {200}


def test_a_full_queue_asks_for_the_wait_that_grpc_has_for_it(start_api: Start, redis_url: str, tmp_path: Path) -> None:
    settings = RestSettings(api=start_api(redis_url, quota_queued=1).address, files_url=str(tmp_path / "files"))
    with serving(settings) as url, openai_client(url) as client:
        file = client.files.create(file=("chats.jsonl", lines(4)), purpose="fine-tune").id
        client.fine_tuning.jobs.create(model=MODEL, training_file=file)
        with pytest.raises(openai.RateLimitError, match="as many jobs in the queue as the quota allows: 1") as caught:
            client.fine_tuning.jobs.create(model=MODEL, training_file=file)
    assert caught.value.response.headers["retry-after"] == "60"
    assert error_of(caught.value.response)["code"] == "quota_reached"


def test_an_api_that_is_away_is_said_with_503(tmp_path: Path) -> None:
    settings = RestSettings(api=f"127.0.0.1:{free_port()}", files_url=str(tmp_path / "files"))
    with serving(settings) as url, openai_client(url) as client, pytest.raises(openai.InternalServerError) as caught:
        client.fine_tuning.jobs.list()
    assert caught.value.status_code == 503
    assert "No Turnloom server answers at" in caught.value.message
    assert caught.value.response.headers["retry-after"] == "2"
    assert error_of(caught.value.response)["code"] == "server_unreachable"
