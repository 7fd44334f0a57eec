"""Notices of ended jobs: notes in the file store, one a job, that the notifier works off.

.notices/due/JOB.json      to be told; written when the job is created or resumed, removed when that is done
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import urlsplit

from services.rest import names
from services.rest.file_store import FileStore
from services.rest.problems import Problem, invalid
from turnloom.v1 import training_pb2 as tr

LOG: Final = logging.getLogger("turnloom.notifier")
FOLDER: Final = ".notices/due"  #: no owner of files has this name
PREFIX: Final = "whsec_"  #: of secrets, as Standard Webhooks writes them
MOST_URL: Final = 256  #: bytes, the limit of a label


@dataclass(frozen=True, slots=True)
class Notice:
    """The outstanding notifications of one job."""

    job: str
    webhook: str = ""  #: URL; empty: none
    wandb: str = ""  #: JSON of project, entity, name, tags; empty: none
    attempts: int = 0  #: that failed since the job ended
    due: float = 0.0  #: seconds since 1970 of the next attempt


def notice_of(job: tr.Job) -> Notice:
    """Return the notifications that a job's labels ask for."""
    return Notice(job.id, job.metadata.get(names.WEBHOOK, ""), job.metadata.get(names.WANDB, ""))


class Notices:
    """The notes."""

    def __init__(self, store: FileStore) -> None:
        self._store = store

    def put(self, notice: Notice) -> None:
        """Write or replace a note."""
        self._store.write_small(f"{FOLDER}/{notice.job}.json", json.dumps(asdict(notice)))

    def all(self) -> Iterator[Notice]:
        """Yield every note."""
        for name in self._store.small_files(FOLDER):
            text = self._store.read_small(f"{FOLDER}/{name}")
            if not (name.endswith(".json") and text):
                continue
            try:
                notice = Notice(**json.loads(text))
            except (ValueError, TypeError) as error:  # else no other job would be told of either
                LOG.warning("the note %s can't be read and is left out: %s", name, error)
                continue
            yield notice

    def remove(self, job: str) -> None:
        """Forget a note."""
        self._store.remove_small(f"{FOLDER}/{job}.json")


def check_webhook(url: str, hosts: Sequence[str], ready: bool) -> None:
    """Refuse a webhook that is not allowed.

    Args:
        url: as the request has it.
        hosts: allowed HOST or HOST:PORT; a host alone stands for the port of its scheme.
        ready: whether there is a secret to sign with.

    Raises:
        Problem: webhooks are off, or not for this URL.
    """
    place = "turnloom.webhook"
    if not hosts or not ready:
        raise invalid(place, "webhooks are off; their operator sets TURNLOOM_REST_WEBHOOK_HOSTS and _SECRET.")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or len(url.encode()) > MOST_URL:
        raise invalid(place, f"can't be used; send an http or https URL without a user, of {MOST_URL} bytes at most.")
    try:
        port = parts.port
    except ValueError:
        raise invalid(place, "has a port that can't be one; send 1 to 65535.") from None
    named = parts.hostname if port is None else f"{parts.hostname}:{port}"
    if named not in hosts:
        raise invalid(place, f"{named!r} is not an allowed host; TURNLOOM_REST_WEBHOOK_HOSTS lists those that are.")


def secret_of(secret: str, owner: str) -> str:
    """Return the secret that signs an owner's notifications, so that no owner can sign for another."""
    key = hmac.digest(secret.encode(), f"turnloom webhook\0{owner}".encode(), "sha256")
    return PREFIX + base64.b64encode(key).decode()


def signature(secret: str, identity: str, timestamp: int, body: bytes) -> str:
    """Return the header webhook-signature of Standard Webhooks for a body."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{identity}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def event_id(job: str, finished: float) -> str:
    """Return the id of a job's end: the same at every repetition, another when the job ends again."""
    return f"evt_{hashlib.sha256(f'{job} {finished}'.encode()).hexdigest()[:24]}"


def no_secret() -> Problem:
    """Return the answer where webhooks are off."""
    return Problem(404, "Webhooks are off; TURNLOOM_REST_WEBHOOK_SECRET is not set.", code="not_found")
