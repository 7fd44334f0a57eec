"""Plain HTTP to a TuFT server, without the SDK: health, models, unloading, deleting."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from services.store.records import ServedModelRecord
from services.trainer.errors import BackendError, Code, backend_error, classify

#: What a TuFT says for itself that does not know the route of services/tuft.
NOT_OURS: Final = "TuFT was not started through services.tuft"
#: What to look at where an answer is none of TuFT's.
NOT_TUFT: Final = "is TURNLOOM_TUFT_URL that of a TuFT server, or of something in front of it?"
#: Runs that one answer lists.
LISTED: Final = 500
#: Proxy variables never apply: the SDK and this module reach the server directly or not at all.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class TuftHttp:
    """One server and the key for it."""

    url: str  #: without /api/v1 and without a slash at the end
    api_key: str
    timeout: float = 5.0  #: seconds for one request

    def healthy(self) -> bool:
        """Return whether healthz answers, which it does even before models are loaded."""
        try:
            self._call("GET", "healthz")
        except BackendError:
            return False
        return True

    def models(self) -> tuple[ServedModelRecord, ...]:
        """Return the models that the server reports. The largest rank of a model is not in the report."""
        served = self._listed("get_server_capabilities", "supported_models")
        accelerations = self._accelerations()
        return tuple(
            ServedModelRecord(
                name=str(model["model_name"]),
                max_model_len=int(model.get("max_context_length") or 0),
                samples="sampling" in model["capabilities"] if "capabilities" in model else None,
                **_acceleration(accelerations, str(model["model_name"])),
            )
            for model in served
            if model.get("model_name")
        )

    def _accelerations(self) -> dict[str, dict[str, Any]] | str:
        """Return the accelerated server's status of each model, by name; a sentence if it gives none."""
        try:
            answer = self._call("GET", "turnloom/acceleration")
            models = answer["models"] if isinstance(answer, dict) else []
            return {str(model["model_name"]): model for model in models}
        except BackendError as error:
            return NOT_OURS if error.code is Code.SERVER_RESTARTED else error.sentence  # what 404 means elsewhere
        except (KeyError, TypeError) as error:
            return f"its acceleration status could not be read: {type(error).__name__}: {error}"

    def unload(self, run_id: str) -> None:
        """Free a run's adapter. Its checkpoints load no more. A run that the server does not know is fine."""
        self._forgiving("POST", "unload_model", {"model_id": run_id})

    def delete_checkpoint(self, run_id: str, name: str) -> None:
        """Remove a saved state and its files. A missing one is fine."""
        self._forgiving("DELETE", f"training_runs/{urllib.parse.quote(run_id)}/checkpoints/{urllib.parse.quote(name)}")

    def holds(self, run_id: str) -> bool:
        """Return whether the server knows a run; where it lists too many to tell, it does."""
        known = self.training_runs()
        return run_id in known or len(known) >= LISTED

    def training_runs(self) -> tuple[str, ...]:
        """Return the names of the runs that the server holds for this key, at most LISTED."""
        runs = self._listed(f"training_runs?limit={LISTED}", "training_runs")
        return tuple(str(run["training_run_id"]) for run in runs if "training_run_id" in run)

    def _listed(self, path: str, field: str) -> list[dict[str, Any]]:
        """Return the objects in a list of an answer; none where it has no such list."""
        answer = self._call("GET", path)
        found = answer.get(field) if isinstance(answer, dict) else None
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def _forgiving(self, method: str, path: str, body: dict[str, str] | None = None) -> None:
        try:
            self._call(method, path, body)
        except BackendError as error:
            if error.code is not Code.SERVER_RESTARTED:  # what 404 means elsewhere: it is gone already
                raise

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> object:
        request = urllib.request.Request(  # noqa: S310  (the scheme is checked where settings are read)
            f"{self.url}/api/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": self.api_key, "Content-Type": "application/json"},
        )
        doing = f"{method} {self.url}/api/v1/{path}"
        try:
            with DIRECT.open(request, timeout=self.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise classify(
                RuntimeError(f"HTTP {error.code}: {error.read(1000).decode(errors='replace')}"), doing
            ) from None
        except (OSError, http.client.HTTPException) as error:  # the latter: the answer breaks off, or is none of HTTP
            raise backend_error(Code.SERVER_UNREACHABLE, f"{doing}: {str(error) or type(error).__name__}") from None
        try:
            return json.loads(text) if text else None
        except ValueError:
            raise backend_error(Code.SERVER_UNREACHABLE, f"{doing}: the answer is not JSON; {NOT_TUFT}") from None


class _AccelerationFields(TypedDict):
    """The acceleration fields of a ServedModelRecord."""

    accelerated: bool | None
    max_tokens_per_pass: int
    not_accelerated: str


def _acceleration(found: dict[str, dict[str, Any]] | str, model: str) -> _AccelerationFields:
    if isinstance(found, str):  # a failure may pass: undecided
        return {"accelerated": False if found == NOT_OURS else None, "max_tokens_per_pass": 0, "not_accelerated": found}
    status = found.get(model)
    if status is None:
        return {"accelerated": False, "max_tokens_per_pass": 0, "not_accelerated": "its server says nothing of it"}
    if status.get("state") != "ready":
        return {"accelerated": None, "max_tokens_per_pass": 0, "not_accelerated": "the model is still loading"}
    most = int(status.get("max_tokens_per_pass") or 0)
    accelerated = bool(status.get("accelerated")) and most > 0
    reason = "" if accelerated else str(status.get("reason") or "its server gives no reason")
    return {
        "accelerated": accelerated,
        "max_tokens_per_pass": most if accelerated else 0,
        "not_accelerated": reason,
    }
