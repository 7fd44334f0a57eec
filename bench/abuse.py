"""Attack a real API with one token and measure what the others notice. Loopback only; bounded in calls and time.

    python -m bench.abuse [--seconds 60] [--clients 16] [--connections 100] [--fuzz 5000]

One token sends looping templates and messages of 57 MiB while clients of another token preprocess small batches, a
probe asks for health, and raw connections hang. SIGTERM comes in the middle of it. The table has what docs/security.md
tells.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Final

import grpc
import psutil
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from services.preprocess.api.auth.bearer_tokens import create
from services.preprocess.domain.caller import Scope
from tests.support.api_calls import MODEL, chat, options, write_model
from turnloom.v1 import preprocess_pb2 as pb
from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceStub

LOOPING: Final = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
LARGE: Final = 57 << 20  #: bytes of the attacker's messages
NO_REDIS: Final = "redis://127.0.0.1:1/0"  #: preprocessing needs none


@dataclass
class Seen:
    """What the runs noticed; appended to by threads."""

    unary: list[float] = field(default_factory=list)  #: seconds of the others' calls
    health: list[float] = field(default_factory=list)  #: seconds of health checks
    codes: Counter[str] = field(default_factory=Counter)  #: "who: CODE"
    resident: list[int] = field(default_factory=list)  #: bytes


def main() -> None:
    """Run the attack and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--fuzz", type=int, default=5000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tl-abuse-") as folder:
        server, address, secrets = start(Path(folder))
        try:
            fuzzed = fuzz(address, secrets["good"], asked.fuzz)
            seen = attack(server.pid, address, secrets, asked)
            began = time.monotonic()
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
            ended = time.monotonic() - began
        finally:
            if server.poll() is None:
                server.kill()
    report(seen, fuzzed, code, ended)


def start(folder: Path) -> tuple[subprocess.Popen[str], str, dict[str, str]]:
    """Start an API with two tokens; returns it, its address and the tokens' secrets."""
    write_model(folder / "model")
    (folder / "models.toml").write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{folder / "model"}"\n')
    secrets = {name: create(folder / "tokens.json", name, frozenset({Scope.SUBMIT})) for name in ("good", "bad")}
    environment = {
        **os.environ,
        "TURNLOOM_ADDRESS": "127.0.0.1:0",
        "TURNLOOM_METRICS_PORT": "0",
        "TURNLOOM_MODELS": str(folder / "models.toml"),
        "TURNLOOM_MODEL_CACHE": str(folder / "cache"),
        "TURNLOOM_STORE_URL": str(folder / "store"),
        "TURNLOOM_TOKENS": str(folder / "tokens.json"),
        "TURNLOOM_REDIS_URL": NO_REDIS,
        "TURNLOOM_LOG_LEVEL": "error",
    }
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "services.preprocess"], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
    )
    assert server.stdout is not None
    address = json.loads(server.stdout.readline())["address"]
    with grpc.insecure_channel(address) as channel:
        stub, until = PreprocessServiceStub(channel), time.monotonic() + 60
        while time.monotonic() < until:
            try:
                stub.Preprocess(small(), metadata=bearer(secrets["good"]), timeout=10)
                return server, address, secrets
            except grpc.RpcError:
                time.sleep(0.2)
    raise RuntimeError("the server did not load its model")


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a token."""
    return (("authorization", f"Bearer {secret}"),)


def small() -> pb.PreprocessRequest:
    """A batch as a person sends one."""
    return pb.PreprocessRequest(options=options(), conversations=[chat("question", "answer")] * 8)


def fuzz(address: str, secret: str, calls: int) -> Counter[str]:
    """Send damaged and made-up messages to unary and streaming calls; count the codes of the answers."""
    chance, codes = random.Random(0), Counter[str]()
    whole = small().SerializeToString()
    with grpc.insecure_channel(address) as channel:
        unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/turnloom.v1.PreprocessService/Preprocess"
        )
        preview: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/turnloom.v1.PreprocessService/PreviewConversation"
        )
        lint: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
            "/turnloom.v1.PreprocessService/LintConversations"
        )
        for number in range(calls):
            raw = bytearray(whole)
            for _ in range(chance.randint(1, 8)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            message = bytes(raw[: chance.randint(0, len(raw))]) if number % 3 else chance.randbytes(64)
            try:
                if number % 5 == 4:
                    lint(iter([message, message]), metadata=bearer(secret), timeout=30)
                else:
                    (unary if number % 2 else preview)(message, metadata=bearer(secret), timeout=30)
                codes["OK"] += 1
            except grpc.RpcError as error:
                codes[error.code().name] += 1
    return codes


def attack(pid: int, address: str, secrets: dict[str, str], asked: argparse.Namespace) -> Seen:
    """Run everybody at once for the given time."""
    seen, stop = Seen(), threading.Event()
    sockets = [socket.create_connection(tuple(address.rsplit(":", 1)), 5) for _ in range(asked.connections)]  # type: ignore[arg-type]
    jobs: list[Callable[[], None]] = [lambda: _bystander(address, secrets["good"], seen, stop)] * asked.clients
    jobs += [lambda: _loops(address, secrets["bad"], seen, stop)] * 8
    jobs += [lambda: _floods(address, secrets["bad"], seen, stop)] * 4
    jobs += [lambda: _probe(address, seen, stop), lambda: _watch(pid, seen, stop)]
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    stop.wait(asked.seconds)
    stop.set()
    for thread in threads:
        thread.join(30)
    for held in sockets:
        held.close()
    return seen


def _bystander(address: str, secret: str, seen: Seen, stop: threading.Event) -> None:
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = PreprocessServiceStub(channel)
        while not stop.is_set():
            began = time.perf_counter()
            try:
                stub.Preprocess(small(), metadata=bearer(secret), timeout=30)
                seen.codes["others: OK"] += 1
            except grpc.RpcError as error:
                seen.codes[f"others: {error.code().name}"] += 1
            seen.unary.append(time.perf_counter() - began)
            stop.wait(0.2)


def _loops(address: str, secret: str, seen: Seen, stop: threading.Event) -> None:
    """Looping templates, each with a name of its own, cancelled after a second and a half."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub, number = PreprocessServiceStub(channel), 0
        while not stop.is_set():
            number += 1
            template = f"{{# {threading.get_ident()} {number} #}}{LOOPING}"
            request = pb.PreprocessRequest(
                options=options(chat_template=template), conversations=[chat("q", "a")] * 512, skip_bad=True
            )
            try:
                stub.Preprocess(request, metadata=bearer(secret), timeout=1.5)
                seen.codes["attacker: OK"] += 1
            except grpc.RpcError as error:
                seen.codes[f"attacker: {error.code().name}"] += 1


