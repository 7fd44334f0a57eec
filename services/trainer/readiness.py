"""Whether a TuFT server can train now, proved by an adapter that is made and dropped again. Knows no job.

Its health check says ok before a model is loaded, without any GPU, and with a path that no model is at.
"""

from __future__ import annotations

import time
from typing import Final

from services.trainer.backend import Adapter
from services.trainer.tuft import TuftSettings, connect
from services.trainer.tuft_http import TuftHttp

RANK: Final = 32  #: LoRA rank that is tried, the default of a job
SECONDS: Final = 25.0  #: for all models together; the whole diagnosis has 50
SILENCE: Final = 5.0  #: seconds that the server's health check may stay without an answer


def make_adapters(server: TuftHttp) -> dict[str, float]:
    """Makes an adapter on every model and drops it.

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
