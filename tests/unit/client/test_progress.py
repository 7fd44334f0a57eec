from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from rich.console import Console

from turnloom import progress
from turnloom.client import TurnloomClient
from turnloom.client.datasets import Datasets
from turnloom.client.jobs import Jobs
from turnloom.client.sweeps import Sweeps
from turnloom.errors import InvalidInput, TurnloomError, Unavailable
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import training_pb2 as tr

JOB = "job-[b]1"  # what looks like markup is shown as it is
STEPS = 40


def ended(state: tr.JobState.ValueType = tr.JOB_STATE_SUCCEEDED) -> tr.Job:
    return tr.Job(id=JOB, state=state, progress=tr.Progress(step=STEPS, planned_steps=STEPS))


class Story(TurnloomClient):
    """A server that tells one job, one sweep and one dataset."""

    def __init__(self, *datasets: ds.Dataset) -> None:
        self.looks = 0
        self.told = datasets
        self.jobs = StoryJobs(self)
        self.sweeps = StorySweeps(self)
        self.datasets = StoryDatasets(self)


class StoryJobs(Jobs):
    def __init__(self, story: Story) -> None:
        self.story = story

    def retrieve(self, job: str) -> tr.Job:
        self.story.looks += 1
        return ended() if self.story.looks > 1 else tr.Job(id=JOB, state=tr.JOB_STATE_QUEUED)

    def watch(self, job, start_event_id="", *, patience=0, on_trouble=lambda error: None):
        progress = tr.Progress(planned_steps=STEPS)
        yield tr.WatchJobResponse(job=tr.Job(id=JOB, state=tr.JOB_STATE_RUNNING, progress=progress))
        for number in range(1, STEPS + 1):
            step = tr.Step(step=number, nll_sum=10 - number / 10, weight_sum=2)
            if number % 20 == 0:
                step.test_nll_sum, step.test_weight_sum = 3, 2
            yield tr.WatchJobResponse(step=step)
        yield tr.WatchJobResponse(event=tr.Event(level="warning", type="SLOW", message="so [slow]"))
        yield tr.WatchJobResponse(job=ended())


class StorySweeps(Sweeps):
    def __init__(self, story: Story) -> None:
        self.story = story

    def retrieve(self, sweep: str) -> tr.Sweep:
        self.story.looks += 1
        if self.story.looks == 2:
            raise Unavailable("draining")
        state = tr.JOB_STATE_SUCCEEDED if self.story.looks > 2 else tr.JOB_STATE_RUNNING
        job = ended(state)
        job.hyperparameters.lora_rank = 8
        return tr.Sweep(id=sweep, jobs=[job], axes=[tr.SweepAxis(hyperparameter="lora_rank", values=[8])])


class StoryDatasets(Datasets):
    def __init__(self, story: Story) -> None:
        self.story = story

    def retrieve(self, dataset: str) -> ds.Dataset:
        return self.story.told[0]

    def watch(self, dataset: str) -> Iterator[ds.Dataset]:
        yield from self.story.told


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What a kernel was asked to show."""
    shown: list[dict] = []

    def publish(data, *, transient, update):
        shown.append({"text": data["text/plain"], "id": transient["display_id"], "update": update})

    shell = SimpleNamespace(kernel=object(), display_pub=SimpleNamespace(publish=publish))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shown


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def test_a_notebook_redraws_one_output_of_plain_text_and_keeps_the_last_state(published: list[dict]) -> None:
    log = console(terminal=False)
    assert progress.watch_job(Story(), JOB, console=log).state == tr.JOB_STATE_SUCCEEDED
    assert len({one["id"] for one in published}) == 1
    assert [one["update"] for one in published] == [False] + [True] * (len(published) - 1)
    assert published[-1]["text"] == f"{JOB} SUCCEEDED  {'━' * 20}  step 40/40  NLL 3.0000  test 1.5000"
    assert written(log) == "SLOW so [slow]\n"  # what went wrong is not redrawn away


def test_a_notebook_is_not_flooded_by_quick_steps(published: list[dict], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 3600.0)
    progress.watch_job(Story(), JOB, console=console(terminal=False))
    assert len(published) == 2  # the first and the last


@pytest.mark.usefixtures("outside")
def test_a_log_gets_a_line_for_each_state_and_evaluation_and_no_control_character() -> None:
    log = console(terminal=False)
    progress.watch_job(Story(), JOB, console=log)
    lines = written(log).splitlines()
    assert lines[0] == "RUNNING  step 0/40"
    assert lines[-3:] == [
        "RUNNING  step 40/40  NLL 3.0000  test 1.5000",
        "SLOW so [slow]",
        "SUCCEEDED  step 40/40  NLL 3.0000  test 1.5000",
    ]
    assert len(lines) <= 6
    assert "\x1b" not in written(log)
    assert "\r" not in written(log)


@pytest.mark.usefixtures("outside")
def test_a_terminal_gets_a_bar() -> None:
    terminal = console(terminal=True)
    progress.watch_job(Story(), JOB, console=terminal)
    assert "━━━━━━━━━━ step 40/40" in written(terminal)


def test_an_interactive_shell_without_a_kernel_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=SimpleNamespace))
    assert not progress.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not progress.in_notebook()


def test_a_sweep_is_a_table_and_outlives_a_server_that_drains(
    published: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.0)
    made = progress.watch_sweep(Story(), "sweep-1", console=console(terminal=False))
    assert made.jobs[0].state == tr.JOB_STATE_SUCCEEDED
    head, line = published[-1]["text"].splitlines()
    assert head.split() == ["job", "cell", "state", "step", "train", "NLL", "test", "NLL", "best", "time"]
    assert line.split()[:6] == ["job-[b]1", "rank", "8", "SUCCEEDED", "40/40", "-"]


@pytest.mark.usefixtures("outside")
def test_a_sweep_in_a_log_is_a_line_for_each_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.0)
    log = console(terminal=False)
    progress.watch_sweep(Story(), "sweep-1", console=log)
    assert [line.split()[3] for line in written(log).splitlines()] == ["RUNNING", "SUCCEEDED"]


class Halved(Story):
    """A sweep of two cells that meet at a rung."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeps = HalvedSweeps(self)


