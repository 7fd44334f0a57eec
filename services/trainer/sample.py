"""Sample a reply from a job's adapter, as a ticket on its host's queue: token ids in, token ids out.

`run` is what tickets name. It runs in a horse, writes no token into any log, and never works for a caller who has left.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.store.connection import connect, redis_time
from services.trainer.backend import Sampled, Sampling
from services.trainer.errors import BackendError, CheckpointLost, Code
from services.trainer.host import preemption
from services.trainer.sampler import Sampler
from services.trainer.settings import Settings, from_environment
from services.trainer.tuft import TuftSettings, sample
from turnloom.plural import counted

log = logging.getLogger(__name__)

LEAST: Final = 2.0  #: seconds that must be left to begin at all
MARGIN: Final = 1.0  #: seconds before the caller's deadline in which the answer travels
#: A list of numbers in a server's words may be a prompt that it quotes.
NUMBERS: Final = re.compile(r"\[\s*\d+(?:\s*,\s*\d+){2,}[^\]]*\]?")
#: What to do where the code's own hint is about training.
HINTS: Final = {
    Code.SERVER_RESTARTED: "Ask again.",
    Code.SEQUENCE_CONFLICT: "Ask again.",
    Code.OUT_OF_MEMORY: "Ask for fewer tokens, or when less runs on the server.",
}

Answer: TypeAlias = "Mapping[str, str | Sequence[int]]"


class TooLate(Exception):
    """The caller's deadline is over, or the worker has to leave before it."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """The request that a ticket carries."""

    path: str  #: TuFT's path of the checkpoint; empty: the base model answers
    model: str  #: TuFT's name of the base model
    prompt: Sequence[int]  #: token ids
    how: Sampling
    until: float  #: seconds since 1970 by the clock of Redis, after which nobody waits any more


def run(
    *,
    path: str,
    model: str,
    prompt: Sequence[int],
    stop: Sequence[int],
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    until: float,
) -> Answer:
    """Sample a reply. The ticket's arguments are the fields of SampleRequest and Sampling.

    Returns:
        token_ids and finish_reason; else code, message and hint of what went wrong.
    """
    settings = from_environment(os.environ)
    request = SampleRequest(path, model, prompt, Sampling(max_tokens, temperature, top_p, seed, tuple(stop)), until)
    try:
        answer = _sampled(request, settings)
    except TooLate as error:
        answer = _failed("TOO_LATE", str(error))
    except CheckpointLost as error:
        answer = _failed(error.code, str(error))
    except BackendError as error:
        answer = _failed(error.code, error.sentence, HINTS.get(error.code, error.hint))
    log.info("a sample from %s: %s", path or model, answer.get("code") or counted(len(answer["token_ids"]), "token"))
    return answer


def _sampled(request: SampleRequest, settings: Settings) -> Answer:
    with connect(settings.redis_url, socket_timeout=5.0) as redis:
        left = request.until - redis_time(redis)
    if left < LEAST:
        raise TooLate("the worker came to this sample when nobody waited for it any more")
    (found,) = draw(
        settings, request.path, request.model, [(request.prompt, request.how)], left - MARGIN, _leave_if_asked
    )
    return {"token_ids": list(found.token_ids), "finish_reason": found.finish_reason}


def draw(
    settings: Settings,
    path: str,
    model: str,
    prompts: Sequence[tuple[Sequence[int], Sampling]],
    seconds: float,
    interrupted: Callable[[], None],
) -> list[Sampled]:
    """Draw replies where this host samples: at its own sampler if it has one, else at its TuFT server.

    Args:
        settings: of this host.
        path: TuFT's path of a saved state or adapter; empty: the base model answers.
        model: TuFT's name of the base model.
        prompts: token ids, and how the reply to them is drawn.
        seconds: for all of this.
        interrupted: called during the wait; raises to end it.

    Raises:
        CheckpointLost: its files are gone.
        BackendError: CAPABILITY_DISABLED where nothing on this host samples, or any other code.
    """
    if settings.sampler_url:
        sampler = Sampler(settings.sampler_url, settings.tuft_api_key)
        until = time.monotonic() + seconds
        return [sampler.draw(path, prompt, how, until - time.monotonic(), interrupted) for prompt, how in prompts]
    server = TuftSettings(
        url=settings.tuft_url,
        api_key=settings.tuft_api_key,
        call_deadline=seconds,
        silence=min(settings.silence, seconds),
    )
    return sample(server, path, prompts, interrupted, base_model=model)


def _leave_if_asked() -> None:
    if preemption.wanted.is_set():
        raise TooLate("the worker has to leave before the sample is done")


def _failed(code: str, message: str, hint: str = "") -> Answer:
    return {"code": str(code), "message": NUMBERS.sub("[...]", message), "hint": hint}
