"""Notify webhooks and Weights & Biases of ended jobs. `python -m services.rest notify`; one process is enough.

A note goes only after it was heard, so a killed notifier tells again. Receivers know a repetition by its webhook-id.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from http.client import HTTPException
from typing import IO, Final

from services.rest.gateway import Turnloom
from services.rest.names import NOTIFY
from services.rest.notices import Notice, Notices, event_id, notice_of, secret_of, signature
from services.rest.problems import Problem
from services.rest.settings import RestSettings
from services.rest.views import STATUS, TERMINAL
from turnloom.errors import TurnloomError
from turnloom.v1 import training_pb2 as tr

LOG = logging.getLogger("turnloom.notifier")
FIND_SECONDS: Final = 60.0  #: between two searches for jobs without a note
LOOK_SECONDS: Final = 2.0  #: between two looks at all notes
ANSWER_SECONDS: Final = 15.0  #: for a receiver to answer
MIRROR_SECONDS: Final = 900.0  #: for W&B to take a run
#: Before each new attempt; after the last one the notice is given up.
BACKOFF_SECONDS: Final = (5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0, 86_400.0)
GONE: Final = 410  #: with this a receiver wants no more
EVENTS: Final = {
    tr.JOB_STATE_SUCCEEDED: "fine_tuning.job.succeeded",
    tr.JOB_STATE_FAILED: "fine_tuning.job.failed",
    tr.JOB_STATE_CANCELLED: "fine_tuning.job.cancelled",
}
#: States that come to an end.
UNFINISHED: Final = [state for state in STATUS if state not in TERMINAL]


class NotHeard(Exception):
    """An attempt failed; the message says how."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: the allowed host may not send us to another."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: object, newurl: str
    ) -> None:
        """Return None, so that no redirect is followed."""


class Notifier:
    """Works off the notes."""

    def __init__(self, settings: RestSettings, turnloom: Turnloom, notices: Notices) -> None:
        """Notify of the jobs that `turnloom` shows, whose token may look at all of them."""
        self._settings, self._turnloom, self._notices = settings, turnloom, notices
        self._opener = urllib.request.build_opener(_NoRedirects)

    def run(self, ended: threading.Event) -> None:
        """Check all notes until `ended`; failed ones are tried again."""
        found, said = float("-inf"), ""
        while not ended.is_set():
            try:
                if time.monotonic() - found > FIND_SECONDS:
                    self.find()
                    found = time.monotonic()
                self.round()
                said = ""
            except (TurnloomError, Problem) as error:
                if str(error) != said:  # once, not every two seconds
                    LOG.warning("notices can't be looked at: %s", error)
                said = str(error)
            ended.wait(LOOK_SECONDS)

    def find(self) -> None:
        """Write the missing notes of unfinished jobs: their creator died before it could."""
        noted = {notice.job for notice in self._notices.all()}
        for job in self._turnloom.jobs({NOTIFY: "1"}, *UNFINISHED):
            if job.id not in noted:
                self._notices.put(notice_of(job))

    def round(self) -> None:
        """Check every note that is due."""
        for notice in self._notices.all():
            if notice.due <= time.time():
                self._look(notice)

    def _look(self, notice: Notice) -> None:
        try:
            job = self._turnloom.job(notice.job)
        except Problem as error:
            if error.status != 404:
                raise
            self._notices.remove(notice.job)  # it was deleted
            return
        if job.state not in TERMINAL:
            return
        left = self._told(notice, job)
        if left is None:
            self._notices.remove(notice.job)
        else:
            self._notices.put(left)

    def _told(self, notice: Notice, job: tr.Job) -> Notice | None:
        """Notify everyone still outstanding; return the remaining notice, None where nothing remains."""
        left, failures = notice, []
        if left.webhook:
            try:
                self._post(left.webhook, job)
                left = replace(left, webhook="")
            except NotHeard as error:  # the other one is told nevertheless
                failures.append(str(error))
        if left.wandb and self._settings.wandb is not None:
            try:
                self._mirror(left.wandb, job)
                left = replace(left, wandb="")
            except NotHeard as error:
                failures.append(str(error))
        if not failures:
            LOG.info("job %s: its end was told", job.id)
            return None
        said = " and ".join(failures)
        if left.attempts >= len(BACKOFF_SECONDS):
            LOG.error("job %s: gave up after %d attempts: %s", job.id, left.attempts + 1, said)
            return None
        wait = BACKOFF_SECONDS[left.attempts]
        LOG.warning("job %s: %s; again in %g s", job.id, said, wait)
        return replace(left, attempts=left.attempts + 1, due=time.time() + wait)

    def _post(self, url: str, job: tr.Job) -> None:
        identity = event_id(job.id, job.finish_time.seconds + job.finish_time.nanos / 1e9)
        event = {
            "id": identity,
            "object": "event",
            "type": EVENTS[job.state],
            "created_at": job.finish_time.seconds,
            "data": {"id": job.id},
        }
        body, now = json.dumps(event).encode(), int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "turnloom-webhooks",
            "webhook-id": identity,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(secret_of(self._settings.webhook_secret, job.owner), identity, now, body),
        }
        request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310  # checked when it was given
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as answer:
                answer.read(1)
        except urllib.error.HTTPError as error:
            if error.code == GONE:
                LOG.info("job %s: its webhook wants no more", job.id)
                return
            raise NotHeard(f"its webhook answered {error.code}") from error
        except (OSError, HTTPException) as error:
            raise NotHeard(f"its webhook could not be reached ({type(error).__name__})") from error

    def _mirror(self, chosen: str, job: tr.Job) -> None:
        """Run `turnloom export --to wandb`: wandb ends its process's other runs, so it gets one of its own."""
        asked = json.loads(chosen)
        variables = {"WANDB_PROJECT": asked["project"], "WANDB_ENTITY": asked.get("entity", "")}
        variables |= {"WANDB_TAGS": ",".join(asked.get("tags", ())), "WANDB_NAME": asked.get("name", "")}
        variables |= {"TURNLOOM_ADDRESS": self._settings.api, "TURNLOOM_TOKEN": self._settings.notify_token}
        variables |= self._tls()
        command = [sys.executable, "-m", "turnloom.cli", "export", job.id, "--to", "wandb"]
        try:
            done = subprocess.run(
                [*command, "--out", str(self._settings.wandb)],
                env={**os.environ, **{name: text for name, text in variables.items() if text}},
                capture_output=True,
                timeout=MIRROR_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise NotHeard(f"Weights & Biases did not take it in {MIRROR_SECONDS:g} s") from error
        if done.returncode != 0:
            raise NotHeard(f"Weights & Biases did not take it (turnloom export ended with {done.returncode})")

    def _tls(self) -> dict[str, str]:
        """Return the variables by which the command line encrypts as this process does."""
        tls = self._settings.api_tls
        if tls is None:
            return {}
        files = {"CA": tls.ca, "CERT": tls.certificate, "KEY": tls.key}
        return {"TURNLOOM_TLS": "1", **{f"TURNLOOM_TLS_{name}": str(path) for name, path in files.items() if path}}
