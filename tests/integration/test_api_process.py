"""`python -m services.preprocess` as a process: says where it listens, drains on SIGTERM, names what is wrong."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from services.preprocess.wire.options import DEFAULTS, options_to_json
from services.store.ids import new_id
from services.store.records import DatasetRecord
from services.store.shards.dataset_files import canonical_json
from services.store.store import open_store
from tests.support.api_calls import (
    MODEL,
    NO_REDIS,
    Refused,
    chat,
    first_request,
    options,
    read_refusal,
    refusal,
    wait_until,
)
from turnloom.v1 import datasets_pb2
from turnloom.v1 import preprocess_pb2 as pb
from turnloom.v1.datasets_pb2_grpc import DatasetServiceStub
from turnloom.v1.preprocess_pb2_grpc import PreprocessServiceStub

ROOT = Path(__file__).parents[2]
LIMIT = 90  #: seconds that a process may take to start, or any call
CALLERS = 4  #: that call while a server drains
Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(tmp_path: Path, model_folder: Path) -> Iterator[Run]:
    """Starts the program; all that is left of it at the end is killed."""
    models = tmp_path / "models.toml"
    models.write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{model_folder}"\n')
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        given = {name: value for name, value in os.environ.items() if not name.startswith("TURNLOOM_")}
        settings = {
            "TURNLOOM_ADDRESS": "127.0.0.1:0",
            "TURNLOOM_METRICS_PORT": "-1",
            "TURNLOOM_MODELS": str(models),
            "TURNLOOM_REDIS_URL": NO_REDIS,
            "TURNLOOM_STORE_URL": str(tmp_path / "store"),
            "TURNLOOM_DRAIN_SECONDS": "10",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "services.preprocess", *arguments],
            cwd=ROOT,
            env={**given, **settings, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def announced(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    line: dict[str, object] = json.loads(process.stdout.readline())
    return line


def wait_for_models(channel: grpc.Channel) -> None:
    health, request = HealthStub(channel), HealthCheckRequest(service="turnloom.v1.PreprocessService")
    wait_until(lambda: health.Check(request, timeout=LIMIT).status == HealthCheckResponse.SERVING, LIMIT)


def test_it_says_where_it_listens_serves_metrics_and_ends_cleanly(run: Run, tmp_path: Path) -> None:
    process = run("--port-file", str(tmp_path / "port"))
    said = announced(process)
    wait_until((tmp_path / "port").exists)
    assert json.loads((tmp_path / "port").read_text()) == said
    assert said["pid"] == process.pid
    with grpc.insecure_channel(str(said["address"])) as channel:
        wait_for_models(channel)
        stub = PreprocessServiceStub(channel)
        stub.Preprocess(
            pb.PreprocessRequest(options=options(), conversations=[chat("private", "words")]), timeout=LIMIT
        )
    with urllib.request.urlopen(f"http://127.0.0.1:{said['metrics_port']}/metrics", timeout=LIMIT) as answer:
        text = answer.read().decode()
    assert 'turnloom_preprocess_examples_total{model="small/chat",outcome="made"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert "private" not in errors


def test_sigterm_lets_a_running_stream_end_and_refuses_new_calls(run: Run) -> None:
    # The stream ends long before. A line for each call would fill the pipe, which nobody reads, and stop the server.
    process = run(TURNLOOM_DRAIN_SECONDS=str(LIMIT), TURNLOOM_LOG_LEVEL="warning")
    address = str(announced(process)["address"])
    more = threading.Event()

    def send() -> Iterator[pb.StreamPreprocessRequest]:
        yield first_request(options())
        yield pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=[chat("a", "b")]))
        assert more.wait(LIMIT)
        yield pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=[chat("c", "d")]))

    with grpc.insecure_channel(address) as channel:
        wait_for_models(channel)
        stream = PreprocessServiceStub(channel).StreamPreprocess(send(), timeout=LIMIT)
        assert list(next(stream).batch.conversation_index) == [0]
        process.send_signal(signal.SIGTERM)

        refused = threading.Barrier(CALLERS + 1, timeout=LIMIT)

        def call_until_refused() -> Refused:
            """What a client hears first that keeps calling, each time over a new connection."""
            while True:
                with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as other:
                    try:
                        PreprocessServiceStub(other).GetServerInfo(pb.GetServerInfoRequest(), timeout=LIMIT)
                    except grpc.RpcError as error:
                        refused.wait()
                        return read_refusal(error)

        with ThreadPoolExecutor(CALLERS) as callers:
            heard = [callers.submit(call_until_refused) for _ in range(CALLERS)]
            refused.wait()
            assert {(answer.result().code, answer.result().reason) for answer in heard} == {
                (grpc.StatusCode.UNAVAILABLE, "DRAINING")
            }
        assert process.poll() is None
        more.set()
        assert [list(answer.batch.conversation_index) for answer in stream] == [[1]]
    assert process.wait(LIMIT) == 0


def test_sigterm_sends_watches_elsewhere_instead_of_waiting_for_them(run: Run, redis_url: str) -> None:
    store = open_store(redis_url)
    options_json = canonical_json(options_to_json(DEFAULTS, MODEL))
    dataset = store.datasets.create(DatasetRecord(id=new_id("ds"), options_json=options_json)).dataset.id
    store.close()
    process = run(TURNLOOM_REDIS_URL=redis_url)
    with grpc.insecure_channel(str(announced(process)["address"])) as channel:
        wait_for_models(channel)
        watch = DatasetServiceStub(channel).WatchDataset(datasets_pb2.WatchDatasetRequest(id=dataset), timeout=LIMIT)
        assert next(watch).dataset.id == dataset
        process.send_signal(signal.SIGTERM)
        said = refusal(lambda: next(watch))
        assert (said.code, said.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert process.wait(LIMIT) == 0


def test_a_call_that_outlives_the_drain_is_cut_and_the_process_ends(run: Run) -> None:
    process = run(TURNLOOM_DRAIN_SECONDS="0.5")
    done = threading.Event()

    def hold() -> Iterator[pb.StreamPreprocessRequest]:
        yield first_request(options())
        yield pb.StreamPreprocessRequest(chunk=pb.ConversationChunk(conversations=[chat("a", "b")]))
        done.wait(LIMIT)

    with grpc.insecure_channel(str(announced(process)["address"])) as channel:
        wait_for_models(channel)
        stream = PreprocessServiceStub(channel).StreamPreprocess(hold(), timeout=LIMIT)
        next(stream)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0
        assert refusal(lambda: next(stream)).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        done.set()


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        ((), {"TURNLOOM_THREADS": "x"}, "TURNLOOM_THREADS: 'x' can't be used; give a number from 4 to 1000"),
        (
            (),
            {"TURNLOOM_MODELS": "/none.toml"},
            "/none.toml: there is no such file; set TURNLOOM_MODELS",
        ),
        (("--address", "x"), {}, "'x' can't be used; give HOST:PORT"),
        (("--processes", "0"), {}, "'0' can't be used; give a number from 1 to 64"),
        (("--processes", "2"), {"TURNLOOM_MODELS": "/none.toml"}, "/none.toml: there is no such file"),
    ],
)
def test_wrong_settings_end_with_one_sentence_and_code_2(
    run: Run, arguments: tuple[str, ...], environment: dict[str, str], sentence: str
) -> None:
    process = run(*arguments, **environment)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    assert sentence in errors.splitlines()[-1]


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("name", ["TURNLOOM_ADDRESS", "TURNLOOM_METRICS_PORT"])
def test_an_address_that_is_taken_is_refused(run: Run, name: str, processes: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = run(
            "--processes", processes, **{name: f"127.0.0.1:{port}" if name == "TURNLOOM_ADDRESS" else str(port)}
        )
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    assert name in errors.splitlines()[-1]
    assert "can't listen on" in errors.splitlines()[-1]


def listeners(port: int) -> int:
    """How many sockets of this machine listen on a port."""
    lines = [line for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()[1:]]
    rows = [line.split() for line in lines]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)


def servers_of(parent: int) -> set[int]:
    """The processes that serve for this one."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (process / "stat").read_text(), (process / "cmdline").read_text()
        except OSError:
            continue  # it ended in the meantime
        if stat.rpartition(")")[2].split()[1] == str(parent) and "spawn_main" in command:
            found.add(int(process.name))
    return found


