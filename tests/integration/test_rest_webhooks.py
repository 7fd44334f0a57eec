"""Webhooks of jobs: allowed hosts, signatures that OpenAI's client accepts, repetitions, and notes that survive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from services.rest.file_store import FileStore
from services.rest.gateway import Gateway
from services.rest.notices import Notices
from services.rest.notifier import BACKOFF_SECONDS, Notifier
from services.rest.settings import RestSettings
from services.store.records import JobState
from services.store.store import Store
from tests.support.api_calls import MODEL, Api, Start
from tests.support.receiver import Receiver
from tests.support.rest_fixtures import PEOPLE, tokens_of
from tests.support.rest_server import get, lines, openai_client, serving, valid

pytestmark = pytest.mark.usefixtures("gpu_host")
NOBODY = "localhost:1"  #: a port that nothing listens on


@dataclass
class Hooked:
    """A service whose webhooks may go to a receiver, and its notifier."""

    url: str
    client: OpenAI  #: Ann's
    notifier: Notifier
    notices: Notices
    store: Store
    receiver: Receiver
    file: str
    api: Api
    tokens: dict[str, str]

    def create(self, webhook: str) -> str:
        extra = {"turnloom": {"webhook": webhook}}
        return self.client.fine_tuning.jobs.create(model=MODEL, training_file=self.file, extra_body=extra).id

    def end(self, job: str, state: JobState = JobState.SUCCEEDED, attempt: int = 1) -> None:
        self.store.tickets.drop(self.store.jobs.get(job))
        assert self.store.jobs.claim(job, attempt, "w") is not None
        self.store.jobs.finish(job, attempt, state)

    def due(self) -> list[tuple[str, int]]:
        """Jobs with a note, and how many attempts failed."""
        return [(notice.job, notice.attempts) for notice in self.notices.all()]

    def now(self) -> None:
        """Every note is due at once."""
        for notice in list(self.notices.all()):
            self.notices.put(replace(notice, due=0.0))


@pytest.fixture
def hooked(start_api: Start, redis_url: str, store: Store, tmp_path: Path) -> Iterator[Hooked]:
    tokens = tokens_of(tmp_path / "tokens.json")
    api = start_api(redis_url, tokens=tmp_path / "tokens.json")
    with Receiver() as receiver:
        settings = RestSettings(
            api=api.address,
            files_url=str(tmp_path / "files"),
            webhook_hosts=(receiver.host, NOBODY, "localhost"),
            webhook_secret="s",
            wandb=tmp_path / "wandb",
            notify_token=tokens["rita"],
        )
        gateway, notices = Gateway(api.address, None), Notices(FileStore(settings.files_url))
        notifier = Notifier(settings, gateway.of(tokens["rita"]), notices)
        with serving(settings) as url, openai_client(url, tokens["ann"]) as client:
            file = client.files.create(file=("a.jsonl", lines(3)), purpose="fine-tune").id
            yield Hooked(url, client, notifier, notices, store, receiver, file, api, tokens)
        gateway.close()


def secret(hooked: Hooked, name: str) -> str:
    headers = {"Authorization": f"Bearer {hooked.tokens[name]}"}
    return get(f"{hooked.url}/v1/turnloom/webhook_secret", headers=headers).json()["secret"]


def test_the_end_of_a_job_is_told_once_and_openais_client_believes_it(hooked: Hooked) -> None:
    job = hooked.create(hooked.receiver.url)
    shown = valid(hooked.client.fine_tuning.jobs.retrieve(job))
    assert (shown.turnloom["webhook"], shown.metadata) == (hooked.receiver.url, {})
    hooked.notifier.round()
    assert hooked.receiver.came == []
    hooked.end(job)
    for _ in range(3):
        hooked.notifier.round()
    ((headers, body),) = hooked.receiver.came
    event = hooked.client.webhooks.unwrap(body, headers, secret=secret(hooked, "ann"))
    assert (event.type, event.data.id) == ("fine_tuning.job.succeeded", job)
    assert event.id == headers["webhook-id"]
    assert hooked.due() == []
    with pytest.raises(openai.InvalidWebhookSignatureError):
        hooked.client.webhooks.unwrap(body, headers, secret=secret(hooked, "bob"))


def test_a_receiver_that_fails_is_told_again_with_the_same_id_and_given_up_at_last(hooked: Hooked) -> None:
    job = hooked.create(hooked.receiver.url)
    hooked.end(job, JobState.FAILED)
    hooked.receiver.answers[:] = [500, 302, 404]
    before = time.time()
    hooked.notifier.round()
    (notice,) = hooked.notices.all()
    assert notice.attempts == 1
    assert notice.due >= before + BACKOFF_SECONDS[0]
    hooked.notifier.round()  # it is not due yet
    assert len(hooked.receiver.came) == 1
    for _ in range(len(BACKOFF_SECONDS) + 3):
        hooked.now()
        hooked.notifier.round()
    assert len(hooked.receiver.came) == len(BACKOFF_SECONDS) + 1
    assert len({headers["webhook-id"] for headers, _ in hooked.receiver.came}) == 1
    assert hooked.due() == []
    assert "fine_tuning.job.failed" in hooked.receiver.came[-1][1]


def test_a_receiver_that_is_away_or_gone_does_not_hold_up_others(hooked: Hooked) -> None:
    lost = hooked.create(f"http://{NOBODY}/x")
    heard = hooked.create(hooked.receiver.url)
    hooked.end(lost)
    hooked.end(heard)
    hooked.notifier.round()
    assert [headers["webhook-id"][:4] for headers, _ in hooked.receiver.came] == ["evt_"]
    assert hooked.due() == [(lost, 1)]
    hooked.receiver.answers[:] = [410]
    unwanted = hooked.create(hooked.receiver.url)
    hooked.end(unwanted)
    hooked.notifier.round()
    assert hooked.due() == [(lost, 1)]


def test_a_job_that_is_resumed_is_told_of_again(hooked: Hooked) -> None:
    job = hooked.create(hooked.receiver.url)
    hooked.client.fine_tuning.jobs.cancel(job)
    hooked.notifier.round()
    hooked.client.fine_tuning.jobs.resume(job)
    hooked.notifier.round()
    hooked.end(job)
    hooked.notifier.round()
    kinds = [body.split('"type": "')[1].split('"')[0] for _, body in hooked.receiver.came]
    assert kinds == ["fine_tuning.job.cancelled", "fine_tuning.job.succeeded"]
    assert len({headers["webhook-id"] for headers, _ in hooked.receiver.came}) == 2


def test_a_lost_note_is_found_and_that_of_a_deleted_job_is_dropped(hooked: Hooked) -> None:
    job = hooked.create(hooked.receiver.url)
    hooked.notices.remove(job)
    hooked.notifier.find()
    assert hooked.due() == [(job, 0)]
    hooked.client.fine_tuning.jobs.cancel(job)
    hooked.store.jobs.delete(job)
    hooked.notifier.round()
    assert (hooked.due(), hooked.receiver.came) == ([], [])


@pytest.mark.parametrize(
    ("webhook", "sentence"),
    [
        ("http://127.0.0.1:1/x", "'127.0.0.1:1' is not an allowed host"),
        ("http://localhost:99999/x", "has a port that can't be one"),
        ("http://user@localhost/x", "without a user"),
        ("ftp://localhost/x", "can't be used; send an http or https URL"),
        ("http://localhost.example/x", "'localhost.example' is not an allowed host"),
        ("http://localhost/" + "x" * 300, "of 256 bytes at most"),
    ],
)
def test_a_webhook_that_nobody_allowed_is_refused(hooked: Hooked, webhook: str, sentence: str) -> None:
    with pytest.raises(openai.BadRequestError, match="webhook: ") as caught:
        hooked.create(webhook)
    assert sentence in caught.value.message
    assert (caught.value.param, hooked.due()) == ("turnloom.webhook", [])


def test_a_job_is_mirrored_to_weights_and_biases_when_it_has_ended(
    hooked: Hooked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"}.items():
        monkeypatch.setenv(name, text)
    create = hooked.client.fine_tuning.jobs.create
    chosen = {"project": "chat", "name": "first", "tags": ["a", "b"]}
    hooked.receiver.answers[:] = [500]
    job = create(
        model=MODEL,
        training_file=hooked.file,
        integrations=[{"type": "wandb", "wandb": chosen}],
        extra_body={"turnloom": {"webhook": hooked.receiver.url}},
    ).id
    hooked.end(job)
    hooked.notifier.round()
    assert hooked.due() == [(job, 1)]  # for the webhook, which does not hold the mirror up
    (run,) = (tmp_path / "wandb" / "wandb").glob(f"offline-run-*-{job}")
    (record,) = run.glob("*.wandb")
    for text in (b"chat", b"first", b"lora_rank"):
        assert text in record.read_bytes()


def test_webhooks_and_mirrors_are_off_until_they_are_set(hooked: Hooked, tmp_path: Path) -> None:
    settings = RestSettings(api=hooked.api.address, files_url=str(tmp_path / "files"))
    assert set(PEOPLE) == set(hooked.tokens)
    with serving(settings) as url, openai_client(url, hooked.tokens["ann"]) as client:
        create = client.fine_tuning.jobs.create
        with pytest.raises(openai.BadRequestError, match="webhooks are off"):
            create(model=MODEL, training_file=hooked.file, extra_body={"turnloom": {"webhook": hooked.receiver.url}})
        with pytest.raises(openai.BadRequestError, match="integrations: nothing is mirrored here"):
            create(model=MODEL, training_file=hooked.file, integrations=[{"type": "wandb", "wandb": {"project": "p"}}])
        headers = {"Authorization": f"Bearer {hooked.tokens['ann']}"}
        assert get(f"{url}/v1/turnloom/webhook_secret", headers=headers).status_code == 404
