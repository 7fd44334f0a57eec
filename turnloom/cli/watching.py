"""Watches a job in the terminal: a progress bar, plain lines where there is no terminal, or JSON lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from turnloom.cli.exits import Exit
from turnloom.cli.jsonable import to_plain
from turnloom.cli.live import View, test_nll
from turnloom.cli.session import Session
from turnloom.cli.words import coloured, duration, seconds
from turnloom.client import TERMINAL
from turnloom.errors import TurnloomError
from turnloom.v1 import training_pb2

PLAIN_SECONDS = 5.0  #: between two lines of progress where there is no terminal
LEVELS = {"warning": "yellow", "error": "red"}


def watch_to_the_end(session: Session, job: str, start_event_id: str = "") -> training_pb2.Job:
    """Shows the job until it is in a terminal state, and returns it. Ctrl-C detaches: exit code 130, the job goes on.

    Raises:
        TurnloomError: no such job, or the server is away for too long.
    """
    view = View(session.client.job(job))
    try:
        if session.as_json:
            for update in session.client.watch_job(job, start_event_id):
                session.json(to_plain(update))
                view.take(update)
        else:
            show(session, view, start_event_id)
    except KeyboardInterrupt:
        session.err.print(
            f"\nDetached: {job} goes on.  Come back: turnloom watch {job}   Stop it: turnloom cancel {job}",
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    return session.client.job(job)


def show(session: Session, view: View, start_event_id: str = "") -> None:
    """Shows updates for people until there are no more."""

    def trouble(error: TurnloomError) -> None:
        session.say(f"[yellow]{escape(error.message)} Trying again.[/]")

    with _display(session, view) as refresh:
        for update in session.client.watch_job(view.job.id, start_event_id, on_trouble=trouble):
            view.take(update)
            if update.HasField("event") and update.event.level in LEVELS:
                event = update.event
                session.say(f"[{LEVELS[event.level]}]{event.type}[/] {escape(event.message)}")
            refresh(update)


@contextmanager
def _display(session: Session, view: View) -> Iterator[Callable[[training_pb2.WatchJobResponse], None]]:
    if not session.err.is_terminal:
        yield _lines(session, view)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10, complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[line]}"),
    )
    with Progress(*columns, console=session.err, transient=False) as progress:
        task = progress.add_task(view.state, total=view.planned or None, line=view.line())

        def refresh(update: training_pb2.WatchJobResponse) -> None:
            progress.update(
                task, description=view.state, completed=view.step, total=view.planned or None, line=view.line()
            )

        yield refresh


def _lines(session: Session, view: View) -> Callable[[training_pb2.WatchJobResponse], None]:
    """A line for each change of state, each evaluation, and now and then."""
    last_line = 0.0
    last_state = ""

    def refresh(update: training_pb2.WatchJobResponse) -> None:
        nonlocal last_line, last_state
        evaluated = update.HasField("step") and test_nll(update.step) is not None
        due = update.HasField("step") and time.monotonic() - last_line > PLAIN_SECONDS
        moved = update.HasField("job") and view.state != last_state
        if evaluated or due or moved:
            last_line, last_state = time.monotonic(), view.state
            session.say(f"{view.state}  {view.line()}")

    return refresh


def conclude(session: Session, job: training_pb2.Job) -> None:
    """Says how the job ended; exit code 1 unless it SUCCEEDED."""
    assert job.state in TERMINAL
    if not session.as_json:
        for line in ending(job):
            session.out.print(line, soft_wrap=True, highlight=False)
    if job.state != training_pb2.JOB_STATE_SUCCEEDED:
        raise typer.Exit(Exit.JOB_FAILED)


def ending(job: training_pb2.Job) -> Iterator[str]:
    """What a person wants to know of a job that ended, as rich markup."""
    view, progress = View(job), job.progress
    took = seconds(job.finish_time) - seconds(job.start_time)
    after = f" in {duration(took)}" if job.start_time.seconds and took >= 0 else ""
    yield f"{coloured(view.state)} {job.id}: {progress.step} of {progress.planned_steps} steps{after}"
    if progress.HasField("last_train_nll"):
        yield f"  train NLL {progress.last_train_nll:.4f} (last step), {progress.mean_train_nll:.4f} (mean)"
    if progress.HasField("test_nll"):
        yield f"  test NLL  {progress.test_nll:.4f} (last), {progress.best_test_nll:.4f} (best)"
    if job.error.code:
        yield f"  [red]{job.error.code}: {escape(job.error.message)}[/]"
    if job.error.hint:
        yield f"  {escape(job.error.hint)}"
    if job.adapter_uri:
        yield f"  Get the adapter: turnloom adapter download {job.id}"
    elif job.last_checkpoint:
        yield f"  Go on from its last checkpoint: turnloom resume {job.id}"
