"""TuFT training server behind its SDK. Only this module and connection/ of the trainer import tinker.

The SDK waits for minutes silently, retries some answers without limit, and is left in conflict by some failures. So
every wait has a deadline and ends at once when the server's process does (connection/tripwire.py). After any failure
the client is thrown away. Requests that the server would accept and train wrongly are refused before they are sent
(connection/sdk_data.py).
"""

from __future__ import annotations

import importlib.metadata
import os
import time
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import tinker
from tinker import types
from tinker.lib.retry_handler import RetryConfig

from services.trainer.backend import Adam, Adapter, Logprobs, Sampled, Sampling
from services.trainer.batches.rows import Row
from services.trainer.batches.weighting import Weights
from services.trainer.connection.sdk_data import datums, logprobs_of
from services.trainer.connection.sdk_http import SdkHttp
from services.trainer.connection.tripwire import Tripwire
from services.trainer.errors import BackendError, CheckpointLost, Code, backend_error, classify
from services.trainer.in_thread import in_thread
from turnloom.plural import counted

SDK_VERSION = "0.25.0"  #: the only one that TuFT 0.2.2 trains with
GLANCE = 0.25  #: seconds between looks at the tripwire while waiting

Answer = TypeVar("Answer")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class TuftSettings:
    """Where the server is and how long its calls may take."""

    url: str  #: without /api/v1
    api_key: str  #: starts with tml-
    call_deadline: float = 600.0  #: seconds for one operation, the ones before it in the queue included
    create_deadline: float = 300.0  #: seconds to make a client; the server answers before its model is loaded
    silence: float = 30.0  #: seconds that the health check may stay without an answer
    vocabulary: int | None = None  #: tokens of the model, to refuse ids that it does not have; None: unknown
    max_model_len: int | None = None  #: tokens of a row at most; the server does not enforce its own limit
    even: bool = True  #: the rows of a call are filled up to one length here; needless where the server packs


def check_sdk(version: str | None = None) -> None:
    """Refuse an SDK that would fail later with a worse error.

    Raises:
        BackendError: SDK_MISMATCH.
    """
    found = importlib.metadata.version("tinker") if version is None else version
    if found != SDK_VERSION:
        raise backend_error(
            Code.SDK_MISMATCH, f"tinker {found} is installed, TuFT 0.2.2 trains with {SDK_VERSION} only"
        )


def check_key(api_key: str) -> None:
    """Refuse a key that the SDK would refuse.

    Raises:
        BackendError: KEY_REJECTED; the key is not in its text.
    """
    if not api_key.startswith("tml-"):
        raise backend_error(Code.KEY_REJECTED, "the TuFT key can't be used; give one that starts with tml-")


def connect(settings: TuftSettings, adapter: Adapter, interrupted: Callable[[], None] = lambda: None) -> TuftBackend:
    """Make a client with a fresh adapter.

    Args:
        settings: the server.
        adapter: what to train.
        interrupted: called during every wait; raises to end it.

    Raises:
        BackendError: of any code; the server holds nothing that is ours then, except after a timeout.
    """
    doing = f"making a client for {adapter.model} at {settings.url}"
    wire = _watched(settings, doing)
    patience = _Patience(wire, settings.create_deadline, interrupted)
    opened: list[tinker.ServiceClient] = []
    made = in_thread(lambda: _create(settings, adapter, opened), "tuft-create")
    try:
        patience.wait(made, doing)
    except Exception:
        _close(wire, opened)
        raise
    try:
        client = made.result()
    except Exception as error:
        _close(wire, opened)
        raise classify(error, doing) from error
    return TuftBackend(client, settings, wire, _Patience(wire, settings.call_deadline, interrupted))


def _create(settings: TuftSettings, adapter: Adapter, opened: list[tinker.ServiceClient]) -> tinker.TrainingClient:
    service = _open(settings, opened)
    return service.create_lora_training_client(
        base_model=adapter.model,
        rank=adapter.rank,
        train_mlp=adapter.train_mlp,
        train_attn=adapter.train_attn,
        train_unembed=adapter.train_unembed,
    )


def sample(
    settings: TuftSettings,
    path: str,
    prompts: Sequence[tuple[Sequence[int], Sampling]],
    interrupted: Callable[[], None] = lambda: None,
    *,
    base_model: str = "",
) -> list[Sampled]:
    """Sample replies with a saved adapter, in one session; an unloaded run samples as well, from its files.

    Args:
        settings: the server; call_deadline is for all of this.
        path: of the saved state or adapter, as the server gave it; empty: base_model answers.
        prompts: token ids, and how the reply to them is drawn.
        interrupted: called during the wait; raises to end it.
        base_model: the server's name of the model that answers without an adapter.

    Raises:
        CheckpointLost: the server has no files of it.
        BackendError: CAPABILITY_DISABLED where the server trains only, which it says at once; or any other code.
    """
    doing = f"sampling with {path or base_model} at {settings.url}"
    wire = _watched(settings, doing)
    opened: list[tinker.ServiceClient] = []
    answered = in_thread(lambda: _sampled(settings, path, base_model, prompts, opened), "tuft-sample")
    try:
        _Patience(wire, settings.call_deadline, interrupted).wait(answered, doing)
        try:
            return answered.result()
        except (BackendError, CheckpointLost):
            raise
        except Exception as error:
            raise classify(error, doing) from error
    finally:
        _close(wire, opened)