def call(address: str, times: int) -> None:
    """Preprocess a conversation over each of so many connections."""
    for _ in range(times):
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            request = pb.PreprocessRequest(options=options(), conversations=[chat("a", "b")])
            answer = PreprocessServiceStub(channel).Preprocess(request, timeout=LIMIT, wait_for_ready=True)
            assert not answer.issues


def metrics_text(port: object) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT) as answer:
        text: str = answer.read().decode()
    return text


def test_several_processes_serve_one_port_and_count_as_one(run: Run, tmp_path: Path) -> None:
    process = run("--processes", "2", "--port-file", str(tmp_path / "port"))
    said = announced(process)
    wait_until((tmp_path / "port").exists)
    assert json.loads((tmp_path / "port").read_text()) == said
    assert said["pid"] == process.pid
    address, port = str(said["address"]), int(str(said["address"]).rpartition(":")[2])
    assert listeners(port) == 2
    with grpc.insecure_channel(address) as channel:  # no waiting: models are loaded before a process listens
        asked = HealthCheckRequest(service="turnloom.v1.PreprocessService")
        assert HealthStub(channel).Check(asked, timeout=LIMIT).status == HealthCheckResponse.SERVING
    call(address, 12)
    made = 'turnloom_preprocess_examples_total{model="small/chat",outcome="made"}'
    text = metrics_text(said["metrics_port"])
    assert f"{made} 12.0" in text
    assert text.count("\nprocess_resident_memory_bytes ") == 1
    assert "# HELP grpc_server_handled_total RPCs ended." in text

    victim = min(servers_of(process.pid))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in servers_of(process.pid) and listeners(port) == 2, LIMIT)
    call(address, 4)
    assert f"{made} 16.0" in metrics_text(said["metrics_port"])

    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert listeners(port) == 0
    assert "a process of the API died; another begins" in errors


