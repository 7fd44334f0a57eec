"""A vLLM on loopback: its models and its dynamic LoRA endpoints, with the answers that vLLM 0.19 gives."""
# ruff: noqa: N802  # http.server names the methods

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from tests.support.loopback import Handler, Loopback


class FakeVllm(Loopback):
    """Serves `base`, and reads the folders of adapters that it is told to load; a context manager."""

    def __init__(self, base: str = "base", key: str = "", dynamic: bool = True) -> None:
        self.base, self.key, self.dynamic = base, key, dynamic
        self.loaded: dict[str, str] = {}  #: name to folder
        self.configs: dict[str, dict] = {}  #: name to what adapter_config.json held
        super().__init__(_Handler)


class _Handler(Handler):
    owner: ClassVar[FakeVllm]

    def do_GET(self) -> None:
        if self._admitted():
            assert self.path == "/v1/models"
            models = [{"id": self.owner.base, "object": "model", "root": self.owner.base, "parent": None}]
            for name, folder in self.owner.loaded.items():
                models.append({"id": name, "object": "model", "root": folder, "parent": self.owner.base})
            self._answer(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._admitted():
            return
        if not self.owner.dynamic:
            self._answer(404, {"detail": "Not Found"})
        elif self.path == "/v1/load_lora_adapter":
            self._load(asked)
        else:
            assert self.path == "/v1/unload_lora_adapter"
            self._unload(asked["lora_name"])

    def _load(self, asked: dict) -> None:
        name, folder = asked["lora_name"], Path(asked["lora_path"])
        if name in self.owner.loaded and not asked.get("load_inplace"):
            sentence = f"The lora adapter '{name}' has already been loaded."
            self._error(400, sentence, "InvalidUserInput")
        elif not (folder / "adapter_model.safetensors").is_file():
            self._error(404, f"Loading lora {name} failed: No adapter found for {folder}", "NotFoundError")
        else:
            self.owner.configs[name] = json.loads((folder / "adapter_config.json").read_text())
            self.owner.loaded[name] = str(folder)
            self._answer(200, f"Success: LoRA adapter '{name}' added successfully.")

    def _unload(self, name: str) -> None:
        if self.owner.loaded.pop(name, None) is None:
            self._error(404, f"The lora adapter '{name}' cannot be found.", "NotFoundError")
        else:
            self._answer(200, f"Success: LoRA adapter '{name}' removed successfully.")

    def _admitted(self) -> bool:
        if self.owner.key and self.headers.get("Authorization") != f"Bearer {self.owner.key}":
            self._answer(401, {"error": "Unauthorized"})
            return False
        return True

    def _error(self, status: int, sentence: str, kind: str) -> None:
        self._answer(status, {"error": {"message": sentence, "type": kind, "param": None, "code": status}})

    def _answer(self, status: int, body: object) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.answer(status, data)
