"""The whole service over loopback gRPC beside the best peer: streams of chunks against one server process.

    python -m bench.service [--conversations 4000] [--rounds 5] [--unique 100000] [--agents 16] [--processes 2]

The server is a process of its own on the first core, this client and the peer are on the second. CPU time is what the
table compares: the machine's other work moves the wall clock. Ends with the server's memory under text it never saw;
with `--agents N` each Nth of these conversations is an agent's trajectory with tools.
With `--processes` a server of so many stands beside one of one, on all cores: both get the same streams over several
connections in turn, and nothing else is measured.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.program import EMBEDDED, PEERS, end, libraries, need_libraries, usage

PROGRAM: Final = usage("bench.service", __doc__)
PROGRAM.add_argument("--conversations", type=int, default=4000)
PROGRAM.add_argument("--rounds", type=int, default=5)
PROGRAM.add_argument("--unique", type=int, default=100_000, help="chats of new words; 0: no memory table")
PROGRAM.add_argument("--agents", type=int, default=0, help="each so many of these has tools; 0: none")
PROGRAM.add_argument("--processes", type=int, default=1, help="compare a server of so many with one of one")

with libraries(EMBEDDED, __name__, PROGRAM):
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    from bench import material
    from bench.chats import chats, unique_chats
    from bench.trajectories import trajectories
    from services.preprocess.domain.limits import MAX_MESSAGE_BYTES
    from turnloom.masks.domain.conversation import Conversation
    from turnloom.v1 import preprocess_pb2 as pb
    from turnloom.v1 import types_pb2
    from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceStub
    from turnloom.wire.conversations import from_json

CHUNK: Final = 64
CONNECTIONS: Final = 16  #: the kernel deals them out to the processes by chance
PART: Final = 128  #: chats of a stream; a connection takes the next stream when it has ended one
STREAMED: Final = 2000  #: conversations of one stream of the memory table
START_SECONDS: Final = 120.0
STREAM: Final = "/turnloom.v1.PreprocessService/StreamPreprocess"
TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server process."""

    pid: int
    address: str
    stub: PreprocessServiceStub

    def cpu(self) -> float:
        """Seconds of CPU time so far, of all threads and of processes that it started."""
        return sum(int(fields[11]) + int(fields[12]) for fields in self._processes()) / TICKS

    def _processes(self) -> Iterator[list[str]]:
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it ended in the meantime
                fields = path.read_text().rpartition(")")[2].split()
                if path.parent.name == str(self.pid) or fields[1] == str(self.pid):
                    yield fields

    def memory(self, key: str = "VmRSS") -> float:
        """MB held now (VmRSS) or at most so far (VmHWM)."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


@contextmanager
def server(folder: Path, cores: Sequence[int], processes: int = 1) -> Iterator[Server]:
    """Start a server with Qwen3 on these cores and wait until it answers."""
    folder.mkdir(exist_ok=True)
    material.prepared(folder / "qwen3")
    models, port = folder / "models.toml", folder / "port.json"
    models.write_text('[[models]]\nname = "qwen3"\nsource = "./qwen3"\n')
    command = [sys.executable, "-m", "services.preprocess", "--address", "127.0.0.1:0", "--metrics-port", "0"]
    command += ["--processes", str(processes)]
    environment = {**os.environ, "TURNLOOM_STORE_URL": str(folder / "store"), "TURNLOOM_MODEL_CACHE": str(folder)}
    with subprocess.Popen(
        [*command, "--models", str(models), "--port-file", str(port)],
        env={**environment, "TURNLOOM_LOG_LEVEL": "error"},
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            os.sched_setaffinity(process.pid, cores)
            address = _address(port, process)
            with connection(address) as channel:
                _until_loaded(channel)
                yield Server(process.pid, address, PreprocessServiceStub(channel))
        finally:
            process.terminate()


def connection(address: str) -> grpc.Channel:
    """Return a connection of its own to a server."""
    size = ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)
    return grpc.insecure_channel(address, options=[size, ("grpc.use_local_subchannel_pool", 1)])


def _address(port: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not port.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            end("the server did not start; run python -m services.preprocess to see why")
        time.sleep(0.05)
    address: str = json.loads(port.read_text())["address"]
    return address


def _until_loaded(channel: grpc.Channel) -> None:
    health, asked = HealthStub(channel), HealthCheckRequest(service="turnloom.v1.PreprocessService")
    deadline = time.monotonic() + START_SECONDS
    while health.Check(asked, timeout=START_SECONDS).status != HealthCheckResponse.SERVING:
        if time.monotonic() > deadline:
            raise RuntimeError(f"Qwen3 was not loaded within {START_SECONDS:.0f} s")
        time.sleep(0.1)


def requests(conversations: Sequence[Conversation]) -> list[pb.StreamPreprocessRequest]:
    """The messages of one stream; made before the clock runs, as a client reads its file."""
    options = types_pb2.PreprocessOptions(
        model="qwen3", train_on=types_pb2.TRAIN_ON_ALL_ASSISTANT_MESSAGES, date="2026-01-01"
    )
    made = [pb.StreamPreprocessRequest(options=options)]
    for first in range(0, len(conversations), CHUNK):
        some = [
            from_json({"messages": list(one.messages), "tools": one.tools})
            for one in conversations[first : first + CHUNK]
        ]
        made.append(pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=some)))
    return made


def stream(running: Server, messages: Sequence[pb.StreamPreprocessRequest]) -> int:
    """Send one stream; returns how many rows came back."""
    return _rows(running.stub, messages)


def _rows(stub: PreprocessServiceStub, messages: Sequence[pb.StreamPreprocessRequest]) -> int:
    rows = 0
    for answer in stub.StreamPreprocess(iter(messages), timeout=600):
        if answer.issues:
            raise RuntimeError(f"a chat was refused: {answer.issues[0].message}")
        rows += len(answer.batch.row_lengths)
    return rows


def throughput(running: Server, count: int, rounds: int) -> None:
    """Print the table: peer and service in interleaved rounds."""
    # Imported here, for transformers takes seconds that the memory table alone does not need.
    import transformers  # noqa: PLC0415

    from bench.preprocess import transformers_mask  # noqa: PLC0415

    conversations = chats(count)
    messages = requests(conversations)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(material.QWEN3)
    peer = transformers_mask(tokenizer, material.template(material.MARKED))
    peer(conversations[:500])
    stream(running, messages)
    theirs, ours, clients, walls = list[float](), list[float](), list[float](), list[float]()
    for _ in range(rounds):
        before = time.process_time()
        peer(conversations)
        theirs.append(time.process_time() - before)
        before, server_before, wall = time.process_time(), running.cpu(), time.perf_counter()
        stream(running, messages)
        walls.append(time.perf_counter() - wall)
        ours.append(running.cpu() - server_before)
        clients.append(time.process_time() - before)
    print(f"{count} chats in chunks of {CHUNK}, medians of {rounds} interleaved rounds")
    rows = (("transformers, batched mask, in process", theirs), ("turnloom server", ours), ("its client", clients))
    for name, seconds in rows:
        ratio = statistics.median(one / two for one, two in zip(theirs, seconds, strict=True))
        print(f"{name:<42} {statistics.median(seconds) / count * 1e6:>8.0f} CPU us/conv {ratio:>8.2f} x peer")
    print(f"{'wall clock, both cores':<42} {count / statistics.median(walls):>8.0f} conv/s")


def side_by_side(one: Server, many: Server, count: int, rounds: int) -> None:
    """Print what streams over several connections cost on both, and how much faster the second answers."""
    parts = [_serialized(chats(PART, seed=seed)) for seed in range(count // PART)]
    cpu: dict[int, list[float]] = {one.pid: [], many.pid: []}
    wall: dict[int, list[float]] = {one.pid: [], many.pid: []}
    for round_ in range(rounds + 1):
        for running in (one, many)[:: 1 if round_ % 2 else -1]:
            spent, seconds = _streamed(running, parts)
            if round_:  # the first is for caches
                wall[running.pid].append(seconds)
                cpu[running.pid].append(spent)
    count = PART * len(parts)
    print(f"{count} chats over {CONNECTIONS} connections, medians of {rounds} interleaved rounds")
    for name, running in (("one process", one), ("several processes", many)):
        spent, rate = statistics.median(cpu[running.pid]), count / statistics.median(wall[running.pid])
        print(f"{name:<20} {spent / count * 1e6:>8.0f} CPU us/conv {rate:>8.0f} conv/s")
    ratio = statistics.median(two / three for two, three in zip(wall[one.pid], wall[many.pid], strict=True))
    print(f"several answer {ratio:.2f} times as fast as one")


def _serialized(conversations: Sequence[Conversation]) -> list[bytes]:
    return [message.SerializeToString() for message in requests(conversations)]


def _streamed(running: Server, parts: Sequence[Sequence[bytes]]) -> tuple[float, float]:
    """Send every stream over new connections; return the server's CPU and the clock's seconds.

    The client neither builds nor reads a message while the clock runs, for it shares the cores with the server.
    """
    waiting, answers = iter(parts), list[bytes]()
    lock = threading.Lock()

    def work(channel: grpc.Channel) -> None:
        call = channel.stream_stream(STREAM, lambda one: one, lambda one: one)
        while True:
            with lock:
                part = next(waiting, None)
            if part is None:
                return
            answers.extend(call(iter(part), timeout=600))

    with ExitStack() as stack, ThreadPoolExecutor(CONNECTIONS) as pool:
        channels = [stack.enter_context(connection(running.address)) for _ in range(CONNECTIONS)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(START_SECONDS)
        before, began = running.cpu(), time.perf_counter()
        list(pool.map(work, channels))
        seconds, spent = time.perf_counter() - began, running.cpu() - before
    rows = sum(len(pb.StreamPreprocessResponse.FromString(answer).batch.row_lengths) for answer in answers)
    assert rows >= PART * len(parts), "every chat gives a row"
    return spent, seconds


def memory(running: Server, count: int, agents: int) -> None:
    """Print the server's memory while it reads text whose words are all new; each `agents`th has tools, 0: none."""
    kind = f"unique chats, each {agents}th a trajectory" if agents else "unique chats"
    print(f"memory of the server: {running.memory():.0f} MB before")
    step = max(CHUNK, count // 10)
    for done in range(0, count, step):
        for first in range(done, min(done + step, count), STREAMED):
            conversations = unique_chats(min(STREAMED, count - first), seed=first + 1)
            if agents:
                conversations[::agents] = trajectories(len(conversations[::agents]), seed=first + 1)
            stream(running, requests(conversations))
        shown = min(done + step, count)
        print(f"  {shown:>8} {kind}: {running.memory():.0f} MB, at most {running.memory('VmHWM'):.0f}", flush=True)


def main() -> int:
    asked = PROGRAM.parse_args()
    material.need()
    if asked.rounds and asked.processes == 1:
        need_libraries(f"{PEERS}, or measure memory alone (--rounds 0)", "transformers")
    cores = sorted(os.sched_getaffinity(0))
    if asked.processes > 1:
        with (
            tempfile.TemporaryDirectory() as folder,
            server(Path(folder, "one"), cores) as one,
            server(Path(folder, "many"), cores, asked.processes) as many,
        ):
            side_by_side(one, many, asked.conversations, asked.rounds)
        return 0
    with tempfile.TemporaryDirectory() as folder, server(Path(folder), cores[:1]) as running:
        os.sched_setaffinity(0, cores[1:] or cores)
        if asked.rounds:
            throughput(running, asked.conversations, asked.rounds)
        memory(running, asked.unique, asked.agents)
    return 0


if __name__ == "__main__":
    sys.exit(main())
