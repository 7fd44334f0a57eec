"""A hub on loopback that takes models: repositories, uploads by LFS and commits, as the real one's HTTP has them."""
# ruff: noqa: N802  # http.server names the methods

from __future__ import annotations

import base64
import hashlib
import json
from typing import ClassVar
from urllib.parse import urlsplit

from tests.support.loopback import Handler, Loopback

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


class UploadHub(Loopback):
    """Keeps what is committed in `repositories`; a context manager, `url` is what HF_ENDPOINT takes."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.stored: dict[str, bytes] = {}  #: by sha256, hex
        self.status = 0  #: of every answer; 0: as it should be
        super().__init__(_Handler)


class _Handler(Handler):
    owner: ClassVar[UploadHub]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        if self.owner.status:
            self._json(self.owner.status, {"error": "The hub is closed"})
        elif not path.startswith("/verify") and self.headers.get("Authorization") != f"Bearer {self.owner.token}":
            self._json(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json(200, {"errors": [], "warnings": []})
        elif path.startswith("/verify"):
            self._json(200, {})
        else:
            self._of_a_repository(path, body)

    def _of_a_repository(self, path: str, body: bytes) -> None:
        if path.endswith(".git/info/lfs/objects/batch"):
            self._json(200, self._batch(json.loads(body)))
            return
        name, _, verb = path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")
        if name not in self.owner.repositories:
            self._json(404, {"error": "Repository not found"})
        elif verb == "preupload":
            files = json.loads(body)["files"]
            modes = {".safetensors": "lfs"}
            answers = [
                {
                    "path": file["path"],
                    "uploadMode": modes.get(file["path"][file["path"].rfind(".") :], "regular"),
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
            self._json(200, {"files": answers})
        else:
            assert verb == "commit", path
            self._commit(name, [json.loads(line) for line in body.splitlines() if line])

    def do_PUT(self) -> None:
        oid, data = urlsplit(self.path).path.removeprefix("/lfs/"), self._body()
        assert hashlib.sha256(data).hexdigest() == oid
        self.owner.stored[oid] = data
        self._json(200, {})

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        known = name in self.owner.repositories
        self.owner.repositories.setdefault(name, {})
        self.owner.private.setdefault(name, bool(asked.get("private")) or asked.get("visibility") == "private")
        answer = {"url": f"{self.owner.url}/{name}", "name": name, "id": "1"}
        self._json(409, {**answer, "error": "You already created this model repo"}) if known else self._json(
            200, answer
        )

    def _batch(self, asked: dict) -> dict:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {
                    "upload": {"href": f"{self.owner.url}/lfs/{one['oid']}"},
                    "verify": {"href": f"{self.owner.url}/verify/{one['oid']}"},
                },
            }
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.owner.messages.append(value["summary"])
            elif line["key"] == "file":
                self.owner.repositories[name][value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile", line
                self.owner.repositories[name][value["path"]] = self.owner.stored[value["oid"]]
        url = f"{self.owner.url}/{name}/commit/{COMMIT}"
        self._json(200, {"success": True, "commitOid": COMMIT, "commitUrl": url})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, status: int, document: object) -> None:
        self.answer(status, json.dumps(document).encode(), Content_Type="application/json")
