"""A hub on loopback that takes models: repositories, uploads by LFS and commits, as the real one's HTTP has them."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


class UploadHub:
    """Keeps what is committed in `repositories`; a context manager, `url` is what HF_ENDPOINT takes."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.stored: dict[str, bytes] = {}  #: by sha256, hex
        self.status = 0  #: of every answer; 0: as it should be
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> UploadHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[UploadHub]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        if self.hub.status:
            self._json(self.hub.status, {"error": "The hub is closed"})
        elif not path.startswith("/verify") and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
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
        if name not in self.hub.repositories:
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
        self.hub.stored[oid] = data
        self._json(200, {})

    def _create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        known = name in self.hub.repositories
        self.hub.repositories.setdefault(name, {})
        self.hub.private.setdefault(name, bool(asked.get("private")) or asked.get("visibility") == "private")
        answer = {"url": f"{self.hub.url}/{name}", "name": name, "id": "1"}
        self._json(409, {**answer, "error": "You already created this model repo"}) if known else self._json(
            200, answer
        )

    def _batch(self, asked: dict) -> dict:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {
                    "upload": {"href": f"{self.hub.url}/lfs/{one['oid']}"},
                    "verify": {"href": f"{self.hub.url}/verify/{one['oid']}"},
                },
            }
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                self.hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile", line
                self.hub.repositories[name][value["path"]] = self.hub.stored[value["oid"]]
        url = f"{self.hub.url}/{name}/commit/{COMMIT}"
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
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
