"""--help of every program that is started by name: for whoever runs it, without developers' notes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = [f"services.{path.parent.name}" for path in sorted((ROOT / "services").glob("*/__main__.py"))]
PROGRAMS = [*SERVICES, "services.preprocess tokens"]


def told(*words: str) -> str:
    """Return the help, one blank between words, which no width of a terminal changes."""
    command = [sys.executable, "-m", *words, "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (ran.returncode, ran.stderr) == (0, "")
    return " ".join(ran.stdout.split())


def test_all_services_are_looked_at() -> None:
    assert len(SERVICES) >= 5
    assert "services.trainer" in SERVICES


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_a_service_names_its_settings_and_exit_codes(program: str) -> None:
    said = told(*program.split())
    assert said.startswith(f"usage: python -m {program} [-h]")
    assert "docs/configuration.md" in said
    assert "Exit codes: " in said
    for developers in ("Command line of", "The only place", "Imported", "Raises:", "forked", "__main__"):
        assert developers not in said


@pytest.mark.parametrize("command", ["worker", "leave", "probe-host", "supervisor", "exporter"])
def test_the_trainer_says_what_each_of_its_commands_does(command: str) -> None:
    description = told("services.trainer").partition("positional arguments")[0].partition("docs/configuration.md")[2]
    assert f" {command} " in description


@pytest.mark.parametrize(
    "program",
    ["turnloom.masks.prepare", "turnloom.embedded.sample_data", "scripts.configuration_docs", "tests.graveyard"],
)
def test_other_programs_have_a_help_too(program: str) -> None:
    assert told(program).startswith(f"usage: python -m {program} [-h]")


def test_an_exporter_whose_port_is_taken_ends_with_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = {"TURNLOOM_EXPORTER_HOST": "127.0.0.1", "TURNLOOM_EXPORTER_PORT": f"{port}"}
        command = [sys.executable, "-m", "services.trainer", "exporter"]
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env={**os.environ, **settings}
        )
    assert ran.returncode == 2
    assert ran.stderr.startswith(f"TURNLOOM_EXPORTER_PORT: can't listen on 127.0.0.1:{port} (")
    assert ran.stderr.endswith("; end the process that has it, or give another port\n")
