"""The keeper of a server's processes: what ends it, what does not, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from services.tuft import keeper
from tests.support.api_calls import wait_until

#: A server that starts a child of its own, which it forgets when it ends.
SERVER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
time.sleep(99)
"""
KEEPER = """
import os, sys
from pathlib import Path
from services.tuft.keeper import keep
sys.exit(keep([sys.executable, "-c", sys.argv[1]], os.environ, None, Path(sys.argv[2])))
"""


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """A keeper and its server, whose child runs."""
    pid_file = tmp_path / "pid"
    started = subprocess.Popen([sys.executable, "-c", KEEPER, SERVER, str(pid_file)], cwd=Path(__file__).parents[3])
    try:
        wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"), 60)
        server = psutil.Process(int(pid_file.read_text()))
        wait_until(lambda: bool(server.children()), 60)
        yield started, server
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGCONT)
            started.terminate()
        started.wait(60)


def test_a_stopped_and_continued_machine_ends_nothing(kept) -> None:
    started, server = kept
    for _ in range(3):
        for number in (signal.SIGSTOP, signal.SIGCONT):
            os.kill(started.pid, number)
            os.kill(server.pid, number)
    with pytest.raises(subprocess.TimeoutExpired):
        started.wait(3 * keeper.TICK)
    assert server.is_running()


def test_asked_to_end_it_leaves_nothing(kept) -> None:
    started, server = kept
    family = [server, *server.children(recursive=True)]
    started.terminate()
    assert started.wait(60) == 0
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_a_server_that_is_killed_ends_its_keeper_and_its_children(kept) -> None:
    started, server = kept
    children = server.children(recursive=True)
    server.kill()
    assert started.wait(60) == signal.SIGKILL
    assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("number", [0, 32767, int(signal.SIGCONT), -1])
def test_a_signal_that_nobody_waits_for_is_none(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(keeper.signal, "sigtimedwait", lambda *_: SimpleNamespace(si_signo=number))
    assert keeper.woken() is None


@pytest.mark.parametrize("number", keeper.WAKING)
def test_signals_that_are_waited_for_are_told(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    monkeypatch.setattr(keeper.signal, "sigtimedwait", lambda *_: SimpleNamespace(si_signo=int(number)))
    assert keeper.woken() is number
