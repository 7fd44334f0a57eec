"""Watch a job for a command: progress for people, JSON lines for scripts; then report how it ended."""

from __future__ import annotations

from collections.abc import Iterator

import typer
from rich.markup import escape

from turnloom.cli.running.exits import Exit
from turnloom.cli.running.jsonable import to_plain
from turnloom.cli.running.session import Session
from turnloom.client import TERMINAL
from turnloom.display.live import LEVELS, JobView
from turnloom.display.words import coloured, duration, seconds
from turnloom.plural import counted
from turnloom.v1 import training_pb2

#: States from which `turnloom resume` goes on.
RESUMABLE = (training_pb2.JOB_STATE_PAUSED, training_pb2.JOB_STATE_FAILED, training_pb2.JOB_STATE_CANCELLED)

__all__ = ["LEVELS", "conclude", "ending", "show", "watch_to_the_end"]


def watch_to_the_end(session: Session, job: str, start_event_id: str = "") -> training_pb2.Job:
    """Show the job until it ends, and return it. Ctrl-C detaches: exit code 130, the job goes on.

    Raises:
        TurnloomError: no such job, or the server is away for too long.
    """
    view = JobView(session.client.jobs.retrieve(job))
    try:
        if session.as_json:
            for update in session.client.jobs.watch(job, start_event_id):
                session.json(to_plain(update))
                view.take(update)
        else:
            show(session, view, start_event_id)
    except KeyboardInterrupt:
        # Bypass the console: interrupted while printing, it would keep this in its buffer.
        typer.echo(
            f"\nDetached: {job} goes on.  Come back: turnloom watch {job}   Stop it: turnloom cancel {job}", err=True
        )
        raise typer.Exit(Exit.INTERRUPTED) from None
    return session.client.jobs.retrieve(job)


def show(session: Session, view: JobView, start_event_id: str = "") -> None:
    """Show updates for people until there are no more."""
    from turnloom.progress import show_job  # noqa: PLC0415  # brings rich's live displays, 20 ms

    show_job(session.client, view, session.err, session.say, start_event_id)


def conclude(session: Session, job: training_pb2.Job) -> None:
    """Report how the job ended; exit code 1 unless it SUCCEEDED."""
    assert job.state in TERMINAL
    if not session.as_json:
        for line in ending(job):
            session.out.print(line, soft_wrap=True, highlight=False)
    if job.state != training_pb2.JOB_STATE_SUCCEEDED:
        raise typer.Exit(Exit.JOB_FAILED)


def ending(job: training_pb2.Job) -> Iterator[str]:
    """Yield what a person wants to know of an ended job, as rich markup."""
    view, progress = JobView(job), job.progress
    took = seconds(job.finish_time) - seconds(job.start_time)
    after = f" in {duration(took)}" if job.start_time.seconds and took >= 0 else ""
    yield f"{coloured(view.state)} {job.id}: {progress.step} of {counted(progress.planned_steps, 'step')}{after}"
    if progress.HasField("last_train_nll"):
        yield f"  train NLL {progress.last_train_nll:.4f} (last step), {progress.mean_train_nll:.4f} (mean)"
    if progress.HasField("test_nll"):
        bits = f"; {progress.test_bits_per_byte:.4f} bits per byte" if progress.HasField("test_bits_per_byte") else ""
        yield f"  test NLL  {progress.test_nll:.4f} (last), {progress.best_test_nll:.4f} (best){bits}"
    if job.error.code:
        yield f"  [red]{job.error.code}: {escape(job.error.message)}[/]"
    if job.halving.stopped:
        yield f"  {escape(job.halving.reason)}"
    if job.error.hint:
        yield f"  {escape(job.error.hint)}"
    if job.adapter_uri:
        yield f"  Get the adapter: turnloom adapter download {job.id}"
    elif job.last_checkpoint and job.state in RESUMABLE:
        yield f"  Go on from its last checkpoint: turnloom resume {job.id}"
