"""Whether the server trains a model with the accelerated model of services/tuft, as a job needs to know it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from services.store.records import ServedModelRecord
from services.trainer.tuft_http import TuftHttp

SETTLING: Final = 10.0  #: seconds that a server may still say "starting" after it has made an adapter
PAUSE: Final = 0.1  #: seconds between two looks


def ready_model(
    http: TuftHttp, name: str, interrupted: Callable[[], None] = lambda: None, settling: float = SETTLING
) -> ServedModelRecord:
    """Read what the server says of a model that an adapter was just made on; then that is final.

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
            reason = f"the server did not say within {settling:g} s of making an adapter whether it is accelerated"
            return ServedModelRecord(
                name, served.max_lora_rank, served.max_model_len, served.samples, False, not_accelerated=reason
            )
        interrupted()
        time.sleep(PAUSE)


def accelerated_event(served: ServedModelRecord) -> tuple[str, str, str]:
    """Level, type and sentence of the event that tells how an attempt is trained."""
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
        f"The server trains {served.name} by stock TuFT, several times slower on a GPU: {served.not_accelerated}.",
    )
