"""Ask the sampler beside a TuFT server that trains only (services/sampler), over plain HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from typing import Final

from services.trainer.backend import Sampled, Sampling
from services.trainer.errors import BackendError, CheckpointLost, Code, backend_error
from services.trainer.in_thread import in_thread

GLANCE: Final = 0.25  #: seconds between looks at whether the caller has to leave
HEALTH_SECONDS: Final = 2.0
DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))  #: no proxy variable applies
HINT: Final = "Check that services/sampler runs on this host and that TURNLOOM_SAMPLER_URL is right; see its log."


@dataclass(frozen=True, slots=True)
class Sampler:
    """One sampler and the key for it, which is the TuFT server's."""

    url: str  #: without a slash at the end
    key: str

    def model(self) -> str:
        """Return TuFT's name of the model that it samples; empty: it does not answer."""
        try:
            with DIRECT.open(f"{self.url}/health", timeout=HEALTH_SECONDS) as answer:
                return str(json.loads(answer.read())["model"])
        except (OSError, ValueError, KeyError):
            return ""

    def draw(
        self,
        path: str,
        prompt: Sequence[int],
        how: Sampling,
        seconds: float,
        interrupted: Callable[[], None] = lambda: None,
    ) -> Sampled:
        """Draw a reply.

        Args:
            path: TuFT's path of the saved state or adapter; empty: the base model answers.
            prompt: token ids.
            how: the reply is drawn.
            seconds: for all of this.
            interrupted: called during the wait; raises to end it.

        Raises:
            CheckpointLost: its files are gone.
            BackendError: of any other code.
        """
        asked = in_thread(lambda: self._answer(path, prompt, how, seconds), "sampler")
        while True:
            try:
                return asked.result(GLANCE)
            except NotYet:
                interrupted()

    def _answer(self, path: str, prompt: Sequence[int], how: Sampling, seconds: float) -> Sampled:
        body = {
            "adapter": path,
            "prompt": list(prompt),
            "stop": list(how.stop),
            "max_tokens": how.max_tokens,
            "temperature": how.temperature,
            "top_p": how.top_p,
            "seed": how.seed,
            "seconds": seconds,
        }
        request = urllib.request.Request(  # noqa: S310  (the scheme is checked where settings are read)
            f"{self.url}/reply",
            data=json.dumps(body).encode(),
            headers={"X-API-Key": self.key, "Content-Type": "application/json"},
        )
        try:
            with DIRECT.open(request, timeout=seconds) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise _refusal(error, path) from None
        except OSError as error:
            raise backend_error(Code.SERVER_UNREACHABLE, f"the sampler at {self.url}: {error}", hint=HINT) from None
        return Sampled(tuple(found["token_ids"]), str(found["finish_reason"]))


def _refusal(error: urllib.error.HTTPError, path: str) -> BackendError | CheckpointLost:
    """Return the sampler's refusal as an exception."""
    try:
        body = json.loads(error.read(1000))
        code, message = str(body["code"]), str(body["message"])
    except (OSError, ValueError, KeyError):
        code, message = "", f"HTTP {error.code}"
    if code == CheckpointLost.code:
        return CheckpointLost(f"the sampler has no files of {path}")
    known = Code(code) if code in {one.value for one in Code} else Code.UNKNOWN
    return backend_error(known, f"the sampler: {message}")
