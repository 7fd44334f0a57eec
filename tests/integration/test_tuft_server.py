"""The real TuFT as a process: what starts, what ends, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from turnloom.embedded.tuft_server import (
    TuftDidNotStart,
    TuftError,
    TuftNotInstalled,
    TuftServer,
    TuftSettings,
    find_tuft_python,
)

PARENT = """
import sys, time
from pathlib import Path
from turnloom.embedded.tuft_server import TuftServer, TuftSettings
server = TuftServer(TuftSettings(python=Path(sys.argv[1]), home=Path(sys.argv[2]), model_path=Path(sys.argv[3])))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def session_members(session: int) -> list[str]:
    """Command lines of the living processes of a session; the server and all of its Ray are in one."""
    listed = subprocess.run(["ps", "-eww", "-o", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return [row[2] for row in rows if int(row[0]) == session and not row[1].startswith("Z")]


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "the condition did not come true"
        time.sleep(0.05)


@pytest.fixture
def settings(tuft_python: Path, tiny_model_dir: Path, tmp_path: Path) -> TuftSettings:
    return TuftSettings(python=tuft_python, home=tmp_path / "tuft", model_path=tiny_model_dir)


@pytest.mark.tuft
def test_two_servers_run_side_by_side_and_end_without_a_trace(settings: TuftSettings, tmp_path: Path) -> None:
    other_settings = TuftSettings(
        python=settings.python, home=tmp_path / "other", model_path=settings.model_path, api_key="tml-other"
    )
    with TuftServer(settings) as server, TuftServer(other_settings) as other:
        server.create_and_unload()
        other.create_and_unload()
        first, second = server.pid, other.pid
        assert first is not None
        assert second is not None
        assert any("raylet" in command for command in session_members(first))
        server.stop()
        assert not session_members(first)
        assert not server.running
        other.create_and_unload()  # it did not lean on the other's Ray
        other.kill()
        assert not session_members(second)


@pytest.mark.slow
@pytest.mark.tuft
def test_nothing_is_left_when_the_process_that_started_it_is_killed(settings: TuftSettings) -> None:
    command = [sys.executable, "-c", PARENT, str(settings.python), str(settings.home), str(settings.model_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        session = int(parent.stdout.readline())
        assert session_members(session)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: not session_members(session))


@pytest.mark.slow
@pytest.mark.tuft
def test_nothing_is_left_when_the_launcher_itself_is_killed(settings: TuftSettings) -> None:
    with TuftServer(settings) as server:
        session = server.pid
        assert session is not None
        launcher = parent_of(session)
        os.kill(launcher, signal.SIGKILL)
        server.stop()
        wait_for(lambda: not session_members(session))
        assert not list(Path("/tmp").glob(f"tl-ray-{launcher}-*"))


def parent_of(pid: int) -> int:
    return int(subprocess.run(["ps", "-o", "ppid=", str(pid)], capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.tuft
def test_a_model_that_does_not_exist_is_told_by_creating_not_by_health(settings: TuftSettings, tmp_path: Path) -> None:
    nowhere = TuftSettings(python=settings.python, home=tmp_path / "nowhere", model_path=tmp_path / "no-model")
    with TuftServer(nowhere) as server, pytest.raises(TuftDidNotStart, match="refused create_model with status"):
        server.create_and_unload()


def test_a_server_that_ends_while_starting_says_why(tmp_path: Path) -> None:
    settings = TuftSettings(python=Path(sys.executable), home=tmp_path / "tuft", model_path=tmp_path)
    with pytest.raises(TuftDidNotStart, match=r"TuFT ended while starting; the end of .*tuft\.log:"):
        TuftServer(settings).start(120)


def test_a_key_that_the_sdk_would_refuse_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(TuftError, match="a TuFT key is tml- followed by letters, digits, _ or -"):
        TuftSettings(python=tmp_path, home=tmp_path, model_path=tmp_path, api_key="secret")


def test_a_missing_installation_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNLOOM_TUFT_PYTHON", "/no/such/python")
    with pytest.raises(
        TuftNotInstalled, match=r"/no/such/python, which does not exist; run scripts/install_tuft_cpu\.sh"
    ):
        find_tuft_python()


def test_stopping_what_never_started_does_nothing(tmp_path: Path) -> None:
    server = TuftServer(TuftSettings(python=tmp_path, home=tmp_path, model_path=tmp_path))
    server.stop()
    server.kill()
    assert not server.running
