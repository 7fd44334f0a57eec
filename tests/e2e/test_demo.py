"""The demo as a user runs it, on the real TuFT: its numbers, its results, and that nothing of it is left."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.cli_runs import write_chats
from turnloom.embedded.sample_data import held_out_conversations

pytestmark = [pytest.mark.tuft, pytest.mark.slow, pytest.mark.timeout(900)]


def start_demo(tuft_python: Path, folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    """The demo in `folder`, whose temporary folder is inside of it."""
    (folder / "tmp").mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "turnloom.demo", "--tuft-python", str(tuft_python), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 # ignored under `&`
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that name the folder or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in words or str((process / "cwd").readlink()).startswith(str(folder)):
                found.append(words)
        except OSError:
            continue  # it ended while we looked
    return found


def test_the_demo_learns_uses_its_prompts_repeats_exactly_and_cleans_up(tuft_python: Path, tmp_path: Path) -> None:
    demo = start_demo(tuft_python, tmp_path, "--verify", "--json")
    out, err = demo.communicate(timeout=800)
    assert demo.returncode == 0, err
    found = json.loads(out)
    assert found["test_nll"] <= found["unigram_nll"] / 3
    assert found["shuffled_nll"] > 2 * found["test_nll"]
    assert found["start_nll"] > found["unigram_nll"]  # it knew nothing before
    assert found["verified"] is True
    held_out = {
        (message["content"], reply["content"])
        for conversation in held_out_conversations()
        for message, reply in pairwise(conversation["messages"])
    }
    assert (found["prompt"], found["reply"]) in held_out  # the right answer to a conversation never trained on
    assert (found["prompt"], found["base_reply"]) not in held_out
    results = tmp_path / "turnloom-demo"
    assert {path.name for path in results.iterdir()} == {"adapter", "nll.png", "steps.csv", "results.json"}
    assert (results / "nll.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((results / "adapter" / "adapter_config.json").read_text())["r"] == 16
    with (results / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    assert [int(step["step"]) for step in steps] == list(range(found["steps"] + 1))
    assert float(steps[-1]["test_nll"]) == found["test_nll"]
    assert not list((tmp_path / "tmp").glob("turnloom-*"))
    assert processes_in(tmp_path) == []


def test_ctrl_c_stops_everything_and_leaves_no_process_and_no_file(tuft_python: Path, tmp_path: Path) -> None:
    demo = start_demo(tuft_python, tmp_path)
    assert demo.stderr is not None
    for line in demo.stderr:
        if "NLL" in line:
            break
    demo.send_signal(signal.SIGINT)
    _, err = demo.communicate(timeout=200)
    assert demo.returncode == 130
    assert "Interrupted; everything was stopped." in err
    assert "Traceback" not in err
    assert not list((tmp_path / "tmp").glob("turnloom-*"))
    assert processes_in(tmp_path) == []


def test_a_killed_demo_leaves_no_process(tuft_python: Path, tmp_path: Path) -> None:
    demo = start_demo(tuft_python, tmp_path)
    assert demo.stderr is not None
    for line in demo.stderr:
        if "all of it runs" in line:
            break
    assert len(processes_in(tmp_path)) > 5
    demo.kill()
    demo.communicate()
    until = time.monotonic() + 120  # TuFT's keeper gives it 12 s to end by itself
    while processes_in(tmp_path):
        assert time.monotonic() < until, processes_in(tmp_path)
        time.sleep(0.2)


def test_the_demo_trains_on_the_users_own_conversations(tuft_python: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "mine.jsonl", "Wie geht es dir? ü", "Mir geht es gut, danke.", copies=30)
    before = hashlib.sha256(data.read_bytes()).hexdigest()
    demo = start_demo(tuft_python, tmp_path, "--data", data, "--steps", "10", "--json", "--out", tmp_path / "out")
    out, err = demo.communicate(timeout=400)
    assert demo.returncode == 0, err
    found = json.loads(out)
    assert found["test_nll"] < found["start_nll"]
    assert hashlib.sha256(data.read_bytes()).hexdigest() == before


def test_a_mistake_in_the_users_file_is_named_before_anything_starts(tuft_python: Path, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "mine.jsonl", "hi", "ho")
    data.write_text(data.read_text() + "{\n", encoding="utf-8")
    demo = start_demo(tuft_python, tmp_path, "--data", data)
    _, err = demo.communicate(timeout=200)
    assert demo.returncode == 2
    assert f"{data}, line 2: is not JSON (" in err
    assert "Starting" not in err