def _sampled(
    settings: TuftSettings,
    path: str,
    base_model: str,
    prompts: Sequence[tuple[Sequence[int], Sampling]],
    opened: list[tinker.ServiceClient],
) -> list[Sampled]:
    service = _open(settings, opened)
    try:
        client = service.create_sampling_client(
            model_path=path or None,
            base_model=None if path else base_model,
            retry_config=RetryConfig(enable_retry_logic=False),
        )
    except tinker.NotFoundError as error:
        raise CheckpointLost(f"the server has no files of {path}") from error
    asked = [client.sample(types.ModelInput.from_ints(list(prompt)), 1, _params(how)) for prompt, how in prompts]
    found = [one.result().sequences[0] for one in asked]
    return [Sampled(tuple(sequence.tokens), sequence.stop_reason) for sequence in found]


def _params(how: Sampling) -> types.SamplingParams:
    return types.SamplingParams(
        max_tokens=how.max_tokens,
        temperature=how.temperature,
        top_p=how.top_p,
        seed=how.seed,
        stop=list(how.stop) or None,
    )


def _open(settings: TuftSettings, opened: list[tinker.ServiceClient]) -> tinker.ServiceClient:
    """Open a service with a session, and add it to `opened` for whoever has to close it."""
    service = tinker.ServiceClient(base_url=settings.url, api_key=settings.api_key, http_client=SdkHttp())
    assert service.holder is not None  # asking for it opens a session, whose 404 is not the checkpoint's
    opened.append(service)
    return service


def _close(wire: Tripwire, opened: list[tinker.ServiceClient]) -> None:
    """End the watch and the heartbeats of every session, without waiting."""
    wire.close()
    for service in opened:
        service.holder.close()  # type: ignore[no-untyped-call]


def _watched(settings: TuftSettings, doing: str) -> Tripwire:
    """Prepare the process for the SDK, and start to watch the server's process.

    Raises:
        BackendError: SDK_MISMATCH, KEY_REJECTED, SERVER_UNREACHABLE.
    """
    check_sdk()
    check_key(settings.api_key)
    os.environ["TINKER_TELEMETRY"] = "0"  # on fatal errors it posts the API key in clear text
    os.environ.setdefault("TOKIO_WORKER_THREADS", "1")  # else the SDK's transport has a thread a core
    _without_proxy(urllib.parse.urlsplit(settings.url).hostname or "")
    try:
        return Tripwire(settings.url, settings.silence)
    except OSError as error:
        raise backend_error(Code.SERVER_UNREACHABLE, f"{doing}: {error}") from None


def _without_proxy(host: str) -> None:
    """Exclude the server from HTTP_PROXY, which the SDK honours even for 127.0.0.1."""
    for name in ("NO_PROXY", "no_proxy"):
        known = [entry for entry in os.environ.get(name, "").split(",") if entry]
        if host not in known:
            os.environ[name] = ",".join([*known, host])


@dataclass(frozen=True, slots=True)
class _Patience:
    """The limit of a wait, and what ends it early."""

    wire: Tripwire
    deadline: float  #: seconds
    interrupted: Callable[[], None]

    def wait(self, future: Future[Value], doing: str) -> None:
        """Wait until `future` is done; raise BackendError when waiting longer is pointless."""
        begun = time.monotonic()
        while not wait([future], timeout=GLANCE).done:
            self.interrupted()
            if self.wire.fallen is not None:
                code = Code.SERVER_UNREACHABLE if "answer" in self.wire.fallen else Code.SERVER_RESTARTED
                raise backend_error(code, f"{doing}: {self.wire.fallen}")
            if time.monotonic() - begun > self.deadline:
                raise backend_error(
                    Code.SERVER_UNREACHABLE, f"{doing}: no answer in {self.deadline:g} s, though the server is up"
                )


@dataclass(frozen=True, slots=True)
class TuftPending(Generic[Answer, Value]):
    """One operation under way at the server."""

    future: Future[Answer]
    convert: Callable[[Answer], Value]
    patience: _Patience
    doing: str

    def result(self) -> Value:
        """Wait for the answer. Raises BackendError, and what `interrupted` raises during the wait."""
        self.patience.wait(self.future, self.doing)
        try:
            return self.convert(self.future.result())
        except BackendError:
            raise
        except Exception as error:
            raise classify(error, self.doing) from error


