"""A large JSONL made into a dataset by workers, one of them killed in the middle: time, memory, and the address.

    python -m bench.sources [--conversations 100000] [--folder FOLDER] [--runs one two killed] [--no-peer]

Starts a Redis, the API and the workers as processes of their own, with the Qwen3 vocabulary and template
(TURNLOOM_TOKENIZERS, TURNLOOM_TEMPLATES). Runs: `one` worker, `two`, and two of which one is `killed` by SIGKILL. Then
`datasets.map` does the same file with transformers' batched mask, in two processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.program import EMBEDDED, end, libraries, need_redis, usage

WORKERS: Final = {"one": 1, "two": 2, "killed": 2}  #: of each kind of run

PROGRAM: Final = usage("bench.sources", __doc__)
PROGRAM.add_argument("--conversations", type=int, default=100_000)
PROGRAM.add_argument("--folder", type=Path, default=None, help="where everything is written; default: a new one")
PROGRAM.add_argument("--runs", nargs="+", choices=list(WORKERS), default=list(WORKERS))
PROGRAM.add_argument("--no-peer", dest="peer", action="store_false")

with libraries(EMBEDDED, __name__, PROGRAM):
    import redis

    from bench import material, peer_map
    from bench.chats import chats
    from turnloom import TurnloomClient
    from turnloom.embedded.redis_server import RedisServer
    from turnloom.errors import Unavailable
    from turnloom.v1 import datasets_pb2 as pb

ROOT = Path(__file__).resolve().parents[1]
MODEL = "qwen3"
PART = 5_000  #: chats made at once
DEADLINE = 3_600.0  #: seconds of one run


@dataclass(slots=True)
class Peaks:
    """Largest resident memory of every process that was seen, from /proc: parents, and the horses they fork."""

    parents: dict[str, int]  #: name to pid
    megabytes: dict[str, float] = field(default_factory=dict)

    def look(self) -> None:
        for name, pid in self.parents.items():
            self._note(name, pid)
            for child in _children(pid):
                self._note(f"{name}: its jobs", child)

    def _note(self, name: str, pid: int) -> None:
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        except OSError:
            return
        peaks = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        self.megabytes[name] = max(self.megabytes.get(name, 0.0), *(int(peak) * 1024 / 1e6 for peak in peaks), 0.0)


def _children(pid: int) -> Sequence[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


@contextmanager
def watched(peaks: Peaks) -> Iterator[None]:
    """Looks at memory every 50 ms."""
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.05):
            peaks.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def write(path: Path, count: int) -> None:
    """A JSONL of so many different chats."""
    with path.open("w", encoding="utf-8") as file:
        for seed, first in enumerate(range(0, count, PART)):
            for chat in chats(min(PART, count - first), seed):
                file.write(json.dumps({"messages": chat.messages}, ensure_ascii=False) + "\n")


@dataclass(slots=True)
class Stages:
    """When each stage of an import ended, in seconds of the wall clock since it began."""

    began: float = field(default_factory=time.monotonic)
    ends: dict[str, float] = field(default_factory=dict)

    def look(self, record: pb.Dataset) -> None:
        """Note what a record says is done."""
        made = record.state == pb.DATASET_STATE_READY
        for name, done in (
            ("plan", record.shards > 0),
            ("shards", record.shards > 0 and record.shards == record.shards_done),
            ("READY", made),
        ):
            if done:
                self.ends.setdefault(name, time.monotonic() - self.began)

    def __str__(self) -> str:
        """The stages in order."""
        return ", ".join(f"{name} at {seconds:.1f} s" for name, seconds in self.ends.items())


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def registered(redis_url: str, pids: Sequence[int]) -> None:
    """Wait until every worker has loaded its models and said so in Redis, where a killed one of another row may be."""
    queues = redis.Redis.from_url(redis_url)
    end = time.monotonic() + 120
    wanted = {str(pid).encode() for pid in pids}
    while not wanted <= {queues.hget(name, "pid") for name in queues.smembers("rq:workers")}:
        if time.monotonic() > end:
            raise SystemExit("the workers did not start in 120 s")
        time.sleep(0.1)
    queues.close()


def make(client: TurnloomClient, path: Path, kind: str, environment: dict[str, str], api: int) -> list[str]:
    """One row of the table."""
    workers = WORKERS[kind]
    command = [sys.executable, "-m", "services.preprocess", "worker"]
    running = [subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}) for _ in range(workers)]
    peaks = Peaks({"API": api, **{f"worker {number}": process.pid for number, process in enumerate(running, 1)}})
    pids = [process.pid for process in running]
    registered(environment["TURNLOOM_REDIS_URL"], pids)
    started = {pid: cpu_seconds(pid) for pid in pids}
    killed = ""
    stages = Stages()
    source = pb.DatasetSource(uri=str(path))
    asked = client.datasets.create_from_source(source, model=MODEL, date="2026-01-01")
    last = asked
    limit = threading.Timer(DEADLINE, client.datasets.cancel, [asked.id])
    limit.start()
    try:
        with watched(peaks):
            for last in client.datasets.watch(asked.id):
                stages.look(last)
                if kind == "killed" and not killed and last.shards and 3 * last.shards_done >= last.shards:
                    running[0].send_signal(signal.SIGKILL)
                    killed = f"worker 1 killed at {last.conversations_read} conversations"
        left = pids[1:] if killed else pids
        # The last process of a worker may still be ending.
        used = sum(cpu_seconds(pid) + sum(map(cpu_seconds, _children(pid))) - started[pid] for pid in left)
    finally:
        limit.cancel()
        for process in running:
            process.terminate()
            process.wait(60)
    assert last.state == pb.DATASET_STATE_READY, last.error
    # By the record, as watching it sees its end up to a quarter of a second late.
    seconds = (last.ready_time.ToMicroseconds() - last.create_time.ToMicroseconds()) / 1e6
    start = sum(started.values()) / workers
    memory = ", ".join(f"{name} {size:.0f} MB" for name, size in peaks.megabytes.items())
    return [
        f"{workers} worker(s){'; ' + killed if killed else ''}",
        f"{last.conversations} conversations, {last.tokens} tokens, {last.shards} shards in {seconds:.2f} s: {stages}",
        f"{last.conversations / seconds:.0f} conversations a second; CPU of each worker's start {start:.1f} s",
        *(
            []
            if killed
            else [
                f"{used / last.conversations * 1e6:.0f} us of CPU a conversation, all workers together: "
                f"{last.conversations / used:.0f} conversations a second and core; "
                f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
            ]
        ),
        f"sha256 {last.sha256}",
        f"peak resident memory: {memory}",
    ]


def main() -> None:
    """Print both runs."""
    options = PROGRAM.parse_args()
    material.need()
    need_redis()
    if options.peer:
        peer_map.need()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "chats.jsonl"
        write(path, options.conversations)
        print(f"{path.stat().st_size / 1e6:.0f} MB of JSON lines")
        with RedisServer(folder / "redis", folder / "redis.log") as redis:
            for row in runs(folder, path, redis.url, options.runs):
                print("\n".join(row), flush=True)
        if options.peer:
            print(peer_map.line(peer_map.measured(path)))


def runs(folder: Path, path: Path, redis_url: str, kinds: Sequence[str]) -> Iterator[list[str]]:
    """Each run."""
    models = folder / "models.toml"
    template = material.TEMPLATES / material.STOCK
    models.write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{material.QWEN3}"\nchat_template = "{template}"\n')
    environment = {
        "TURNLOOM_REDIS_URL": redis_url,
        "TURNLOOM_STORE_URL": str(folder / "store"),
        "TURNLOOM_MODELS": str(models),
        "TURNLOOM_MODEL_CACHE": str(folder / "models"),
        "TURNLOOM_SOURCE_ROOTS": str(folder),
        "TURNLOOM_ADDRESS": "127.0.0.1:0",
        "TURNLOOM_METRICS_PORT": "0",
        "TURNLOOM_LOG_LEVEL": "warning",
    }
    ports = folder / "ports.json"
    ports.unlink(missing_ok=True)
    command = [sys.executable, "-m", "services.preprocess", "--port-file", str(ports)]
    api = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment})
    try:
        client = reached(ports, api)
        for kind in kinds:
            yield make(client, path, kind, environment, api.pid)
    finally:
        api.terminate()
        api.wait(60)


def reached(ports: Path, api: subprocess.Popen[bytes]) -> TurnloomClient:
    """A client of the API once its model is loaded."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if api.poll() is not None:
            end("the API ended before its model was loaded; what it says stands above")
        if ports.exists():
            client = TurnloomClient(json.loads(ports.read_text(encoding="utf-8"))["address"])
            with suppress(Unavailable):
                if any(client.models.list()):
                    return client
        time.sleep(0.2)
    raise SystemExit("the API did not load its model in 300 s")


if __name__ == "__main__":
    main()
