"""Show progress of jobs, sweeps and datasets in a notebook, a terminal or a log.

    from turnloom import TurnloomClient, progress

    job = progress.watch_job(client, job.id)

A notebook output is redrawn in place as plain text. It needs no widget library, and a saved notebook keeps the last
state. A terminal shows a bar or a table. Anything else (a pipe, a log, CI) gets a line now and then.
"""

from __future__ import annotations

import io
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from turnloom.client import TERMINAL, TurnloomClient
from turnloom.display.console import SafeConsole
from turnloom.display.live import LEVELS, JobView, test_nll
from turnloom.display.words import coloured, dataset_state, duration, job_state, many, seconds
from turnloom.errors import InvalidInput, ServerUnreachable, TurnloomError, Unavailable
from turnloom.plural import counted
from turnloom.results.runs import label
from turnloom.transport.watching import PATIENCE_SECONDS
from turnloom.v1 import datasets_pb2, training_pb2

LINE_SECONDS: Final = 5.0  #: between two lines of progress in a log
REDRAW_SECONDS: Final = 0.2  #: between two pictures in a notebook
LOOK_SECONDS: Final = 1.0  #: between two looks at a sweep
REPLY: Final = "REPLY"  #: type of events that hold what the adapter said
BAR: Final = 20  #: characters of the bar in a notebook
WIDTH: Final = 110  #: characters of a table in a notebook

Refresh: TypeAlias = "Callable[[training_pb2.WatchJobResponse], None]"
Say: TypeAlias = "Callable[[str], None]"  # takes rich markup


def watch_job(client: TurnloomClient, job: str, *, console: Console | None = None) -> training_pb2.Job:
    """Show a job until it ends, and return it.

    Args:
        client: speaks to the server.
        job: job id.
        console: where to, outside notebooks; None: standard error.

    Raises:
        TurnloomError: there is no such job, or the server was away for five minutes.
    """
    console = console or SafeConsole(stderr=True)
    view = JobView(client.jobs.retrieve(job))
    show_job(client, view, console, lambda markup: console.print(markup, soft_wrap=True, highlight=False))
    return client.jobs.retrieve(job)


def show_job(client: TurnloomClient, view: JobView, console: Console, say: Say, start_event_id: str = "") -> None:
    """Show updates, warnings and errors until there are no more, keeping `view` up to date."""

    def trouble(error: TurnloomError) -> None:
        say(f"[yellow]{escape(error.message)} Trying again.[/]")

    with _job_display(view, console, say) as refresh:
        for update in client.jobs.watch(view.job.id, start_event_id, on_trouble=trouble):
            view.take(update)
            if update.HasField("event") and update.event.level in LEVELS:
                event = update.event
                say(f"[{LEVELS[event.level]}]{event.type}[/] {escape(event.message)}")
            elif update.HasField("event") and update.event.type == REPLY:
                say(escape(update.event.message))
            refresh(update)


def watch_sweep(client: TurnloomClient, sweep: str, *, console: Console | None = None) -> training_pb2.Sweep:
    """Show a sweep until each of its jobs has ended or was paused, and return it.

    Args:
        client: speaks to the server.
        sweep: sweep id.
        console: where to, outside notebooks; None: standard error.

    Raises:
        TurnloomError: there is no such sweep, or the server was away for five minutes.
    """
    console = console or SafeConsole(stderr=True)
    made = client.sweeps.retrieve(sweep)
    with sweep_display([axis.hyperparameter for axis in made.axes], console) as refresh:
        return follow_sweep(client, made, refresh)


def follow_sweep(
    client: TurnloomClient, made: training_pb2.Sweep, refresh: Callable[[training_pb2.Sweep], None]
) -> training_pb2.Sweep:
    """Poll a sweep every second until each of its jobs has ended or was paused by a user.

    Raises:
        TurnloomError: the server was away for five minutes.
    """
    answered = time.monotonic()
    while True:
        refresh(made)
        if all(_rests(job) for job in made.jobs):
            return made
        time.sleep(LOOK_SECONDS)
        try:
            made = client.sweeps.retrieve(made.id)
            answered = time.monotonic()
        except (ServerUnreachable, Unavailable):
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise


