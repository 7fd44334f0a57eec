"""Serve the engine over HTTP: GET /health, POST /reply. The body of an error is {"code", "message"}."""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from services.sampler.engine import Engine, Order, Refused

MOST_WAITING: Final = 8  #: requests at once, the one that is answered included
MOST_BYTES: Final = 1 << 20  #: of a request
SILENCE: Final = 10.0  #: seconds that a caller may take to send
MOST_SECONDS: Final = 600.0  #: for one reply
STATUS: Final = {"BAD_REQUEST": 400, "CHECKPOINT_LOST": 404, "OUT_OF_MEMORY": 507, "TOO_LATE": 504, "BUSY": 503}


def make_server(engine: Engine, model: str, key: str, host: str, port: int) -> ThreadingHTTPServer:
    """Bind the address.

    Args:
        engine: what answers.
        model: TuFT's name of the model, which /health says.
        key: what callers send as X-API-Key.
        host: address to listen on.
        port: 0: a free one.
    """
    room = threading.BoundedSemaphore(MOST_WAITING)

    class Handler(BaseHTTPRequestHandler):
        timeout = SILENCE

        def do_GET(self) -> None:
            if self.path == "/health":
                self._answer(200, {"model": model})
            else:
                self._answer(404, {"code": "BAD_REQUEST", "message": f"there is no {self.path}"})

        def do_POST(self) -> None:
            if not hmac.compare_digest(self.headers.get("X-API-Key", "").encode(), key.encode()):
                self._answer(401, {"code": "KEY_REJECTED", "message": "the sampler's key is another one"})
                return
            if not room.acquire(blocking=False):
                self._answer(503, {"code": "BUSY", "message": f"{MOST_WAITING} replies wait at the sampler already"})
                return
            try:
                self._answer(200, asdict(engine.draw(self._order())))
            except Refused as error:
                self._answer(STATUS[error.code], {"code": error.code, "message": str(error)})
            finally:
                room.release()

        def _order(self) -> Order:
            size = int(self.headers.get("Content-Length") or 0)
            if not 0 < size <= MOST_BYTES:
                raise Refused("BAD_REQUEST", f"a request has 1 to {MOST_BYTES} bytes")
            try:
                return order(json.loads(self.rfile.read(size)))
            except (ValueError, TypeError, KeyError) as error:
                raise Refused("BAD_REQUEST", f"the request can't be read: {type(error).__name__}: {error}") from error

        def _answer(self, status: int, body: Mapping[str, object]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    return Server((host, port), Handler)


def order(body: Mapping[str, Any]) -> Order:
    """Read a request. Raises ValueError, TypeError, KeyError."""
    seed = body.get("seed")
    return Order(
        adapter=str(body["adapter"]),
        prompt=[int(index) for index in body["prompt"]],
        stop=[int(index) for index in body["stop"]],
        max_tokens=int(body["max_tokens"]),
        temperature=float(body["temperature"]),
        top_p=float(body["top_p"]),
        seed=None if seed is None else int(seed),
        seconds=min(MOST_SECONDS, float(body["seconds"])),
    )
