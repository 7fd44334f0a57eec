"""Load adapters into a running vLLM and unload them, through its dynamic LoRA endpoints.

vLLM must run with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True. It reads the adapter's folder itself, so
the folder must be visible to its process.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from turnloom import errors

LOOK_SECONDS: Final = 30.0  #: deadline of a question
LOAD_SECONDS: Final = 300.0  #: deadline of loading an adapter
MOST_SAID: Final = 300  #: characters of vLLM's own words in an error
SETTINGS: Final = "Start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."


@dataclass(frozen=True, slots=True)
class Served:
    """A model that vLLM serves."""

    name: str
    root: str  #: folder of an adapter; name or folder of a base model
    parent: str  #: base model of an adapter; empty: it is a base model itself


class Vllm:
    """One vLLM server."""

    def __init__(self, url: str, key: str = "") -> None:
        """Connect with the first call, not here.

        Args:
            url: where it listens, with or without /v1.
            key: its --api-key; empty: none.

        Raises:
            InvalidInput: the URL is not one of http.
        """
        self.url = url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise errors.InvalidInput(f"{url} is not the URL of a vLLM server.", hint="Write http://HOST:PORT.")
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def models(self) -> list[Served]:
        """Return the base models and the loaded adapters."""
        found = json.loads(self._call("/v1/models", None, LOOK_SECONDS))["data"]
        return [Served(one["id"], one.get("root") or "", one.get("parent") or "") for one in found]

    def load(self, name: str, folder: str) -> None:
        """Load an adapter under a name, replacing one that has this name already.

        Args:
            name: what requests to vLLM call the model.
            folder: the adapter's, as vLLM's process sees it.

        Raises:
            Refused: vLLM can't load it.
        """
        known = {one.name: one for one in self.models()}
        if name in known and not known[name].parent:
            raise errors.FailedPrecondition(
                f"{name} is the base model of the vLLM at {self.url}.", hint="Choose another --name."
            )
        body: dict[str, object] = {"lora_name": name, "lora_path": folder}
        if name in known:
            body["load_inplace"] = True
        self._call("/v1/load_lora_adapter", body, LOAD_SECONDS)

    def unload(self, name: str) -> None:
        """Unload an adapter.

        Raises:
            NotFound: none with this name is loaded.
        """
        if not any(one.name == name and one.parent for one in self.models()):
            raise errors.NotFound(f"The vLLM at {self.url} has no adapter {name}.", hint="Look at its /v1/models.")
        self._call("/v1/unload_lora_adapter", {"lora_name": name}, LOAD_SECONDS)

    def _call(self, path: str, body: Mapping[str, object] | None, seconds: float) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self._headers)  # noqa: S310  # http or https, above
        try:
            with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
                said: bytes = answer.read()
                return said
        except urllib.error.HTTPError as error:
            raise self._refused(path, error) from error
        except TimeoutError as error:
            raise errors.DeadlineExceeded(
                f"The vLLM at {self.url} did not answer in {seconds:g} s.", hint="Look at its log."
            ) from error
        except OSError as error:
            raise errors.ServerUnreachable(
                f"No vLLM answers at {self.url}: {errors.why(error)}.", hint="Name it with --vllm or TURNLOOM_VLLM_URL."
            ) from error

    def _refused(self, path: str, error: urllib.error.HTTPError) -> errors.TurnloomError:
        said = _words(error.read())
        if error.code in (401, 403):
            return errors.NotAllowed(f"The vLLM at {self.url} refused the key.", hint="Give --vllm-key its --api-key.")
        if error.code == 404 and "lora" in path and said in ("", "Not Found"):
            return errors.FailedPrecondition(f"The vLLM at {self.url} loads no adapters while it runs.", hint=SETTINGS)
        kind = errors.ServerFault if error.code >= 500 else errors.FailedPrecondition
        return kind(f"The vLLM at {self.url} answered {error.code}: {said or error.reason}", hint="Look at its log.")


def _words(body: bytes) -> str:
    """Return the message of a vLLM error, whatever its version wraps around it."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()[:MOST_SAID]
    if isinstance(found, dict):
        inner = found.get("error", found)
        found = inner.get("message") or inner.get("detail") or "" if isinstance(inner, dict) else inner
    return str(found).strip()[:MOST_SAID]
