"""A halved sweep from the command line to its verdict, on a real worker, supervisor and API and the fake TuFT."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.store.records import HostRecord, JobState
from tests.support.api_calls import Api, Start
from tests.support.cli_runs import turnloom
from tests.support.trainer_stack import TrainerStack, wait_for


def test_one_command_halves_a_grid_and_says_what_was_stopped_where_and_what_is_within_noise(
    start_api: Start, stack: TrainerStack, chats: Path, tmp_path: Path
) -> None:
    address = start_api(stack.redis.url).address
    stack.worker()
    stack.supervisor()
    wait_for(lambda: any(host.backend_up for host in stack.store.hosts.list()), "the host's record")
    words = ("--test", chats, "--rank", 2, "--lr", "1e-4", "1e-3", "1e-2", "1e-1", "--steps", 8, "--eval-every", 2)
    to = tmp_path / "report"
    ran = turnloom(address, "sweep", chats, *words, "--batch-size", 4, "--halving", "--to", to)
    assert ran.code == 0, ran.err
    assert "4 jobs, of which 2 go on after step 2, 1 goes on after step 4" in ran.err
    assert "waits at 2" in ran.err
    assert "stopped at 2: 4 of 4" in ran.err
    (listed,) = turnloom(address, "sweeps", "--json").document
    jobs = [stack.store.jobs.get(job["id"]) for job in listed["jobs"]]
    assert sorted((job.state.name, job.step) for job in jobs) == [
        ("CANCELLED", 2),
        ("CANCELLED", 2),
        ("CANCELLED", 4),
        ("SUCCEEDED", 8),
    ]
    assert all(job.work.steps == job.step for job in jobs), "no step was trained twice"
    stopped = [job for job in jobs if job.state is JobState.CANCELLED]
    for job in stopped:
        kept = stack.store.ledger.checkpoint(job.id)
        assert (kept.step, kept.stored) == (job.step, True), "as of a cancelled job"
    verdict = json.loads((to / "verdict.json").read_text())
    assert set(verdict["stopped"]) == {job.id for job in stopped}
    assert "Stopped by successive halving at step 2: " in ran.out
    assert "place 4 of 4" in ran.out
    assert (to / "figure-1-test-nll.png").stat().st_size > 10_000

    told = turnloom(address, "watch", stopped[0].id)
    assert told.code == 1
    assert stopped[0].standing.reason in told.out.replace("\n", " ")
    last = turnloom(address, "resume", stopped[0].id)
    assert last.code == 0, last.err
    assert stack.wait(stopped[0].id, JobState.SUCCEEDED).step == 8

    plotted = turnloom(address, "plot", stopped[0].id, *(job.id for job in jobs if job not in stopped), "--to", to)
    assert plotted.code == 0, plotted.err
    assert "Noise is the standard error of the difference over 12 test conversations" in plotted.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--eta", 2), "--eta and --rungs belong to --halving."),
        (("--rungs", 2, 4), "--eta and --rungs belong to --halving."),
        (("--halving", "--eta", 1), "halving_eta: is 1; give 2 or more, since one cell in 2 goes on at most."),
        (("--halving", "--steps", 8, "--rungs", 2, 9), "halving_rungs[1]: is 9; the cells have 8 steps"),
    ],
)
def test_a_wrong_halving_is_refused_in_one_sentence(
    api: Api, gpu_host: HostRecord, chats: Path, words: tuple[object, ...], sentence: str
) -> None:
    refused = turnloom(api.address, "sweep", chats, "--test-fraction", 0.25, "--rank", 2, 4, 8, *words)
    assert refused.code == 2
    assert sentence in refused.err.replace("\n", " ")
    assert turnloom(api.address, "jobs", "--json").document == []