def _rests(job: training_pb2.Job) -> bool:
    """Return whether a sweep need not wait for a job; one PAUSED at a rung resumes by itself."""
    return job.state in TERMINAL or (job.state == training_pb2.JOB_STATE_PAUSED and not job.halving.waiting_step)


def watch_dataset(client: TurnloomClient, dataset: str, *, console: Console | None = None) -> datasets_pb2.Dataset:
    """Show a dataset while the server makes it, and return it once READY.

    Args:
        client: speaks to the server.
        dataset: dataset id.
        console: where to, outside notebooks; None: standard error.

    Raises:
        Unavailable, InvalidInput: as in checked().
    """
    console = console or SafeConsole(stderr=True)
    state = client.datasets.retrieve(dataset)
    with _redrawn(console) as draw:
        for state in client.datasets.watch(dataset):  # the last one is checked below
            shards = f", {state.shards_done} of {counted(state.shards, 'shard')} done" if state.shards else ""
            made = f", {many(state.tokens, 'token')}" if state.tokens else ""
            read = counted(state.conversations_read, "conversation")
            draw(f"{state.id} {dataset_state(state)}: {read} read{shards}{made}")
    return checked(state)


def checked(dataset: datasets_pb2.Dataset) -> datasets_pb2.Dataset:
    """Return a finished dataset if it is READY.

    Raises:
        Unavailable: it ended FAILED because its hub can't be reached; message and hint are the server's.
        InvalidInput: it ended FAILED for another reason, or CANCELLED.
    """
    if dataset.state == datasets_pb2.DATASET_STATE_READY:
        return dataset
    kind = Unavailable if dataset.error.code == "HUB_UNREACHABLE" else InvalidInput
    sentence = f"{dataset.id} ended {dataset_state(dataset)}: {dataset.error.message}"
    raise kind(sentence, hint=dataset.error.hint, code=dataset.error.code)


def in_notebook() -> bool:
    """Return whether a kernel runs this process, so that outputs can be redrawn in place."""
    return hasattr(_shell(), "kernel")


def _shell() -> Any:  # IPython's own, which may not be installed
    """Return the IPython shell; None: there is none. Never imports IPython: a kernel already has."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


class _Output:
    """One output of a notebook cell, redrawn in place at most five times a second."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex
        self._shown = ""
        self._drawn_at = float("-inf")

    def draw(self, picture: RenderableType, *, now: bool = False) -> None:
        """Show the picture as text; `now`: even if the last one was drawn only just before."""
        if not now and time.monotonic() - self._drawn_at < REDRAW_SECONDS:
            return
        text = as_text(picture)
        if text != self._shown:
            publish = _shell().display_pub.publish
            publish({"text/plain": text}, transient={"display_id": self._id}, update=bool(self._shown))
            self._shown, self._drawn_at = text, time.monotonic()


def as_text(picture: RenderableType) -> str:
    """Return what rich would print, without colours."""
    console = SafeConsole(file=io.StringIO(), width=WIDTH, color_system=None, force_jupyter=False)
    console.print(picture, highlight=False, soft_wrap=isinstance(picture, str), end="")
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


@contextmanager
def _redrawn(console: Console) -> Iterator[Callable[[str], None]]:
    """Give a function that replaces the line before; in a log each line follows the other."""
    if in_notebook():
        output = _Output()
        yield lambda line: output.draw(escape(line), now=True)
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda line: live.update(escape(line), refresh=True)
    else:
        yield lambda line: console.print(escape(line), soft_wrap=True, highlight=False)


