"""Attack a real API with one token and measure what the others notice. Loopback only; bounded in calls and time.

    python -m bench.abuse [--seconds 180] [--clients 64] [--connections 500] [--fuzz 33000]

One token sends looping templates and messages of 57 MiB while clients of another token preprocess small batches, one
call a second each, a probe asks for health, and raw connections hang. SIGTERM comes in the middle of it. Attackers are
processes of their own and run at the lowest priority (nice 19): on a machine that they share with the server, their own
work would count as waiting of the others. The table has what docs/security.md tells; the exit status is 1 over a limit.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
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
from functools import partial
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path
from statistics import quantiles
from typing import Final

from bench.program import DEV, end, libraries, usage

PROGRAM: Final = usage("bench.abuse", __doc__)
PROGRAM.add_argument("--seconds", type=float, default=180.0)
PROGRAM.add_argument("--clients", type=int, default=64)
PROGRAM.add_argument("--connections", type=int, default=500)
PROGRAM.add_argument("--fuzz", type=int, default=33_000)

with libraries(DEV, __name__, PROGRAM):
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
GOOD: Final = tuple(f"good-{number}" for number in range(8))  #: tokens of the others
WORK_BYTES: Final = 128 << 20  #: of messages in work, the API's default
#: What docs/security.md promises: seconds, and resident bytes beyond those before the attack.
LIMITS: Final = {"unary": 0.5, "health": 0.2, "end": 25.0, "resident": 8 * WORK_BYTES}


@dataclass
class Seen:
    """What the runs noticed; appended to by threads."""

    unary: list[float] = field(default_factory=list)  #: seconds of the others' calls
    health: list[float] = field(default_factory=list)  #: seconds of health checks
    codes: Counter[str] = field(default_factory=Counter)  #: "who: CODE"
    resident: list[int] = field(default_factory=list)  #: bytes


def main() -> None:
    """Run the attack, print the table and exit with 1 if a limit was passed."""
    asked = PROGRAM.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tl-abuse-") as folder:
        server, address, secrets = start(Path(folder))
        try:
            fuzzed = fuzz(address, secrets[GOOD[0]], asked.fuzz)
            before = psutil.Process(server.pid).memory_info().rss
            seen, code, ended = attack(server, address, secrets, asked)
        finally:
            if server.poll() is None:
                server.kill()
    print(f"load average before: {load:.1f}, cores: {os.cpu_count()}")
    sys.exit(report(seen, fuzzed, before, code, ended))


def start(folder: Path) -> tuple[subprocess.Popen[str], str, dict[str, str]]:
    """Start an API with two tokens; returns it, its address and the tokens' secrets."""
    write_model(folder / "model")
    (folder / "models.toml").write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{folder / "model"}"\n')
    secrets = {name: create(folder / "tokens.json", name, frozenset({Scope.SUBMIT})) for name in (*GOOD, "bad")}
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
    said = server.stdout.readline()
    if not said:
        end(f"the server did not start; it says: {Path(log.name).read_text().strip()}")
    address = json.loads(said)["address"]
    with grpc.insecure_channel(address) as channel:
        stub, until = PreprocessServiceStub(channel), time.monotonic() + 60
        while time.monotonic() < until:
            try:
                stub.Preprocess(small(), metadata=bearer(secrets[GOOD[0]]), timeout=10)
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


