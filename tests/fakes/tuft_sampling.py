"""TuFT's sampling sessions on the fake: saved adapters that write replies, or the refusal where none is wanted.

Written after TuFT 0.2.2 (sampling_controller.py, backends/sampling_backend.py): a session needs the files of a
checkpoint and no run, and whether the server samples is asked after the files are found. Knows no HTTP.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import numpy as np

from tests.fakes.tuft_model import Adapter
from tests.fakes.tuft_runs import Runs, TuftFailure, server_error
from tests.fakes.tuft_wire import encode_sample

MAX_MODEL_LEN = 1024


class Samplers:
    """The sampling sessions of one server."""

    def __init__(self, runs: Runs, enabled: bool) -> None:
        self._runs = runs
        self._enabled = enabled
        self._sessions: dict[str, Adapter] = {}

    @property
    def capabilities(self) -> list[str]:
        return ["training", "sampling"] if self._enabled else ["training"]

    def create(self, path: str) -> str:
        """A session on a saved adapter, or with no path on the base model; its id."""
        if not path:
            if not self._enabled:
                raise self.disabled()
            session = str(uuid.uuid4())
            self._sessions[session] = Adapter(self._runs.base, 1, seed=0)  # a fresh one changes nothing
            return session
        run, _, name = path.removeprefix("tinker://").split("/")
        folder = self._runs.folder(run, name)
        if not (folder / "metadata.json").exists():
            raise TuftFailure(404, f"Failed to read metadata for checkpoint {name}.")
        if not self._enabled:
            raise self.disabled()
        rank = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["lora_rank"]
        adapter = Adapter(self._runs.base, rank, seed=0)
        adapter.load(folder, optimizer=False)
        session = str(uuid.uuid4())
        self._sessions[session] = adapter
        return session

    def disabled(self) -> TuftFailure:
        return TuftFailure(
            400,
            f"Capability disabled: model {self._runs.model_name} does not have the 'sampling' capability enabled on "
            f"this server (enabled capabilities: {self.capabilities}). Update the model's `capabilities` in "
            "supported_models and restart to enable it.",
        )

    def sample(self, body: dict[str, Any]) -> bytes:
        """One reply: the likeliest token each time at temperature 0, else drawn by the seed."""
        adapter = self._sessions.get(body["sampling_session_id"])
        if adapter is None:
            raise TuftFailure(404, f"Session {body['sampling_session_id']} not found.")
        prompt = [token for chunk in body["prompt"]["chunks"] for token in chunk["tokens"]]
        how = body["sampling_params"]
        if len(prompt) >= MAX_MODEL_LEN:
            raise server_error(
                f"The decoder prompt (length {len(prompt)}) is longer than the maximum model length of {MAX_MODEL_LEN}."
            )
        draws = np.random.default_rng(how.get("seed"))
        tokens: list[int] = []
        while len(tokens) < how["max_tokens"]:
            tokens.append(_next(adapter, (prompt + tokens)[-1], how["temperature"], draws))
            if tokens[-1] in (how.get("stop") or ()):
                return encode_sample(tokens, "stop")
        return encode_sample(tokens, "length")


def _next(adapter: Adapter, token: int, temperature: float, draws: np.random.Generator) -> int:
    logprobs = adapter.after(token)
    if temperature == 0:
        return int(logprobs.argmax())
    weights = np.exp(logprobs / temperature)
    return int(draws.choice(len(weights), p=weights / weights.sum()))
