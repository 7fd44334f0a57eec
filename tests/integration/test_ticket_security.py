"""What a stranger who can write to a queue can't do: run other functions, call back, post to a URL, loop, see secrets.

The workers are real processes. Tickets are written with RQ's own client, as a stranger would.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from rq import Callback, Queue, Retry
from rq.job import Job
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from services.store.connection import connect_rq
from services.store.queueing.queues import PREPROCESS_QUEUE
from services.store.queueing.ticket_jobs import TicketFault, TicketJob
from tests.support.receiver import Receiver
from tests.support.redis_fixtures import RedisServer

ROOT = Path(__file__).parents[2]
LIMIT = 200  #: seconds
PASSWORD = "s3cret-pa%2Fss"
PLAIN = "s3cret-pa/ss"
BURST = """
import os, sys
from services.store.logs import log_to_stderr
from services.preprocess.settings import read_settings
from services.preprocess.datasets.worker.process import work
log_to_stderr("debug")
sys.exit(work(read_settings(os.environ), burst=True))
"""
#: Program that empties the queue and ends, and the queue's name.
WORKERS = {
    "preprocess": ([sys.executable, "-c", BURST], PREPROCESS_QUEUE),
    "trainer": ([sys.executable, "-m", "services.trainer", "--allow-cpu", "--burst"], "train.here"),
}


def environment(redis_url: str, folder: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("TURNLOOM_")},
        "TURNLOOM_REDIS_URL": redis_url,
        "TURNLOOM_STORE_URL": str(folder / "store"),
        "TURNLOOM_HOST": "here",
        "TURNLOOM_TUFT_URL": "http://127.0.0.1:1",
        "TURNLOOM_TUFT_API_KEY": "tml-hidden",
        "TURNLOOM_TUFT_CHECKPOINT_DIR": str(folder),
    }


@pytest.fixture(params=sorted(WORKERS))
def worker(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> tuple[Callable[[], str], Queue]:
    """Runs a worker until its queue is empty and answers its log; and the queue as a stranger has it."""
    command, name = WORKERS[request.param]

    def run() -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(redis_url, tmp_path),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
        )
        return done.stdout + done.stderr

    return run, Queue(name, connection=connect_rq(redis_url, socket_timeout=10), serializer=JSONSerializer)


Worker = tuple[Callable[[], str], Queue]


def failure(job: Job) -> str:
    latest = job.latest_result()
    assert latest is not None
    assert latest.exc_string
    return latest.exc_string.strip().splitlines()[-1]


def test_a_foreign_function_is_refused_once_whatever_the_ticket_asks_for(worker: Worker, tmp_path: Path) -> None:
    run, queue = worker
    told = str(tmp_path / "told")
    job = queue.enqueue_call(
        "os.mkdir",
        args=(told,),
        retry=Retry(max=1_000),
        on_success=Callback("os.mkdir"),
        on_failure=Callback("os.mkdir"),
    )
    log = run()  # ends, so the ticket was not begun again
    assert "os.mkdir is not a function of the" in failure(job)
    assert "os.mkdir is not a function of the" in log
    assert not Path(told).exists()
    assert queue.count == 0
    assert ScheduledJobRegistry(queue=queue).count == 0
    job.refresh()
    assert job.retries_left in (None, 1_000)  # nothing counted it down


def test_callbacks_and_webhooks_of_a_ticket_are_never_called(worker: Worker, tmp_path: Path) -> None:
    run, queue = worker
    with Receiver() as hook:
        job = queue.enqueue_call(
            "os.getcwd",
            on_failure=Callback("tests.integration.ticket_marks.leave_a_mark"),
            webhooks=[Webhook(url=hook.url, job_status="failed")],
        )
        log = run()
    assert "os.getcwd is not a function of the" in failure(job)  # a callback that failed would stand here instead
    assert "ticket_marks" not in log
    assert hook.came == []


def test_a_pickle_is_never_opened(worker: Worker, tmp_path: Path) -> None:
    run, queue = worker
    told = tmp_path / "told"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(told),))

    job = queue.enqueue_call("os.getcwd")
    job.connection.hset(job.key, "data", pickle.dumps(("os.getcwd", None, (Evil(),), {})))
    run()
    assert not told.exists()
    assert queue.count == 0


def test_words_of_an_unforeseen_error_stay_out_of_the_ticket_and_the_log(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Open(TicketJob):
        allowed = frozenset({"json.loads"})
        whose = "the test"

    connection = connect_rq(redis_url, socket_timeout=10)
    made = Queue("q", connection=connection, serializer=JSONSerializer).enqueue_call("json.loads", args=("private",))
    job = Open.fetch(made.id, connection=connection, serializer=JSONSerializer)
    with pytest.raises(TicketFault) as caught:
        job.perform()
    assert str(caught.value).startswith("JSONDecodeError (error id ")
    assert str(caught.value).endswith("the log of the test says where it came from")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    (line,) = [record.getMessage() for record in caplog.records if record.name == "turnloom.worker"]
    assert "unforeseen JSONDecodeError" in line
    assert "private" not in line


@pytest.fixture
def locked(redis_server: RedisServer) -> Iterator[str]:
    """URL of a Redis that wants a password; open again at the end."""
    redis_server.flush()
    with redis.Redis(port=redis_server.port) as client:
        client.config_set("requirepass", PLAIN)
        yield f"redis://:{PASSWORD}@127.0.0.1:{redis_server.port}/0"
        client.execute_command("AUTH", PLAIN)
        client.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("program", "right"),
    [
        (["services.trainer", "--allow-cpu"], True),
        (["services.preprocess", "worker"], False),
        (["services.trainer", "--allow-cpu"], False),
        (["services.trainer", "supervisor"], False),
    ],
)
def test_the_password_of_redis_is_in_no_log_no_process_list_and_no_error(
    locked: str, right: bool, program: list[str], tmp_path: Path
) -> None:
    url = locked if right else locked.replace(PASSWORD, f"wrong-{PASSWORD}")
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *program],
            cwd=ROOT,
            env={**environment(url, tmp_path), "TURNLOOM_EXPORTER_PORT": "0", "TURNLOOM_LOG_LEVEL": "debug"},
            stdout=file,
            stderr=file,
        )
        try:
            seen = _process_list(process, log, *((b"", 10.0) if right else (b"Redis", 120.0)))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
    assert any("services." in line for line in seen)
    said = log.read_text(errors="replace")
    for shown in (PASSWORD, PLAIN, "tml-hidden"):
        assert shown not in said
        assert not any(shown in line for line in seen)
    assert right or "Redis" in said


def _process_list(process: subprocess.Popen[bytes], log: Path, word: bytes, seconds: float) -> set[str]:
    """Command lines of a process and its children, looked at until it ends, has said the word, or time is up."""
    seen: set[str] = set()
    pause = threading.Event()
    for _ in range(int(seconds / 0.05)):
        for pid in (process.pid, *_children(process.pid)):
            try:
                seen.add(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        said = log.read_bytes()
        if process.poll() is not None or (said and word in said):
            break
        pause.wait(0.05)
    return seen


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