class HalvedSweeps(StorySweeps):
    def retrieve(self, sweep: str) -> tr.Sweep:
        self.story.looks += 1
        done = tr.JOB_STATE_SUCCEEDED if self.story.looks > 2 else tr.JOB_STATE_PAUSED
        waits = 0 if self.story.looks > 2 else 10
        kept = tr.Job(id="job-1", state=done, halving=tr.Halving(waiting_step=waits))
        other = tr.Job(id="job-2", state=tr.JOB_STATE_PAUSED, halving=tr.Halving(waiting_step=10))
        if self.story.looks > 2:
            stop = tr.Halving(compared_step=10, stopped=True, rank=2, compared=2)
            other = tr.Job(id="job-2", state=tr.JOB_STATE_CANCELLED, halving=stop)
        return tr.Sweep(id=sweep, jobs=[kept, other])


@pytest.mark.usefixtures("outside")
def test_cells_that_wait_at_a_rung_are_waited_for_and_a_stopped_one_shows_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.0)
    log = console(terminal=False)
    made = progress.watch_sweep(Halved(), "sweep-1", console=log)
    assert [job.state for job in made.jobs] == [tr.JOB_STATE_SUCCEEDED, tr.JOB_STATE_CANCELLED]
    states = [line.split("  ")[2] for line in written(log).splitlines()]
    assert states == ["waits at 10", "waits at 10", "SUCCEEDED", "stopped at 10: 2 of 2"]


def test_a_dataset_is_shown_while_it_is_made(published: list[dict]) -> None:
    going = ds.Dataset(id="ds-1", state=ds.DATASET_STATE_CREATING, conversations_read=5, shards=2, shards_done=1)
    ready = ds.Dataset(id="ds-1", state=ds.DATASET_STATE_READY, conversations_read=9, tokens=100)
    found = progress.watch_dataset(Story(going, ready), "ds-1", console=console(terminal=False))
    assert found == ready
    assert [one["text"] for one in published] == [
        "ds-1 CREATING: 5 conversations read, 1 of 2 shards done",
        "ds-1 READY: 9 conversations read, 100 tokens",
    ]


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(("code", "kind"), [("HUB_UNREACHABLE", Unavailable), ("SOURCE_EMPTY", InvalidInput)])
def test_a_dataset_that_fails_says_why(code: str, kind: type[TurnloomError]) -> None:
    failed = ds.Dataset(id="ds-1", state=ds.DATASET_STATE_FAILED)
    failed.error.code, failed.error.message, failed.error.hint = code, "no hub", "set HF_ENDPOINT"
    with pytest.raises(kind, match="ds-1 ended FAILED: no hub") as caught:
        progress.watch_dataset(Story(failed), "ds-1", console=console(terminal=False))
    assert caught.value.hint == "set HF_ENDPOINT"
