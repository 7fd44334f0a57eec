"""Every program of bench/ says in one sentence what it lacks, and shows its --help without any library."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for path in sorted((ROOT / "bench").rglob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]
SERVERS = ["--size", "tiny", "--prepared", "nowhere", "--out", "nowhere"]
#: What a program can't be called without.
WORDS = {
    "bench.gpu": SERVERS,
    "bench.gpu.accelerated": ["tiny", "nowhere", "nowhere"],
    "bench.gpu.attention": ["tiny", "nowhere"],
    "bench.gpu.make_model": ["tiny", "nowhere"],
    "bench.gpu.peers": ["tiny", "nowhere", "nowhere", "nowhere"],
    "bench.gpu.profile_server": ["nowhere", "nowhere"],
    "bench.gpu.report": ["nowhere"],
    "bench.gpu.short": SERVERS,
    "bench.gpu.two_gpus": SERVERS,
    "bench.peer_map": ["nowhere"],
}


def done(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    more = environment or {}
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env={**os.environ, **more},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_needs_no_library(program: str) -> None:
    ran = done("-S", "-m", program, "--help")  # -S: without site-packages
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"usage: python -m {program} ")


@pytest.mark.parametrize("program", [one for one in PROGRAMS if one != "bench.gpu.report"])  # which needs none
def test_a_program_without_its_libraries_ends_with_one_sentence(program: str) -> None:
    ran = done("-S", "-m", program, *WORDS.get(program, []))
    assert ran.returncode == 2, ran.stderr
    (sentence,) = ran.stderr.splitlines()
    assert " is not installed; run " in sentence


@pytest.mark.parametrize(
    ("program", "variable", "missing"),
    [
        *((f"bench.{one}", "TURNLOOM_TOKENIZERS", "tokenizer.json") for one in ("growth", "shards", "create")),
        *((f"bench.{one}", "TURNLOOM_TEMPLATES", "jinja") for one in ("preprocess", "agents", "service", "sources")),
        ("bench.peer_map", "TURNLOOM_TEMPLATES", "jinja"),
        ("bench.templates", "TURNLOOM_TEMPLATES", "nowhere"),
    ],
)
def test_a_program_without_its_files_ends_with_one_sentence(
    program: str, variable: str, missing: str, tmp_path: Path
) -> None:
    files = {"TURNLOOM_TOKENIZERS": "tokenizers", "TURNLOOM_TEMPLATES": "templates"}
    environment = {name: str(tmp_path / folder) for name, folder in files.items()}
    vocabulary = tmp_path / "tokenizers" / "qwen3" / "tokenizer.json"
    vocabulary.parent.mkdir(parents=True)
    vocabulary.touch()
    environment[variable] = str(tmp_path / "nowhere")
    ran = done("-m", program, *WORDS.get(program, []), environment=environment)
    assert ran.returncode == 2, ran.stderr
    (sentence,) = ran.stderr.splitlines()
    assert f"is missing; set {variable}" in sentence
    assert missing in sentence


def test_programs_that_start_servers_name_a_prepared_model_that_is_not_there() -> None:
    ran = done("-m", "bench.gpu", *SERVERS)
    assert (ran.returncode, ran.stderr) == (
        2, "nowhere is missing; prepare a model with python -m turnloom.masks.prepare\n",
    )  # fmt: skip


def test_a_report_of_a_file_that_is_not_there_names_it() -> None:
    ran = done("-S", "-m", "bench.gpu.report", "nowhere")
    assert (ran.returncode, ran.stderr) == (2, "nowhere is missing; give the results.jsonl of a run\n")