class TuftBackend:
    """A Backend (backend.py) on one TuFT run."""

    def __init__(
        self, client: tinker.TrainingClient, settings: TuftSettings, wire: Tripwire, patience: _Patience
    ) -> None:
        self._client = client
        self._settings = settings
        self.even = settings.even  #: may change: whether the server packs is known once the client is made
        self._wire = wire
        self._patience = patience

    @property
    def run_id(self) -> str:
        """Return TuFT's training run, which is also the folder of its checkpoints."""
        return str(self._client.model_id)

    def forward_backward(
        self, rows: Sequence[Row], weights: Sequence[Weights]
    ) -> TuftPending[types.ForwardBackwardOutput, Sequence[Logprobs]]:
        """Add gradients; give logprobs row by row."""
        data = self._data(rows, weights)
        doing = f"forward_backward of {counted(len(rows), 'row')}"
        return self._pending(
            lambda: self._client.forward_backward(data, "cross_entropy"), logprobs_of(rows, data), doing
        )

    def forward(self, rows: Sequence[Row]) -> TuftPending[types.ForwardBackwardOutput, Sequence[Logprobs]]:
        """Compute logprobs row by row."""
        data = self._data(rows, [row.target_weights for row in rows])
        doing = f"forward of {counted(len(rows), 'row')}"
        return self._pending(lambda: self._client.forward(data, "cross_entropy"), logprobs_of(rows, data), doing)

    def optim_step(self, adam: Adam) -> TuftPending[types.OptimStepResponse, None]:
        """Apply the gradients."""
        params = types.AdamParams(
            learning_rate=adam.learning_rate,
            beta1=adam.beta1,
            beta2=adam.beta2,
            eps=adam.epsilon,
            weight_decay=adam.weight_decay,
            grad_clip_norm=adam.grad_clip_norm,
        )
        return self._pending(lambda: self._client.optim_step(params), _nothing, "optim_step")

    def save_state(self, name: str) -> TuftPending[types.SaveWeightsResponse, str]:
        """Save weights and optimizer."""
        return self._pending(lambda: self._client.save_state(_safe(name)), _path, f"save_state {name}")

    def save_adapter(self, name: str) -> TuftPending[types.SaveWeightsForSamplerResponse, str]:
        """Save the weights in PEFT's format."""
        doing = f"save_weights_for_sampler {name}"
        return self._pending(lambda: self._client.save_weights_for_sampler(_safe(name)), _path, doing)

    def load(self, path: str, *, optimizer: bool) -> TuftPending[types.LoadWeightsResponse, None]:
        """Load a saved state."""
        load = self._client.load_state_with_optimizer if optimizer else self._client.load_state
        return self._pending(lambda: load(path), _nothing, f"loading {path}")

    def check_alive(self) -> None:
        """Raise SERVER_RESTARTED if the server's process is not the one that this client was made on."""
        if not self._wire.stands():
            raise backend_error(Code.SERVER_RESTARTED, f"{self._settings.url}: {self._wire.fallen}")

    def close(self) -> None:
        """Stop the watch and the SDK's heartbeats, which would go on, and complain, until the process ends.

        Nothing is waited for: the SDK's thread dies with the process.
        """
        self._wire.close()
        self._client.holder.close()  # type: ignore[no-untyped-call]

    def _pending(
        self, submit: Callable[[], tinker.APIFuture[Answer]], convert: Callable[[Answer], Value], doing: str
    ) -> TuftPending[Answer, Value]:
        try:
            future = submit()
        except Exception as error:
            raise classify(error, doing) from error
        return TuftPending(_concurrent(future), convert, self._patience, doing)

    def _data(self, rows: Sequence[Row], weights: Sequence[Weights]) -> list[types.Datum]:
        limits = self._settings
        return datums(rows, weights, even=self.even, max_model_len=limits.max_model_len, vocabulary=limits.vocabulary)


def _safe(name: str) -> str:
    """Return the name if it is plain words: TuFT writes where a name says, even outside its folder."""
    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise backend_error(Code.BAD_REQUEST, f"{name!r} can't name a checkpoint; use letters, digits, - and _")
    return name


def _path(answer: types.SaveWeightsResponse | types.SaveWeightsForSamplerResponse) -> str:
    return str(answer.path)


def _nothing(_answer: object) -> None:
    return None


def _concurrent(future: tinker.APIFuture[Answer]) -> Future[Answer]:
    """Return the standard future inside the SDK's own: only it allows repeated waits with a time limit."""
    return cast("Future[Answer]", future.future())  # type: ignore[attr-defined]
