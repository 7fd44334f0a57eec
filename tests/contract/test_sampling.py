"""Sampling as services/trainer/tuft.py asks for it; a server that trains only, fake or real, refuses it at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.trainer.backend import Sampling
from services.trainer.errors import BackendError, CheckpointLost, Code
from services.trainer.tuft import TuftSettings, sample
from services.trainer.tuft_http import TuftHttp
from tests.contract.driving import ADAM, DEADLINE, Server, client_of, rows, step
from tests.contract.test_server import save, unload
from tests.fakes.fake_tuft import FakeTuft

GREEDY = Sampling(max_tokens=8, temperature=0.0, top_p=1.0, seed=None, stop=(3,))
PROMPT = [5, 6, 7]
AT_ONCE = 50.0  #: seconds; the SDK's own patience would be 300


def settings(server: Server, **changes: object) -> TuftSettings:
    fields = {"url": server.url, "api_key": server.api_key, "call_deadline": DEADLINE, **changes}
    return TuftSettings(**fields)  # type: ignore[arg-type]


def refused(server: Server, path: str) -> BackendError:
    with pytest.raises(BackendError) as caught:
        sample(settings(server), path, [(PROMPT, GREEDY)])
    return caught.value


def test_a_server_that_trains_only_refuses_to_sample_at_once_and_says_which_model(server: Server) -> None:
    state = save(client_of(server), "state")
    began = time.monotonic()
    error = refused(server, state)
    assert time.monotonic() - began < AT_ONCE
    assert (error.code, error.retryable) == (Code.CAPABILITY_DISABLED, False)
    assert f"model {server.model_name} does not have the 'sampling' capability" in error.sentence


def test_a_server_lists_whether_it_samples(server: Server) -> None:
    (served,) = TuftHttp(server.url, server.api_key).models()
    assert (served.name, served.samples) == (server.model_name, False)


def test_files_are_looked_for_first_and_need_no_run_on_the_server(server: Server) -> None:
    client = client_of(server)
    state, adapter = save(client, "kept"), client.save_weights_for_sampler("served").result(DEADLINE).path
    unload(server, client.model_id)
    assert refused(server, state).code is Code.CAPABILITY_DISABLED
    assert refused(server, adapter).code is Code.CAPABILITY_DISABLED
    with pytest.raises(CheckpointLost, match=r"the server has no files of tinker://.*/weights/nowhere"):
        sample(settings(server), state.replace("kept", "nowhere"), [(PROMPT, GREEDY)])


def test_a_wrong_key_is_refused_at_once(server: Server) -> None:
    state = save(client_of(server), "state")
    with pytest.raises(BackendError, match="Invalid API key") as caught:
        sample(settings(server, api_key="tml-wrong"), state, [(PROMPT, GREEDY)])
    assert caught.value.code is Code.KEY_REJECTED


@pytest.fixture
def sampling_tuft(tmp_path: Path) -> Iterator[FakeTuft]:
    """Real TuFT samples on a GPU only: with vLLM."""
    with FakeTuft(tmp_path / "tuft", samples=True) as fake:
        yield fake


def test_a_server_that_samples_gives_the_saved_adapters_tokens(sampling_tuft: FakeTuft) -> None:
    assert TuftHttp(sampling_tuft.url, sampling_tuft.api_key).models()[0].samples is True
    client, data = client_of(sampling_tuft), rows(8)
    before = save(client, "before")
    for _ in range(30):
        step(client, data, adam=ADAM.model_copy(update={"learning_rate": 0.3}))
    after = save(client, "after")
    greedy = [sample(settings(sampling_tuft), path, [(PROMPT, GREEDY)])[0] for path in (before, after, after)]
    assert greedy[0] != greedy[1] == greedy[2]
    assert len(greedy[1].token_ids) == 8 or greedy[1].token_ids[-1] == 3
    assert greedy[1].finish_reason == ("stop" if greedy[1].token_ids[-1] == 3 else "length")


def test_a_stop_token_ends_a_reply_and_is_its_last_token(sampling_tuft: FakeTuft) -> None:
    state = save(client_of(sampling_tuft), "state")
    (whole,) = sample(settings(sampling_tuft), state, [(PROMPT, GREEDY)])
    stop = whole.token_ids[2]
    ended = Sampling(max_tokens=8, temperature=0.0, top_p=1.0, seed=None, stop=(stop,))
    (found,) = sample(settings(sampling_tuft), state, [(PROMPT, ended)])
    assert (found.token_ids, found.finish_reason) == (whole.token_ids[: whole.token_ids.index(stop) + 1], "stop")


def test_a_server_that_answers_500_or_nothing_is_given_up_at_the_deadline(sampling_tuft: FakeTuft) -> None:
    state = save(client_of(sampling_tuft), "state")
    for kind, fault in (("create_sampling_session", "http_500"), ("asample", "http_429"), ("asample", "dropped")):
        sampling_tuft.fault(kind, fault)
        began = time.monotonic()
        with pytest.raises(BackendError) as caught:
            sample(settings(sampling_tuft, call_deadline=3.0), state, [(PROMPT, GREEDY)])
        assert time.monotonic() - began < AT_ONCE
        assert caught.value.code in (Code.SERVER_UNREACHABLE, Code.UNKNOWN)
        sampling_tuft.clear_faults()


def test_a_prompt_that_the_server_can_not_take_is_its_error_at_once(sampling_tuft: FakeTuft) -> None:
    state = save(client_of(sampling_tuft), "state")
    with pytest.raises(BackendError, match="longer than the maximum model length of 1024"):
        sample(settings(sampling_tuft), state, [([7] * 1025, GREEDY)])
