"""The fake TuFT's sockets: routes, API key, call log, and breaking down on order. A process of its own.

python -m tests.fakes.tuft_http --home DIR --api-key KEY --model-name NAME [--port N] [--buckets N] [--forgetful]
    [--samples] [--packs TOKENS]

Prints its port on the first line. For tests: GET /_state, GET /_calls, POST and DELETE /_faults, POST /_restart.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.fakes.tuft_faults import BadFault, Fault, Faults
from tests.fakes.tuft_routes import about_runs, call_with_json
from tests.fakes.tuft_runs import TuftFailure
from tests.fakes.tuft_service import BREAKS, Json, Service
from tests.fakes.tuft_wire import BadRequest, decode_forward

PROTOBUF = "application/x-protobuf"


@dataclass(frozen=True, slots=True)
class Options:
    """The command line."""

    home: Path
    api_key: str
    model_name: str
    port: int
    buckets: int
    forgetful: bool
    samples: bool
    packs: int


class Gone(Exception):
    """The connection ends without an answer."""


class FakeServer:
    """Accepts connections, and can stop to."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.faults = Faults()
        self.calls: list[Json] = []
        self.boots = 0
        self.connections: set[socket.socket] = set()
        self.port = options.port
        self._log_lock = threading.Lock()
        self._restart_lock = threading.Lock()
        self.service = self._boot()
        self._listener = self._listen()

    def _boot(self, *, forgetful: bool | None = None) -> Service:
        self.boots += 1
        persistence = not (self.options.forgetful if forgetful is None else forgetful)
        options = self.options
        return Service(
            home=options.home,
            model_name=options.model_name,
            buckets=options.buckets,
            persistence=persistence,
            faults=self.faults,
            break_down=self.break_down,
            samples=options.samples,
            packs=options.packs,
        )

    def _listen(self) -> ThreadingHTTPServer:
        owner = self

        class Bound(Handler):
            server_ = owner

        listener = Listener(("127.0.0.1", self.port), Bound)
        self.port = listener.server_address[1]
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return listener

    def log(self, call: Json) -> None:
        """Notes a call before anything else is done with it."""
        with self._log_lock:
            call["number"] = len(self.calls) + 1
            self.calls.append(call)

    def break_down(self, fault: Fault) -> None:
        """Goes away as ordered, and comes back in a thread of its own."""
        if fault.fault == "crash":
            os._exit(137)
        threading.Thread(target=self.restart, args=(fault.fault, fault.seconds), daemon=True).start()

    def restart(self, how: str, seconds: float) -> None:
        """Breaks all connections, stays away, and comes back with as much memory as `how` allows."""
        with self._restart_lock:
            self._listener.shutdown()
            self._listener.server_close()
            for connection in list(self.connections):
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:  # closed in the meantime
                    continue
            if how in ("restart_rollback", "restart_lost"):
                self.service.close()
                self.service = self._boot(forgetful=how == "restart_lost")
            elif how == "restart_keep":
                self.boots += 1
            time.sleep(seconds)
            self._listener = self._listen()


