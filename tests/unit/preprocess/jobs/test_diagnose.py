"""What the proof that TuFT can train says when it can't be made. The rest of diagnose.py runs in test_doctor."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest

from services.store.connection import StoreRedis
from services.store.records import JobState, ServedModelRecord
from services.trainer.errors import BackendError, Code, backend_error
from services.trainer.host import diagnose
from services.trainer.settings import Settings
from services.trainer.tuft_http import TuftHttp

SERVER = TuftHttp("http://127.0.0.1:1", "tml-x")
MODEL = partial(ServedModelRecord, "m")
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


@pytest.mark.parametrize(
    ("served", "allow_cpu", "expected"),
    [
        ((MODEL(accelerated=True, max_tokens_per_pass=32768),), False,
         ("ok", "m is accelerated, up to 32768 tokens a pass")),
        ((MODEL(accelerated=False, not_accelerated="the self-test failed"),), False,
         ("warning", "stock TuFT trains m: the self-test failed")),
        ((MODEL(accelerated=False, not_accelerated="there is no CUDA GPU"),), True,
         ("skipped", "stock TuFT trains m: there is no CUDA GPU")),
        ((MODEL(accelerated=None, not_accelerated="it is still loading"),), False,
         ("skipped", "m: it is still loading")),
    ],
)  # fmt: skip
def test_the_doctor_says_whether_a_model_is_accelerated_and_why_not(
    served: tuple[ServedModelRecord, ...], allow_cpu: bool, expected: tuple[str, str]
) -> None:
    server = cast(TuftHttp, SimpleNamespace(models=lambda: served))
    found = diagnose._acceleration(server, cast(Settings, SimpleNamespace(allow_cpu=allow_cpu)))
    assert found[:2] == expected
    assert bool(found[2]) == (found[0] == "warning")