@contextmanager
def _job_display(view: JobView, console: Console, say: Say) -> Iterator[Refresh]:
    if in_notebook():
        output = _Output()
        yield lambda update: output.draw(job_picture(view))
        output.draw(job_picture(view), now=True)
        return
    if not console.is_terminal:
        yield _lines(view, say)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10, complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(view.state, total=view.planned or None, line=view.line())

        def refresh(update: training_pb2.WatchJobResponse) -> None:
            progress.update(
                task, description=view.state, completed=view.step, total=view.planned or None, line=view.line()
            )

        yield refresh


def job_picture(view: JobView) -> str:
    """Return state, bar and numbers in one line of rich markup."""
    done = round(BAR * min(1.0, view.step / view.planned)) if view.planned else 0
    return escape(f"{view.job.id} {view.state}  {'━' * done}{'╌' * (BAR - done)}  {view.line()}")


def _lines(view: JobView, say: Say) -> Refresh:
    """Return a refresh that prints a line for each change of state, each evaluation, and now and then."""
    last_line = 0.0
    last_state = ""

    def refresh(update: training_pb2.WatchJobResponse) -> None:
        nonlocal last_line, last_state
        evaluated = update.HasField("step") and test_nll(update.step) is not None
        due = update.HasField("step") and time.monotonic() - last_line > LINE_SECONDS
        moved = update.HasField("job") and view.state != last_state
        if evaluated or due or moved:
            last_line, last_state = time.monotonic(), view.state
            say(f"{view.state}  {view.line()}")

    return refresh


@contextmanager
def sweep_display(axes: Sequence[str], console: Console) -> Iterator[Callable[[training_pb2.Sweep], None]]:
    """Redraw a table in a notebook or terminal; elsewhere print a line whenever a cell changes its state."""
    if in_notebook():
        output = _Output()
        yield lambda made: output.draw(_table(made, axes), now=True)
    elif console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda made: live.update(_table(made, axes), refresh=True)
    else:
        said: dict[str, str] = {}

        def refresh(made: training_pb2.Sweep) -> None:
            for job in made.jobs:
                if said.get(job.id) != cell_state(job):
                    said[job.id] = cell_state(job)
                    console.print("  ".join(_cells(job, axes)), soft_wrap=True, highlight=False)

        yield refresh


def _table(made: training_pb2.Sweep, axes: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("job", "cell", "state", "step", "train NLL", "test NLL", "best", "time"):
        table.add_column(heading, justify="left" if heading in {"job", "cell", "state"} else "right")
    for job in made.jobs:
        table.add_row(*_cells(job, axes))
    return table


def cell_state(job: training_pb2.Job) -> str:
    """Return the state as rich markup. A cell waiting or stopped at a rung has step and rank."""
    halving = job.halving
    if job.state == training_pb2.JOB_STATE_PAUSED and halving.waiting_step:
        return f"[cyan]waits at {halving.waiting_step}[/]"
    if job.state == training_pb2.JOB_STATE_CANCELLED and halving.stopped:
        return f"[yellow]stopped at {halving.compared_step}: {halving.rank} of {halving.compared}[/]"
    return coloured(job_state(job))


def _cells(job: training_pb2.Job, axes: Sequence[str]) -> tuple[str, ...]:
    progress = job.progress
    values = [getattr(job.hyperparameters, axis) for axis in axes]
    end = seconds(job.finish_time) or time.time()
    return (
        *(escape(job.id), escape(label(axes, values)), cell_state(job)),
        f"{progress.step}/{progress.planned_steps}",
        f"{progress.last_train_nll:.4f}" if progress.HasField("last_train_nll") else "-",
        f"{progress.test_nll:.4f}" if progress.HasField("test_nll") else "-",
        f"{progress.best_test_nll:.4f}" if progress.HasField("best_test_nll") else "-",
        duration(end - seconds(job.start_time)) if job.start_time.seconds else "-",
    )