class Listener(ThreadingHTTPServer):
    """Threads that don't keep the process alive, and an address that can be taken again at once."""

    daemon_threads = True
    request_queue_size = 128

    def process_request(self, request: Any, client_address: Any) -> None:
        """Registers the connection before anything else runs, so that a restart can break it."""
        self.RequestHandlerClass.server_.connections.add(request)
        super().process_request(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server_: FakeServer

    def finish(self) -> None:
        """The connection is over."""
        self.server_.connections.discard(self.connection)
        try:
            super().finish()
        except OSError:  # the client, or a restart, closed it first
            return

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: /_calls is the log."""

    def do_GET(self) -> None:
        """Any GET."""
        self._handle()

    def do_POST(self) -> None:
        """Any POST."""
        self._handle()

    def do_DELETE(self) -> None:
        """Any DELETE."""
        self._handle()

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, answer = control(self.server_, self.command, self.path, body) or self._api(body)
        except Gone:
            self.close_connection = True
            return
        except TuftFailure as failure:
            status, answer = failure.status, {"detail": failure.detail}
        except BadRequest as error:
            status, answer = 422, {"detail": f"Invalid protobuf request: {error}"}
        except (KeyError, TypeError, ValueError) as error:
            status, answer = 422, {"detail": [{"type": "invalid", "msg": repr(error)}]}
        except Exception:  # TuFT's own unhandled errors look like this
            status, answer = 500, {"detail": "Internal Server Error"}
        self._answer(status, answer)

    def _answer(self, status: int, answer: Json | list[Json] | bytes | None) -> None:
        raw = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", PROTOBUF if isinstance(answer, bytes) else "application/json")
            self.send_header("Content-Length", str(len(raw)))
            if status == 302 and isinstance(answer, dict):
                self.send_header("Location", answer["location"])
            self.end_headers()
            self.wfile.write(raw)
        except OSError:  # the client left
            self.close_connection = True

    def _api(self, body: bytes) -> tuple[int, Json | bytes | None]:
        kind = self.path.removeprefix("/api/v1/").partition("?")[0]
        server, service = self.server_, self.server_.service
        if kind == "healthz":
            self._break_as_ordered(server.faults.of_call(kind))
            return 200, {"status": "ok"}
        key = self.headers.get("X-API-Key")
        if not key:
            raise TuftFailure(401, "Missing API key")
        if key != server.options.api_key:
            raise TuftFailure(403, "Invalid API key")
        if kind == "forward_backward" and PROTOBUF not in (self.headers.get("Content-Type") or ""):
            content_type = self.headers.get("Content-Type") or ""
            raise TuftFailure(415, f"Unsupported Content-Type {content_type!r}; expected {PROTOBUF}")
        request = decode_forward(body) if kind == "forward_backward" else None
        named = "forward" if request is not None and request.forward_only else kind
        call: Json = {"kind": named, "time": time.time(), "boot": server.boots}
        if named not in ("retrieve_future", "session_heartbeat"):
            server.log(call)
        faults = server.faults.of_call(named)
        self._break_as_ordered(faults)
        if "late" in faults:
            faults["late"].cleared.wait(faults["late"].ms / 1000)
        if "http_500" in faults:
            raise TuftFailure(500, "Internal Server Error")
        if "http_429" in faults:
            raise TuftFailure(429, "Too many requests")
        if request is not None:
            return 202, service.forward(request, call, faults)
        if kind == "turnloom/acceleration":
            return 200, service.acceleration(server.options.model_name, faults)
        if self.command == "GET" or kind.startswith("training_runs/"):
            return about_runs(service, server.options.model_name, self.command, kind)
        return call_with_json(service, kind, json.loads(body or b"{}"), call, faults)

    def _break_as_ordered(self, faults: dict[str, Fault]) -> None:
        broken = next((faults[name] for name in BREAKS if name in faults and faults[name].when == "before"), None)
        if broken is not None:
            self.server_.break_down(broken)
            raise Gone


def control(server: FakeServer, method: str, path: str, body: bytes) -> tuple[int, Json | list[Json] | None] | None:
    """The calls for tests; None where it is none of them."""
    if path == "/_state":
        return 200, {"boots": server.boots, **server.service.runs.describe()}
    if path == "/_calls":
        return 200, server.calls
    if path.startswith("/_faults") and method == "DELETE":
        server.faults.clear(path.removeprefix("/_faults").removeprefix("/"))
        return 204, None
    if path == "/_faults" and method == "POST":
        try:
            server.faults.add(Fault(**json.loads(body)))
        except (BadFault, TypeError) as error:
            return 400, {"detail": str(error)}
        return 204, None
    if path == "/_faults":
        return 200, [{"kind": f.kind, "fault": f.fault, "seen": f.seen, "hits": f.hits} for f in server.faults.orders]
    if path == "/_restart":
        order = json.loads(body)
        threading.Thread(target=server.restart, args=(order["how"], order["seconds"]), daemon=True).start()
        return 204, None
    return None


def main() -> None:
    """Serves until the process that started it is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--api-key", required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--buckets", type=int, default=256)
    parser.add_argument("--forgetful", action="store_true")
    parser.add_argument("--samples", action="store_true", help="else it trains only, as TuFT does without a GPU")
    parser.add_argument("--packs", type=int, default=0, help="real tokens of a pass; 0: a TuFT that is not accelerated")
    parent = os.getppid()
    server = FakeServer(Options(**vars(parser.parse_args())))
    print(server.port, flush=True)  # noqa: T201
    while os.getppid() == parent:
        time.sleep(0.5)


if __name__ == "__main__":
    main()