def attack(
    server: subprocess.Popen[str], address: str, secrets: dict[str, str], asked: argparse.Namespace
) -> tuple[Seen, int, float]:
    """Run everybody at once for the given time, then end the server while the attack goes on.

    Returns:
        What was seen, the server's exit status, and the seconds from SIGTERM to it.
    """
    seen, stop = Seen(), threading.Event()
    spawn = multiprocessing.get_context("spawn")
    over, ready, told = spawn.Event(), spawn.Semaphore(0), spawn.Queue()
    hostile: list[SpawnProcess] = [
        spawn.Process(target=_attacker, args=(address, secrets["bad"], asked.connections, kind, ready, over, told))
        for kind in ("loops", "floods")
    ]
    for process in hostile:
        process.start()
    for _ in hostile:  # the messages take a while to make; nothing is measured before they come
        if not ready.acquire(timeout=300):
            raise RuntimeError("the attackers did not begin")
    jobs: list[Callable[[], None]] = [
        partial(_bystander, address, secrets[GOOD[number % len(GOOD)]], seen, stop) for number in range(asked.clients)
    ]
    jobs += [lambda: _probe(address, seen, stop), lambda: _watch(server.pid, seen, stop)]
    threads = [threading.Thread(target=job, daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    stop.wait(asked.seconds)
    stop.set()
    for thread in threads:
        thread.join(30)
    began = time.monotonic()
    server.send_signal(signal.SIGTERM)
    code = server.wait(60)
    ended = time.monotonic() - began
    over.set()
    for _ in hostile:
        seen.codes.update(told.get(timeout=90))
    for process in hostile:
        process.join(30)
    return seen, code, ended


def _attacker(
    address: str,
    secret: str,
    connections: int,
    kind: str,
    ready: Semaphore,
    over: Event,
    told: Queue[Counter[str]],
) -> None:
    """Attack from a process of its own until `over`; half of the connections each, of which some say nonsense."""
    os.nice(19)
    host, _, port = address.rpartition(":")
    sockets = []
    for number in range(connections // 2):
        held = socket.create_connection((host, int(port)), 30)
        if number % 3 == 1:
            held.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        elif number % 3 == 2:
            held.sendall(random.Random(number).randbytes(64))
        sockets.append(held)
    seen, stop = Seen(), threading.Event()
    job, count = (_loops, 8) if kind == "loops" else (partial(_floods, large_messages()), 4)
    ready.release()
    threads = [threading.Thread(target=job, args=(address, secret, seen, stop), daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    over.wait(1_200)
    stop.set()
    for thread in threads:
        thread.join(10)
    for held in sockets:
        held.close()
    told.put(seen.codes)


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
            stop.wait(random.uniform(0.5, 1.5))


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


def large_messages() -> tuple[pb.PreprocessRequest, pb.PreprocessRequest]:
    """A message of one long conversation, and one of many short messages; 57 MiB each."""
    longs = pb.PreprocessRequest(options=options(), conversations=[chat("x y " * (LARGE // 4), "z")], skip_bad=True)
    brief = [chat(f"q{i}", "a") for i in range(8)]
    shorts = pb.PreprocessRequest(options=options(), skip_bad=True)
    for _ in range(512):
        one = shorts.conversations.add()
        for _ in range(LARGE // 512 // 40):
            one.messages.extend(brief[0].messages)
    return longs, shorts


def _floods(
    messages: tuple[pb.PreprocessRequest, pb.PreprocessRequest],
    address: str,
    secret: str,
    seen: Seen,
    stop: threading.Event,
) -> None:
    """Send the large messages by turns."""
    with grpc.insecure_channel(
        address, options=[("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        stub, turn = PreprocessServiceStub(channel), 0
        while not stop.is_set():
            turn += 1
            try:
                stub.Preprocess(messages[turn % 2], metadata=bearer(secret), timeout=60)
                seen.codes["flood: OK"] += 1
            except grpc.RpcError as error:
                seen.codes[f"flood: {error.code().name}"] += 1
                stop.wait(0.1)  # as a client that goes on after a refusal


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


def report(seen: Seen, fuzzed: Counter[str], before: int, code: int, ended: float) -> int:
    """Print the table; return 1 if a limit was passed."""
    grown = max(seen.resident, default=before) - before
    late = {name: _p99(times) for name, times in (("unary", seen.unary), ("health", seen.health))}
    refused = sum(count for name, count in seen.codes.items() if name.startswith("others: ") and name != "others: OK")
    rows = (
        ("fuzzed calls", f"{fuzzed.total()}: {dict(sorted(fuzzed.items()))}", "INTERNAL" not in fuzzed),
        ("others' calls", f"{len(seen.unary)}, {refused} not OK", refused == 0),
        ("others' calls, p99", f"{late['unary'] * 1000:.0f} ms", late["unary"] < LIMITS["unary"]),
        (
            "health checks, p99",
            f"{late['health'] * 1000:.0f} ms of {len(seen.health)}",
            late["health"] < LIMITS["health"],
        ),
        ("memory gained", f"{grown / 2**20:.0f} MiB over {before / 2**20:.0f}", grown < LIMITS["resident"]),
        ("SIGTERM", f"exit {code} after {ended:.1f} s", code == 0 and ended < LIMITS["end"]),
    )
    print("| what | measured | within its limit |")
    print("|---|---|---|")
    for name, told, good in rows:
        print(f"| {name} | {told} | {'yes' if good else 'NO'} |")
    print(f"answers: {dict(sorted(seen.codes.items()))}")
    return int(not all(good for *_, good in rows))


def _p99(times: list[float]) -> float:
    return quantiles(times, n=100)[98] if len(times) > 1 else 0.0


if __name__ == "__main__":
    main()
