"""What the proof that TuFT can train says when it can't be made. The rest of diagnose.py runs in test_doctor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from services.store.connection import StoreRedis
from services.store.records import JobState
from services.trainer import diagnose
from services.trainer.errors import BackendError, Code, backend_error
from services.trainer.settings import Settings
from services.trainer.tuft_http import TuftHttp

SERVER = TuftHttp("http://127.0.0.1:1", "tml-x")
HERE = cast(Settings, SimpleNamespace(host="gpu-a"))


def ready(monkeypatch: pytest.MonkeyPatch, jobs: list[SimpleNamespace], made: object) -> diagnose.Answer:
    def make(server: TuftHttp) -> object:
        if isinstance(made, Exception):
            raise made
        return made

    monkeypatch.setattr(diagnose, "Jobs", lambda _redis: SimpleNamespace(active=lambda: jobs))
    monkeypatch.setattr(diagnose, "make_adapters", make)
    return diagnose._ready(SERVER, cast(StoreRedis, None), HERE)


def test_no_adapter_is_made_beside_a_job_that_trains_here(monkeypatch: pytest.MonkeyPatch) -> None:
    running = SimpleNamespace(state=JobState.RUNNING, host="gpu-a")
    outcome, message, _ = ready(monkeypatch, [running], AssertionError("it was made"))
    assert (outcome, message) == ("skipped", "a job trains here, so the server does; no adapter was made for a test")


def test_jobs_elsewhere_and_waiting_ones_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [
        SimpleNamespace(state=JobState.RUNNING, host="gpu-b"),
        SimpleNamespace(state=JobState.QUEUED, host="gpu-a"),
    ]
    outcome, message, _ = ready(monkeypatch, jobs, {"m": 0.44})
    assert (outcome, message) == ("ok", "an adapter of rank 32 was made and dropped on m in 0.4 s")


def test_a_rank_that_the_server_has_no_slot_for_is_a_warning_for_others_train(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = backend_error(Code.RANK_NOT_CONFIGURED, "rank 32 has no slot")
    outcome, message, hint = ready(monkeypatch, [], refused)
    assert (outcome, message) == ("warning", "the default lora_rank 32 can't be trained: rank 32 has no slot")
    assert hint == refused.hint


def test_any_other_refusal_fails_with_its_own_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="no such model"):
        ready(monkeypatch, [], backend_error(Code.MODEL_NOT_SERVED, "no such model"))
