"""An outage is logged when it begins, once a minute, and when it is over."""

from __future__ import annotations

import logging
import socket

import pytest

from services.outages import OutageLog
from services.store.queueing import ticket_jobs


def test_an_outage_is_logged_rarely_and_with_its_length(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    outage = OutageLog(logging.getLogger("outages"), "the cellar is dark", lambda: now)
    outage.went_through()
    for second in range(150):
        now = float(second)
        outage.failed("no lamp")
    outage.went_through()
    outage.went_through()
    outage.failed("no oil")
    assert caplog.messages == [
        "the cellar is dark (no lamp); trying again",
        "the cellar is dark for 60 s now (no lamp); trying again",
        "the cellar is dark for 120 s now (no lamp); trying again",
        "the cellar is dark: that is over, after 149 s",
        "the cellar is dark (no oil); trying again",
    ]


def test_a_worker_without_redis_does_not_fill_its_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticket_jobs, "OUTAGE", OutageLog(ticket_jobs.LOG, "Redis can't be used"))
    monkeypatch.setattr(ticket_jobs, "_leave_on_signals", lambda: None)
    with socket.socket() as deaf:  # bound, and nobody listens
        deaf.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{deaf.getsockname()[1]}/0"
        for _ in range(3):
            assert not ticket_jobs._worked(url, make=pytest.fail, burst=False, log_level="WARNING")
    (said,) = caplog.messages
    assert said.startswith("Redis can't be used (")


def test_rqs_own_line_on_each_try_of_an_idle_worker_is_news_of_the_outage(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticket_jobs, "OUTAGE", OutageLog(ticket_jobs.LOG, "Redis can't be used"))
    line = "Worker %s: could not connect to Redis instance: %s retrying in %d seconds..."
    rq = logging.getLogger("rq.worker")
    rq.addFilter(ticket_jobs._is_news)
    try:
        for _ in range(3):
            rq.error(line, "gpu-a.1", "refused", 1)
        rq.error("Worker %s: something else", "gpu-a.1")
    finally:
        rq.removeFilter(ticket_jobs._is_news)
    assert caplog.messages == ["Redis can't be used (refused); trying again", "Worker gpu-a.1: something else"]
