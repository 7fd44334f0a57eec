"""A hub on loopback: as much of its protocol as reading one public dataset of Parquet or JSONL files takes."""
# ruff: noqa: N802  # http.server names the methods

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from tests.support.loopback import Handler, Loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(Loopback):
    """Serves `files` (path to bytes) as the dataset `name`; a context manager, `url` is what HF_ENDPOINT takes."""

    def __init__(self, name: str, files: Mapping[str, bytes]) -> None:
        self.name, self.files = name, dict(files)
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.held: set[str] = set()  #: files whose bytes come after `released`
        self.released = threading.Event()
        super().__init__(_Handler)

    def __exit__(self, *error: object) -> None:
        self.released.set()
        super().__exit__(*error)


class _Handler(Handler):
    owner: ClassVar[Hub]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._answer(body)

    def _answer(self, body: bytes = b"") -> None:
        hub, path = self.owner, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        hub.tokens.add(self.headers.get("Authorization") or "")
        api, resolve = f"/api/datasets/{hub.name}", f"/datasets/{hub.name}/resolve/"
        if path.startswith(resolve):
            revision, _, name = path.removeprefix(resolve).partition("/")
            known = revision in (COMMIT, "main") and name in hub.files
            if name in hub.held and self.command == "GET":
                hub.released.wait(120)
            return self._file(hub.files[name]) if known else self._missing("EntryNotFound")
        if path != api and not path.startswith(f"{api}/"):
            return self._missing("RepoNotFound")
        rest = path.removeprefix(api).strip("/").split("/")
        if len(rest) > 1 and rest[1] not in (COMMIT, "main"):
            return self._missing("RevisionNotFound")
        if rest[0] in ("", "revision"):
            siblings = [{"rfilename": name} for name in hub.files]
            return self._json({"id": hub.name, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings})
        if rest[0] == "tree":
            folder = "/".join(rest[2:])
            return self._json(
                [_entry(n, d) for n, d in hub.files.items() if n.startswith(folder)] + _folders(hub, folder)
            )
        if rest[0] == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else []
            found = [_entry(name, hub.files[name]) for name in asked if name in hub.files]
            return self._json(found + [f for name in asked for f in _folders(hub, "") if f["path"] == name])
        return self._missing("EntryNotFound")

    def _file(self, data: bytes) -> None:
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = wanted.partition("-")
        start, stop = (int(first or 0), min(int(last or len(data)), len(data) - 1) + 1) if wanted else (0, len(data))
        part = data[start:stop]
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self._end(part)

    def _json(self, document: object) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self._end(json.dumps(document).encode())

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self._end(b"{}")

    def _end(self, data: bytes) -> None:
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _entry(name: str, data: bytes) -> dict[str, object]:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


def _folders(hub: Hub, below: str) -> list[dict[str, object]]:
    names = sorted({name.rpartition("/")[0] for name in hub.files} - {"", below})
    return [{"type": "directory", "path": name, "oid": "0" * 40} for name in names if name.startswith(below)]
