"""Prove that a TuFT server can train, and how fast, by making an adapter and dropping it again.

Its health check says ok before a model is loaded, without any GPU, and with no model at its path.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from services.store.records import ServedModelRecord
from services.trainer.backend import Adapter
from services.trainer.tuft import TuftSettings, connect
from services.trainer.tuft_http import TuftHttp

RANK: Final = 32  #: LoRA rank that is tried, the default of a job
SECONDS: Final = 25.0  #: for all models together; the whole diagnosis has 50
SILENCE: Final = 5.0  #: seconds that the server's health check may stay without an answer
SETTLING: Final = 10.0  #: seconds that a server may still say "starting" after it has made an adapter
PAUSE: Final = 0.1  #: seconds between two looks


def make_adapters(server: TuftHttp) -> dict[str, float]:
    """Make an adapter on every model and drop it.

    Returns:
        Seconds that each took, by the server's name of the model.

    Raises:
        BackendError: of any code, at the first model that can't be trained.
    """
    until = time.monotonic() + SECONDS
    return {model.name: _made(server, model.name, max(1.0, until - time.monotonic())) for model in server.models()}


def _made(server: TuftHttp, model: str, seconds: float) -> float:
    began = time.monotonic()
    adapter = Adapter(model=model, rank=RANK, train_mlp=True, train_attn=True, train_unembed=True)
    backend = connect(TuftSettings(server.url, server.api_key, seconds, seconds, SILENCE), adapter)
    try:
        return time.monotonic() - began
    finally:
        backend.close()
        server.unload(backend.run_id)


def ready_model(
    http: TuftHttp, name: str, interrupted: Callable[[], None] = lambda: None, settling: float = SETTLING
) -> ServedModelRecord:
    """Read the server's status of a model on which an adapter was just made, which makes the status final.

    Returns:
        The model, its `accelerated` never None: one that stays undecided is trained as by stock TuFT, which is safe.

    Raises:
        BackendError: the server does not answer.
    """
    until = time.monotonic() + settling
    while True:
        served = next((model for model in http.models() if model.name == name), ServedModelRecord(name))
        if served.accelerated is not None:
            return served
        if time.monotonic() > until:
            reason = f"undecided {settling:g} s after an adapter was made: {served.not_accelerated}"
            return replace(served, accelerated=False, not_accelerated=reason)
        interrupted()
        time.sleep(PAUSE)


def accelerated_event(served: ServedModelRecord) -> tuple[str, str, str]:
    """Return level, type and sentence of the event that tells how an attempt is trained."""
    if served.accelerated:
        return (
            "info",
            "ACCELERATED",
            f"The server trains {served.name} accelerated and packs rows: calls count real tokens, "
            f"up to {served.max_tokens_per_pass} a pass.",
        )
    return (
        "info",
        "NOT_ACCELERATED",
        f"The server trains {served.name} by stock TuFT, not accelerated: {served.not_accelerated.rstrip('.')}.",
    )
