"""docs/runs.md says what the code does: states and their edges, error codes with their hints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.store.jobs import MAX_IDLE_ATTEMPTS, MAX_STALLED_ATTEMPTS
from services.store.records import EDGES, Hyperparameters, JobState, Schedule
from services.trainer.checkpoints import AdapterUnusable
from services.trainer.errors import HINTS, RETRYABLE, CheckpointLost, DatasetUnusable, NonFiniteLoss, ProbeMismatch
from services.trainer.schedule import learning_rate

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")


def rows(header: str) -> dict[str, list[str]]:
    """The table whose header line begins so: first cell to the others."""
    table = PAGE[PAGE.index(f"| {header} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {first: rest for first, *rest in cells}


def test_every_state_stands_there_with_its_edges() -> None:
    table = rows("state")
    found = {name: set(filter(None, re.split(r",\s*", goes_to))) for name, (_, goes_to) in table.items()}
    assert found == {state.name: {to.name for to in following} for state, following in EDGES.items()}
    assert set(table) == set(JobState.__members__)


@pytest.mark.parametrize("code", HINTS)
def test_every_code_of_the_server_stands_there_with_its_hint(code: str) -> None:
    hint, again = rows("code")[code]
    assert hint == HINTS[code]  # type: ignore[index]  # a StrEnum is its text
    assert again.startswith("yes") == (code in RETRYABLE)


@pytest.mark.parametrize("error", [NonFiniteLoss, ProbeMismatch, CheckpointLost, DatasetUnusable])
def test_every_reason_to_stop_stands_there_with_its_hint(error: type[NonFiniteLoss]) -> None:
    assert rows("code")[error.code] == [error.hint, "no"]


def test_every_code_that_the_sources_write_stands_there() -> None:
    sources = [*(ROOT / "services" / "trainer").rglob("*.py"), ROOT / "services" / "store" / "jobs.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    written = set(re.findall(r'ErrorRecord\(\s*"([A-Z_]+)"', text)) | {AdapterUnusable.code}
    assert written >= {"STORE_FAILED", "WORKER_LOST", "VALIDATION_LOST"}
    assert written <= set(rows("code"))


def test_a_job_without_any_error_of_its_own_gets_the_hint_of_the_page() -> None:
    lua = (ROOT / "services" / "store" / "lua" / "common.lua").read_text(encoding="utf-8")
    (hint,) = re.findall(r"code = 'NO_PROGRESS'.*hint = '([^']+)'", lua)
    assert rows("code")["NO_PROGRESS"] == [hint, "no"]


def test_every_event_stands_there() -> None:
    lua = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "services" / "store" / "lua").glob("*.lua"))
    python = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "services" / "trainer").rglob("*.py"))
    said = set(re.findall(r"say\(id, '\w+', '([A-Z_]+[A-Z])'", lua))
    said |= set(re.findall(r'event\(\s*"\w+",\s*"([A-Z_]+)"', python))
    said |= set(re.findall(r'append\([^,]+, "\w+", "([A-Z_]+)"', python))
    assert said >= {"JOB_CREATED", "CHECKPOINT_SAVED", "ADAPTER_RELEASED", "TICKET_RENEWED"}
    assert {event for event in said if event not in PAGE} == set()


def test_the_numbers_in_the_text_are_those_of_the_code() -> None:
    chosen = Hyperparameters()
    words = " ".join(PAGE.split())
    assert f"`checkpoint_every` ({chosen.checkpoint_every}) steps or {chosen.checkpoint_every_seconds} seconds" in words
    assert f"`keep_checkpoints` ({chosen.keep_checkpoints}) more" in words
    assert (MAX_IDLE_ATTEMPTS, MAX_STALLED_ATTEMPTS) == (3, 20)
    linear = {"steps": 100, "peak": 1.0, "schedule": Schedule.LINEAR, "warmup_steps": 0}
    assert learning_rate(1, **linear) == 1.0  # type: ignore[arg-type]
    assert learning_rate(100, **linear) == pytest.approx(0.01)  # type: ignore[arg-type]
