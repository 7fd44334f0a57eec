"""Conversations streamed from a client to the server, both on this machine, until the dataset is READY.

    python -m bench.create [--conversations 20000] [--rounds 3] [--no-peer]

The server and the client (`turnloom dataset create`) are processes of their own, with the Qwen3 vocabulary. Prints the
wall clock, the CPU of both, where it goes by stage (in this process, one stage after the other), and the peer.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.program import EMBEDDED, libraries, need_redis, usage

PROGRAM: Final = usage("bench.create", __doc__)
PROGRAM.add_argument("--conversations", type=int, default=20_000)
PROGRAM.add_argument("--rounds", type=int, default=3)
PROGRAM.add_argument("--no-peer", dest="peer", action="store_false")

with libraries(EMBEDDED, __name__, PROGRAM):
    from bench import material, peer_map
    from bench.service import server
    from bench.sources import write
    from services.preprocess.api.dataset_upload import DatasetUpload, header_digest
    from services.preprocess.api.streams import ChunkPlace
    from services.preprocess.domain.bad_rows import BadRows
    from services.preprocess.domain.limits import DatasetSize
    from services.preprocess.wire.conversation import read_each
    from services.store.shards.dataset_files import DatasetWriter
    from turnloom.embedded.redis_server import RedisServer
    from turnloom.masks import Options, load_model
    from turnloom.masks.pipeline import preprocess_each
    from turnloom.reading.local_sources import LocalSource
    from turnloom.transport.uploads import numbered_chunks
    from turnloom.v1 import datasets_pb2 as pb

DATE = "2026-01-01"


def main() -> int:
    """Print the table."""
    asked = PROGRAM.parse_args()
    material.need()
    need_redis()
    if asked.peer:
        peer_map.need()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path = folder / "chats.jsonl"
        write(path, asked.conversations)
        with RedisServer(folder / "redis", folder / "redis.log") as redis:
            os.environ["TURNLOOM_REDIS_URL"] = redis.url
            streamed(folder, path, asked.conversations, asked.rounds)
        for name, microseconds in stages(folder, path, min(asked.conversations, 8_192)).items():
            print(f"  {name:<46} {microseconds:>7.1f} us a conversation")
        if asked.peer:
            print(peer_map.line(peer_map.measured(path)))
    return 0


def streamed(folder: Path, path: Path, count: int, rounds: int) -> None:
    """Print the rate and the CPU of both sides, medians of some rounds."""
    cores = sorted(os.sched_getaffinity(0))
    walls, theirs, ours = list[float](), list[float](), list[float]()
    with server(folder, cores) as running:
        turnloom(running.address, "models")  # what starting a client costs is measured apart
        before = os.times()
        turnloom(running.address, "models")
        start = _children(os.times()) - _children(before)
        for number in range(rounds):
            before, api, began = os.times(), running.cpu(), time.perf_counter()
            made = turnloom(
                running.address, "dataset", "create", str(path), "--name", str(number), "-o", f"date={DATE}"
            )
            walls.append(time.perf_counter() - began)
            theirs.append(running.cpu() - api)
            ours.append(_children(os.times()) - _children(before) - start)
            assert int(json.loads(made)[0]["conversations"]) == count
        print(f"{count} conversations, medians of {rounds} rounds; the client's start takes {start:.2f} s of CPU")
        rate = count / statistics.median(walls)
        print(f"dataset create, file to READY: {rate:.0f} conversations a second of the wall clock, start included")
        for name, seconds in (("API", statistics.median(theirs)), ("client", statistics.median(ours))):
            each = seconds / count * 1e6
            print(f"  {name:<46} {each:>7.1f} us of CPU a conversation: {1e6 / each:.0f} a second and core")
        print(f"  API, peak resident memory {running.memory('VmHWM'):.0f} MB")


def turnloom(address: str, *words: str) -> str:
    """Run a command of the client; its JSON."""
    command = [sys.executable, "-m", "turnloom.cli", *words, "--json"]
    environment = {**os.environ, "TURNLOOM_ADDRESS": address}
    return subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True, text=True, timeout=1800).stdout


def _children(times: os.times_result) -> float:
    return times.children_user + times.children_system


@contextmanager
def timed(name: str, count: int, found: dict[str, float]) -> Iterator[None]:
    """Add the CPU time of the block, in microseconds a conversation."""
    before = time.process_time()
    yield
    found[name] = found.get(name, 0.0) + (time.process_time() - before) / count * 1e6


def stages(folder: Path, path: Path, count: int) -> dict[str, float]:
    """What client and server do with the first conversations, one stage after the other."""
    found: dict[str, float] = {}
    model = load_model(folder / "qwen3")
    options = Options(date=DATE)
    part = LocalSource.open([path], limit=count).whole()
    with timed("client: read lines, JSON, to protobuf", count, found):
        sent = list(part.numbered())
    with timed("client: cut into chunks", count, found):
        parts = list(numbered_chunks(sent))
    with timed("client: serialize", count, found):
        data = [
            pb.CreateDatasetRequest(chunk=pb.DatasetChunk(conversations=some)).SerializeToString() for _, some in parts
        ]
    with timed("API: parse", count, found):
        messages = [pb.CreateDatasetRequest.FromString(one) for one in data]
    with DatasetWriter(str(folder / "stages"), "{}", known=lambda _: False) as writer:
        header = header_digest(pb.CreateDatasetHeader())
        upload = DatasetUpload(writer, BadRows.FAIL, DatasetSize(1 << 40, 1 << 50), header)
        for number, message in enumerate(messages, 1):
            with timed("API: check and digest what arrived", count, found):
                arrived = upload.accept(ChunkPlace(number, "chunk"), message)
            with timed("API: to conversations", count, found):
                read = list(read_each(arrived))
            with timed("API: engine", count, found):
                made = preprocess_each(read, options, model)
            with timed("API: check, hash and write rows", count, found):
                upload.add(arrived, made)
        with timed("API: commit", count, found):
            writer.commit()
    return found


if __name__ == "__main__":
    sys.exit(main())