def _floods(address: str, secret: str, seen: Seen, stop: threading.Event) -> None:
    """Messages of 57 MiB, long and short conversations by turns."""
    longs = pb.PreprocessRequest(options=options(), conversations=[chat("x y " * (LARGE // 4), "z")], skip_bad=True)
    brief = [chat(f"q{i}", "a") for i in range(8)]
    shorts = pb.PreprocessRequest(options=options(), skip_bad=True)
    for _ in range(512):
        one = shorts.conversations.add()
        for _ in range(LARGE // 512 // 40):
            one.messages.extend(brief[0].messages)
    with grpc.insecure_channel(
        address, options=[("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        stub, turn = PreprocessServiceStub(channel), 0
        while not stop.is_set():
            turn += 1
            try:
                stub.Preprocess((longs, shorts)[turn % 2], metadata=bearer(secret), timeout=60)
                seen.codes["flood: OK"] += 1
            except grpc.RpcError as error:
                seen.codes[f"flood: {error.code().name}"] += 1


def _probe(address: str, seen: Seen, stop: threading.Event) -> None:
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = HealthStub(channel)
        while not stop.wait(0.25):
            began = time.perf_counter()
            try:
                stub.Check(HealthCheckRequest(service="turnloom.v1.PreprocessService"), timeout=30)
            except grpc.RpcError as error:
                seen.codes[f"health: {error.code().name}"] += 1
            seen.health.append(time.perf_counter() - began)


def _watch(pid: int, seen: Seen, stop: threading.Event) -> None:
    process = psutil.Process(pid)
    while not stop.wait(0.2):
        seen.resident.append(process.memory_info().rss)


def report(seen: Seen, fuzzed: Counter[str], code: int, ended: float) -> None:
    """Print the table."""
    print("| what | measured |")
    print("|---|---|")
    print(f"| fuzzed calls | {fuzzed.total()}, INTERNAL {fuzzed['INTERNAL']}, {dict(fuzzed)} |")
    for name, times in (("others' unary calls", seen.unary), ("health checks", seen.health)):
        cuts = quantiles(times, n=100) if len(times) > 1 else [0.0] * 99
        print(f"| {name} | {len(times)}; median {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms |")
    print(f"| answers | {dict(sorted(seen.codes.items()))} |")
    print(f"| resident memory, most | {max(seen.resident, default=0) / 2**20:.0f} MiB |")
    print(f"| SIGTERM | exit {code} after {ended:.1f} s |")


if __name__ == "__main__":
    main()
