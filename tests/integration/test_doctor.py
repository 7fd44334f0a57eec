"""`turnloom doctor` over a whole stack with the fake TuFT, and each thing that it is there to find."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.preprocess.api.auth.bearer_tokens import create
from services.preprocess.domain.caller import Scope
from services.preprocess.jobs import diagnosis
from services.store.queueing.workers import count as workers_of
from services.trainer.tuft_http import TuftHttp
from tests.fakes.hub import Hub
from tests.support.api_calls import MODEL, NO_REDIS, Start
from tests.support.cli_runs import Ran, turnloom
from tests.support.rq_workers import sign_in
from tests.support.source_runs import Workers
from tests.support.trainer_stack import HOST, TrainerStack, wait_for
from turnloom.cli import doctor


@pytest.fixture
def workers(
    stack: TrainerStack, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Workers]:
    """Preprocess workers of the stack, none of them started; the API waits for them as long as for hosts."""
    monkeypatch.setattr(diagnosis, "WORKER_DEADLINE", diagnosis.HOST_DEADLINE)
    models = tmp_path / "models.toml"
    models.write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{model_folder}"\n')
    made = Workers(
        {
            "TURNLOOM_REDIS_URL": stack.redis.url,
            "TURNLOOM_STORE_URL": str(tmp_path / "store"),
            "TURNLOOM_MODELS": str(models),
            "TURNLOOM_MODEL_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN": "hf_secret",
            "HF_HUB_OFFLINE": "0",
        }
    )
    yield made
    made.end()


def found(ran: Ran) -> dict[str, dict[str, str]]:
    """Findings by name; the last of a name wins."""
    return {finding["name"]: finding for finding in ran.document}


def up(stack: TrainerStack) -> None:
    """Worker and supervisor at work."""
    stack.supervisor()
    stack.worker()
    wait_for(lambda: any(host.backend_up and host.workers for host in stack.store.hosts.list()), "the host's record")
    wait_for(lambda: bool(stack.store.redis.exists("tl:run:supervisor")), "the supervisor's lease")


def test_a_sound_stack_passes_every_check_and_the_proof_leaves_no_adapter(
    start_api: Start, stack: TrainerStack, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in doctor.PROXIES:
        monkeypatch.delenv(name, raising=False)
    address = start_api(stack.redis.url).address
    with Hub("org/data", {}) as hub:
        workers.start(HF_ENDPOINT=hub.url)
        up(stack)
        wait_for(lambda: workers_of(stack.store.redis, ["preprocess"]) == [1], "the preprocess worker")
        ran = turnloom(address, "doctor", "--json")
        assert ran.code == 0, ran.out
        outcomes = {name: finding["outcome"] for name, finding in found(ran).items()}
        assert outcomes == {
            **dict.fromkeys(("client", "proxies", "token", "server", "models", "host"), "ok"),
            **dict.fromkeys(("models_loaded", "redis_role", "redis_policy", "redis_aof", "redis_clock"), "ok"),
            "store_writable": "ok",
            **dict.fromkeys(
                ("supervisor", "host_heartbeat", "host_identity", "preprocess_worker", "worker_models", "hub"), "ok"
            ),
            **dict.fromkeys(("sdk_version", "api_key", "proxy", "tuft_reachable", "tuft_ready", "store"), "ok"),
            **dict.fromkeys(("checkpoint_dir", "clock", "adapters"), "ok"),
            "gpu": "warning",  # it was started with --allow-cpu
            "acceleration": "skipped",  # a stock TuFT, and no GPU
        }
        said = found(ran)
        assert said["hub"]["message"] == f"{hub.url} (HF_ENDPOINT) answers; HF_TOKEN is set."
        assert said["tuft_ready"]["message"].startswith("an adapter of rank 32 was made and dropped on tuft/small in ")
        assert said["acceleration"]["message"] == (
            "stock TuFT trains tuft/small: TuFT was not started through services.tuft"
        )
        assert said["store"]["message"] == "the object store is the one of the API; it writes, reads, lists and deletes"
        assert "hf_secret" not in ran.out
        assert TuftHttp(stack.tuft.url, stack.tuft.api_key).training_runs() == ()
        assert not list((tmp_path / "store").glob(".*"))


def test_a_host_with_another_store_another_key_and_a_dead_server_is_told_so(
    start_api: Start, stack: TrainerStack, tmp_path: Path
) -> None:
    address = start_api(stack.redis.url).address
    (tmp_path / "other").mkdir()
    stack.environment = {"TURNLOOM_STORE_URL": str(tmp_path / "other"), "TINKER_API_KEY": "tml-another"}
    up(stack)
    sign_in(stack.store, "preprocess", fresh_for=0)  # one that was killed
    ran = turnloom(address, "doctor", "--json")
    assert ran.code == 1
    said = found(ran)
    assert (said["store"]["outcome"], said["store"]["host"]) == ("failed", HOST)
    assert "same TURNLOOM_STORE_URL" in said["store"]["hint"]
    assert said["api_key"]["outcome"] == "warning"
    assert "TINKER_API_KEY is set to another key" in said["api_key"]["message"]
    assert "tml-another" not in ran.out
    assert said["preprocess_worker"]["outcome"] == "warning"
    stack.tuft.kill()
    said = found(turnloom(address, "doctor", "--json"))
    for name in ("tuft_reachable", "tuft_ready"):
        assert said[name]["outcome"] == "failed"
        assert "TURNLOOM_TUFT_URL" in said[name]["hint"]


def test_a_worker_with_other_models_and_no_hub_is_told_so(
    start_api: Start, stack: TrainerStack, workers: Workers, tmp_path: Path
) -> None:
    address = start_api(stack.redis.url).address
    (tmp_path / "models.toml").write_text(f'[[models]]\nname = "other"\nsource = "{tmp_path}"\n')
    workers.start(HF_ENDPOINT="http://127.0.0.1:1")
    wait_for(lambda: workers_of(stack.store.redis, ["preprocess"]) == [1], "the preprocess worker")
    said = found(turnloom(address, "doctor", "--json"))
    assert said["worker_models"]["outcome"] == "failed"
    assert said["worker_models"]["message"] == f"The preprocess worker lacks {MODEL}."
    assert said["hub"]["outcome"] == "warning"
    assert said["hub"]["message"].startswith("http://127.0.0.1:1 (HF_ENDPOINT) can't be reached: Connection refused.")
    assert "HF_ENDPOINT" in said["hub"]["hint"]
    assert said["supervisor"]["outcome"] == "failed"
    assert "services.trainer supervisor" in said["supervisor"]["hint"]


def test_without_a_server_the_way_to_it_is_looked_at_step_by_step() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port, and it refuses
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        began = time.monotonic()
        ran = turnloom(f"127.0.0.1:{port}", "doctor", "--json")
    assert time.monotonic() - began < 30
    assert ran.code == 3
    assert [(one["name"], one["outcome"]) for one in ran.document if one["name"] != "proxies"] == [
        ("client", "ok"),
        ("address", "ok"),
        ("name", "ok"),
        ("port", "failed"),
        ("server", "failed"),
    ]
    said = found(ran)
    assert said["address"]["message"].endswith("It comes from TURNLOOM_ADDRESS.")
    assert "turnloom up" in said["port"]["hint"]
    assert "port" in turnloom(f"127.0.0.1:{port}", "doctor").out  # the table is printed too


def test_a_token_that_is_missing_or_wrong_ends_the_look_with_what_to_do(start_api: Start, tmp_path: Path) -> None:
    create(tmp_path / "tokens.json", "ann", frozenset({Scope("read")}))
    address = start_api(NO_REDIS, tokens=tmp_path / "tokens.json").address
    for words, sent in (((), "No token was sent: "), (("--token", "wrong"), "A token was sent: ")):
        ran = turnloom(address, "doctor", "--json", *words)
        assert ran.code == 1
        last = ran.document[-1]
        assert (last["name"], last["outcome"]) == ("token", "failed")
        assert last["message"].startswith(sent)
        assert last["hint"]


def test_a_server_of_another_version_is_a_warning_that_names_both() -> None:
    finding = doctor._versions("9.9.9", "0.1.0", "answers")
    assert finding.outcome == "warning"
    assert finding.message == "turnloom 0.1.0 answers."
    assert finding.hint == "This client is 9.9.9; install the same version on both sides."