def test_processes_end_with_the_one_that_started_them(run: Run) -> None:
    process = run("--processes", "2")
    port = int(str(announced(process)["address"]).rpartition(":")[2])
    assert listeners(port) == 2
    process.kill()
    wait_until(lambda: listeners(port) == 0, LIMIT)


def test_a_port_that_others_share_is_refused(run: Run) -> None:
    first = run("--processes", "2")
    address = str(announced(first)["address"])
    second = run("--processes", "2", TURNLOOM_ADDRESS=address)
    _, errors = second.communicate(timeout=LIMIT)
    assert second.returncode == 2
    assert f"TURNLOOM_ADDRESS: can't listen on {address}" in errors.splitlines()[-1]


def test_the_serving_process_never_imports_transformers_datasets_torch_or_tinker() -> None:
    program = (
        "import sys, services.preprocess.api.process\n"
        "print([name for name in ('transformers', 'datasets', 'torch', 'tinker') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_workers_parent_holds_neither_grpc_nor_models() -> None:
    program = (
        "import sys, threading, services.preprocess.__main__, services.preprocess.datasets.worker\n"
        "heavy = ('grpc', 'transformers', 'datasets', 'tokenizers', 'numpy', 'pyarrow')\n"
        "print([name for name in heavy if name in sys.modules], threading.active_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1"


def test_the_worker_without_redis_says_so(run: Run) -> None:
    process = run("worker")
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 3
    assert "Redis can't be reached" in errors.splitlines()[-1]


def test_a_signal_to_all_processes_at_once_ends_them_without_a_successor(run: Run) -> None:
    process = run("--processes", "2")
    announced(process)
    for pid in (process.pid, *servers_of(process.pid)):  # as a terminal's Ctrl-C and systemd do
        os.kill(pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0
    assert "another begins" not in errors
