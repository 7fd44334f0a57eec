"""services/sampler beside the real TuFT on the CPU: replies of what that trained, refusals, limits."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.trainer.backend import Sampling
from services.trainer.errors import BackendError, CheckpointLost, Code
from services.trainer.sampler import Sampler
from tests.contract.driving import DEADLINE, client_of, datum, step
from tests.contract.test_server import save, unload
from turnloom.embedded.processes import Child
from turnloom.embedded.sampler import start_sampler
from turnloom.embedded.tuft_server import TuftServer

pytestmark = pytest.mark.tuft
GREEDY = Sampling(max_tokens=5, temperature=0.0, top_p=1.0, seed=None, stop=(2,))  # the end token of the tiny model
PROMPT, REPLY = [40, 41, 42], [90, 91, 92, 93, 2]
STEPS = 40
SAMPLER = Path(__file__).resolve().parents[2] / "services/sampler/__main__.py"


@pytest.fixture(scope="module")
def started(
    real_tuft: TuftServer, tuft_python: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Child, Sampler]]:
    log = tmp_path_factory.mktemp("sampler") / "sampler.log"
    child, url = start_sampler(tuft_python, tiny_model_dir, real_tuft.model_name, real_tuft, log)
    yield child, Sampler(url, real_tuft.api_key)
    child.stop(10.0)


@pytest.fixture(scope="module")
def sampler(started: tuple[Child, Sampler]) -> Sampler:
    return started[1]


@pytest.fixture(scope="module")
def states(real_tuft: TuftServer) -> tuple[str, str]:
    """An untrained adapter, and one that knows one reply; their run is released on the server."""
    client = client_of(real_tuft)
    before = save(client, "before")
    row = datum([*PROMPT, *REPLY], [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    for _ in range(STEPS):
        step(client, [row])
    after = client.save_weights_for_sampler("after").result(DEADLINE).path
    unload(real_tuft, client.model_id)
    return before, after


def test_the_adapter_says_what_it_was_trained_to_say_and_the_base_model_does_not(
    sampler: Sampler, states: tuple[str, str]
) -> None:
    before, after = states
    untrained, trained = (sampler.draw(path, PROMPT, GREEDY, DEADLINE) for path in (before, after))
    assert (trained.token_ids, trained.finish_reason) == (tuple(REPLY), "stop")
    base = sampler.draw("", PROMPT, GREEDY, DEADLINE)
    assert base.token_ids == untrained.token_ids != trained.token_ids  # a fresh adapter changes nothing
    assert sampler.draw(after, PROMPT, GREEDY, DEADLINE) == trained
    assert sampler.draw("", PROMPT, GREEDY, DEADLINE) == base


def test_a_seed_draws_the_same_reply_and_max_tokens_ends_one(sampler: Sampler, states: tuple[str, str]) -> None:
    drawn = Sampling(max_tokens=12, temperature=5.0, top_p=1.0, seed=7, stop=())
    first, again = (sampler.draw(states[0], PROMPT, drawn, DEADLINE) for _ in range(2))
    assert first == again
    assert (len(first.token_ids), first.finish_reason) == (12, "length")
    free = Sampling(max_tokens=12, temperature=5.0, top_p=1.0, seed=None, stop=())
    assert len({sampler.draw(states[0], PROMPT, free, DEADLINE).token_ids for _ in range(3)}) > 1


def test_only_the_stops_of_a_request_end_its_reply(sampler: Sampler, states: tuple[str, str]) -> None:
    endless = replace(GREEDY, max_tokens=8, stop=())  # the reply that was learned ends with the model's own end token
    drawn = sampler.draw(states[1], PROMPT, endless, DEADLINE)
    assert drawn.token_ids[: len(REPLY)] == tuple(REPLY)
    assert (len(drawn.token_ids), drawn.finish_reason) == (8, "length")


def test_it_says_which_model_it_has(sampler: Sampler, real_tuft: TuftServer) -> None:
    assert sampler.model() == real_tuft.model_name
    assert Sampler("http://127.0.0.1:9", "tml-x").model() == ""


def test_a_port_that_is_taken_and_a_folder_without_a_model_are_one_sentence(
    tuft_python: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for folder, sentence in (
            (tiny_model_dir, f"--port: can't listen on 127.0.0.1:{port} ("),
            (tmp_path, f"--model: {tmp_path} holds no config.json; "),
        ):
            words = ("--model", folder, "--model-name", "m", "--checkpoints", tmp_path, "--port", f"{port}")
            ran = subprocess.run(
                [tuft_python, SAMPLER, *words],
                env={**os.environ, "TURNLOOM_TUFT_API_KEY": "tml-x"},
                capture_output=True, text=True, timeout=DEADLINE, check=False,
            )  # fmt: skip
            assert ran.returncode == 1
            assert ran.stderr.splitlines()[-1].startswith(sentence)
            assert "Traceback" not in ran.stderr


def refused(sampler: Sampler, path: str, prompt: list[int], how: Sampling, seconds: float = DEADLINE) -> BackendError:
    with pytest.raises(BackendError) as caught:
        sampler.draw(path, prompt, how, seconds)
    return caught.value


def test_what_can_not_be_answered_is_refused_with_its_reason(sampler: Sampler, states: tuple[str, str]) -> None:
    gone = states[0].replace("before", "nowhere")
    with pytest.raises(CheckpointLost, match=f"the sampler has no files of {gone}"):
        sampler.draw(gone, PROMPT, GREEDY, DEADLINE)
    outside = refused(sampler, "tinker://run/weights/../../etc", PROMPT, GREEDY)
    assert (outside.code, outside.sentence) == (
        Code.BAD_REQUEST,
        "the sampler: this is no path of a TuFT checkpoint",
    )
    assert "token ids from 0 to" in refused(sampler, "", [10_000_000], GREEDY).sentence
    assert "exceed the model's 1024" in refused(sampler, "", [7] * 1024, GREEDY).sentence
    wrong = refused(Sampler(sampler.url, "tml-wrong"), "", PROMPT, GREEDY)
    assert (wrong.code, wrong.sentence) == (Code.KEY_REJECTED, "the sampler: the sampler's key is another one")


def test_a_reply_that_takes_too_long_ends_with_its_deadline(sampler: Sampler) -> None:
    long = Sampling(max_tokens=1000, temperature=0.0, top_p=1.0, seed=None, stop=())
    began = time.monotonic()
    error = refused(sampler, "", PROMPT, long, seconds=0.5)
    assert error.code in (Code.UNKNOWN, Code.SERVER_UNREACHABLE)  # its own sentence, or silence at the deadline
    assert time.monotonic() - began < 10.0
    sampler.draw("", PROMPT, GREEDY, DEADLINE)  # and the next one is answered


def test_a_caller_who_has_to_leave_does_not_wait(sampler: Sampler) -> None:
    class Leaving(Exception):
        pass

    def leave() -> None:
        raise Leaving

    long = Sampling(max_tokens=1000, temperature=0.0, top_p=1.0, seed=None, stop=())
    with pytest.raises(Leaving):
        sampler.draw("", PROMPT, long, 5.0, leave)


def test_its_memory_is_bounded_and_it_gives_way_to_training(started: tuple[Child, Sampler]) -> None:
    child, _ = started
    limits = Path(f"/proc/{child.pid}/limits").read_text()
    (data,) = [line for line in limits.splitlines() if line.startswith("Max data size")]
    assert int(data.split()[3]) == 2048 << 20
    assert os.getpriority(os.PRIO_PROCESS, child.pid) > os.getpriority(os.PRIO_PROCESS, 0)
