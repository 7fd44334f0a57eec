"""Commands that show and steer jobs: jobs, queue, steps, events, checkpoints, logs, cancel, pause, resume, move, ..."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.message import Message
from rich.markup import escape
from typer.core import TyperGroup

from turnloom.cli.options.groups import LARGEST, Labels
from turnloom.cli.running.jsonable import Plain, as_text, to_plain
from turnloom.cli.running.session import Session, command, pairs
from turnloom.cli.watching import LEVELS, ending
from turnloom.client import TERMINAL
from turnloom.display.live import test_nll, train_nll
from turnloom.display.words import ago, clock, coloured, duration, job_state, money, size
from turnloom.errors import InvalidInput, Refused
from turnloom.plural import counted
from turnloom.results.files import bits_per_byte
from turnloom.v1 import training_pb2

Id = Annotated[str, typer.Argument(help="Job id.", metavar="JOB", show_default=False)]


class OneJob(TyperGroup):
    """The commands after `job`; most that concern one job stand without that word."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; one that stands without `job` is named."""
        if args and args[0] not in self.commands and args[0] in ctx.parent.command.list_commands(ctx.parent):
            ctx.fail(f"No such command 'job {args[0]}'. Did you mean 'turnloom {args[0]}'?")
        return super().resolve_command(ctx, args)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "jobs", "jobs --state RUNNING --label team=red --limit 20")(list_jobs)
    job = typer.Typer(cls=OneJob, no_args_is_help=True, help="Look at one job.")
    app.add_typer(job, name="job")
    command(job, "show", "job show job-0123456789ab")(show)
    command(app, "steps", "steps job-0123456789ab --from 100")(steps)
    command(app, "events", "events job-0123456789ab")(events)
    command(app, "checkpoints", "checkpoints job-0123456789ab")(checkpoints)
    command(app, "logs", "logs job-0123456789ab --follow")(logs)
    command(app, "cancel", "cancel sweep-0123456789ab")(cancel)
    command(app, "pause", "pause job-0123456789ab")(pause)
    command(app, "delete", "delete job-0123456789ab")(delete)
    command(app, "resume", "resume job-0123456789ab --checkpoint job-0123456789ab-a1-s100")(resume)
    command(app, "move", "move job-0123456789ab --to gpu-2")(move)
    command(app, "queue", "queue --limit 20")(queue)
    adapter = typer.Typer(no_args_is_help=True, help="Get trained adapters.")
    app.add_typer(adapter, name="adapter")
    command(adapter, "download", "adapter download job-0123456789ab --to my-adapter")(download_adapter)


def list_jobs(
    session: Session,
    state: Annotated[list[str] | None, typer.Option(help="Only this state; may be repeated.")] = None,
    label: Labels = None,
    limit: Annotated[int, typer.Option(help="Newest jobs to list; 0: all.", min=0)] = 0,
) -> None:
    """List jobs, newest first."""
    listed = session.client.jobs.list([_state(name) for name in state or ()], pairs(label or (), "--label"))
    found = list(islice(listed, limit or None))
    if session.as_json:
        session.json([to_plain(job) for job in found])
        return
    names = _dataset_names(session, {job.training_dataset for job in found})
    session.table(
        ("id", "?model", "?data", "?labels", "state", "#step", "#NLL", "#test NLL", "host", "?#attempt", "age"),
        (
            (
                *(job.id, escape(job.model), escape(names.get(job.training_dataset) or job.training_dataset)),
                escape(" ".join(f"{name}={value}" for name, value in sorted(job.metadata.items()))),
                coloured(job_state(job)),
                f"{job.progress.step}/{job.progress.planned_steps}",
                f"{job.progress.last_train_nll:.4f}" if job.progress.HasField("last_train_nll") else "-",
                f"{job.progress.test_nll:.4f}" if job.progress.HasField("test_nll") else "-",
                *(escape(job.host), str(job.attempt), ago(job.create_time)),
            )
            for job in found
        ),
        "There is no job; start one with `turnloom train`.",
    )


def _dataset_names(session: Session, wanted: Collection[str]) -> dict[str, str]:
    """Return names of datasets by id, as far as they exist; looks at the newest first."""
    names: dict[str, str] = {}
    if wanted:
        with suppress(Refused):  # the jobs are what was asked for
            for dataset in session.client.datasets.list():
                if dataset.id in wanted:
                    names[dataset.id] = dataset.display_name
                if len(names) == len(wanted):
                    break
    return names


def _state(name: str) -> training_pb2.JobState.ValueType:
    names = {value.removeprefix("JOB_STATE_"): number for value, number in training_pb2.JobState.items()}
    if name.upper() not in names:
        known = ", ".join(state for state in names if state != "UNSPECIFIED")
        raise InvalidInput(f"--state: there is no state {name!r}.", hint=f"Choose from {known}.", field="--state")
    return names[name.upper()]


def show(session: Session, job: Id) -> None:
    """Show one job with its hyperparameters and progress."""
    found = session.client.jobs.retrieve(job)
    if session.as_json:
        session.json(to_plain(found))
        return
    for line in ending(found):
        session.out.print(line, soft_wrap=True, highlight=False)
    facts: dict[str, Plain] = {
        "model": found.model,
        "training_dataset": "; ".join(_mixed(found)) or found.training_dataset,
        "test_dataset": found.test_dataset or "-",
        "host": found.host or "-",
        "attempt": found.attempt,
        "owner": found.owner or "-",
        "trained_for": duration(found.progress.training_seconds),
        "cost": money(found.progress.cost, found.progress.currency) if found.progress.HasField("cost") else "-",
        "created": clock(found.create_time),
        "best_checkpoint": found.best_checkpoint or "-",
        "last_checkpoint": found.last_checkpoint or "-",
        "adapter_sha256": found.adapter_sha256 or "-",
    }
    chosen = {name: value for name, value in to_plain(found.hyperparameters).items() if value is not None}
    for name, value in {**facts, **chosen, **found.metadata}.items():
        session.out.print(f"  {name} = {escape(as_text(value))}", soft_wrap=True, highlight=False)


def _mixed(job: training_pb2.Job) -> Iterator[str]:
    """Describe each dataset of a mixture: "ds-1 = 0.7 (120 conversations, NLL 1.2345)"."""
    for part, sums in zip_longest(job.mix, job.progress.mix):
        trained = counted(sums.conversations, "conversation") if sums else "nothing yet"
        nll = f", NLL {sums.nll_sum / sums.weight_sum:.4f}" if sums and sums.weight_sum > 0 else ""
        yield f"{part.dataset} = {part.weight:g} ({trained}{nll})"


def steps(
    session: Session,
    job: Id,
    start: Annotated[
        int, typer.Option("--from", help="First step; 0: with the evaluation before training.", min=0, max=LARGEST)
    ] = 0,
) -> None:
    """List the effective series of steps; with --json one line per step."""
    found = session.client.jobs.steps(job, start)
    if session.as_json:
        _json_lines(session, found)
        return
    session.table(
        (
            "#step",
            "?#epoch",
            "?#attempt",
            "#NLL",
            "#test NLL",
            "?#bits/byte",
            "#rows",
            "#tokens",
            "#trained",
            "#learning rate",
            "#seconds",
        ),
        (
            (
                *(str(step.step), str(step.epoch), str(step.attempt)),
                *("-" if nll is None else f"{nll:.6f}" for nll in (train_nll(step), test_nll(step))),
                "-" if (bits := bits_per_byte(step.test_nll_sum, step.test_target_bytes)) is None else f"{bits:.4f}",
                *(str(step.rows), str(step.tokens), str(step.loss_tokens), f"{step.learning_rate:.3g}"),
                f"{sum(step.phase_seconds.values()):.3f}",
            )
            for step in found
        ),
        f"No step from {start} on." if start else "No step yet.",
    )


def events(session: Session, job: Id) -> None:
    """List what happened in a job; with --json one line per event."""
    found = session.client.jobs.events(job)
    if session.as_json:
        _json_lines(session, found)
        return
    for event in found:
        session.out.print(_event(event), soft_wrap=True, highlight=False)


def checkpoints(session: Session, job: Id) -> None:
    """List the checkpoints that a job keeps."""
    found = session.client.jobs.checkpoints(job)
    if session.as_json:
        session.json([to_plain(checkpoint) for checkpoint in found])
        return
    session.table(
        ("id", "#step", "?#epoch", "?#attempt", "#test NLL", "#probe NLL", "", "saved"),
        (
            (
                *(point.id, str(point.step), str(point.epoch), str(point.attempt)),
                f"{point.test_nll:.4f}" if point.HasField("test_nll") else "-",
                f"{point.probe_nll:.6f}",
                " ".join(word for word, true in (("best", point.best), ("stored", point.stored)) if true),
                ago(point.time),
            )
            for point in found
        ),
        "No checkpoint yet.",
    )


def logs(
    session: Session,
    job: Id,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
) -> None:
    """Print steps and events of a job as lines of a log, in order."""
    done = session.client.jobs.retrieve(job).state in TERMINAL
    if not follow and not done:
        for event in session.client.jobs.events(job):
            _log_line(session, training_pb2.WatchJobResponse(event_id=event.id, event=event))
        return
    for update in session.client.jobs.watch(job):
        _log_line(session, update)


def _log_line(session: Session, update: training_pb2.WatchJobResponse) -> None:
    if session.as_json:
        session.json(to_plain(update))
    elif update.HasField("event"):
        session.out.print(_event(update.event), soft_wrap=True, highlight=False)
    elif update.HasField("step"):
        step, nll, held_out = update.step, train_nll(update.step), test_nll(update.step)
        words = [f"NLL {nll:.6f}"] if nll is not None else []
        words += [f"test NLL {held_out:.6f}"] if held_out is not None else []
        words += [f"{counted(step.tokens, 'token')}, attempt {step.attempt}"]
        session.out.print(f"{clock(step.time)} STEP {step.step}  {'  '.join(words)}", soft_wrap=True, highlight=False)


def _event(event: training_pb2.Event) -> str:
    colour = LEVELS.get(event.level, "cyan")
    attempt = f" (attempt {event.attempt})" if event.attempt else ""
    return f"{clock(event.time)} [{colour}]{event.type}[/] {escape(event.message)}{attempt}"


def cancel(
    session: Session, job: Annotated[str, typer.Argument(help="Job id, or the id of a sweep.", metavar="JOB")]
) -> None:
    """Stop a job, or every job of a sweep; those that run save a checkpoint first."""
    if not job.startswith("sweep-"):
        _steered(session, session.client.jobs.cancel(job))
        return
    cancelled = session.client.sweeps.cancel(job)
    if session.as_json:
        session.json(to_plain(cancelled))
        return
    for one in cancelled.jobs:
        _steered(session, one)


def pause(session: Session, job: Id) -> None:
    """Save a checkpoint and free the GPU until `resume`."""
    _steered(session, session.client.jobs.pause(job))


def resume(
    session: Session,
    job: Id,
    checkpoint: Annotated[str, typer.Option(help="Checkpoint id. Default: the last one.")] = "",
) -> None:
    """Queue a paused, failed or cancelled job again."""
    _steered(session, session.client.jobs.resume(job, checkpoint))


def move(
    session: Session,
    job: Id,
    to: Annotated[str, typer.Option("--to", help="GPU host. Default: any other that serves the model.")] = "",
) -> None:
    """Give a queued or running job to another host; a running one saves first and goes on from there."""
    _steered(session, session.client.jobs.move(job, to))


def queue(
    session: Session,
    limit: Annotated[int, typer.Option(help="Show so many at most.", min=1, max=1000)] = 100,
) -> None:
    """List the jobs that wait for a host, in the order in which they get one, and why each still waits."""
    found = session.client.jobs.queue(limit)
    if session.as_json:
        session.json(to_plain(found))
        return
    session.table(
        ("#place", "id", "owner", "#priority", "?model", "?#rank", "since", "why"),
        (
            (
                *(str(one.position or "-"), one.job, escape(one.owner) or "-", str(one.priority), escape(one.model)),
                *(str(one.lora_rank), ago(one.queue_time), escape(one.reason)),
            )
            for one in found.jobs
        ),
        "No job waits for a host.",
    )


def delete(session: Session, job: Id) -> None:
    """Delete a finished job, its records and its adapters."""
    session.client.jobs.delete(job)
    if session.as_json:
        session.json({"job": job, "state": "DELETED"})
    else:
        session.out.print(f"{job} deleted", highlight=False)


def _steered(session: Session, job: training_pb2.Job) -> None:
    if session.as_json:
        session.json(to_plain(job))
    else:
        session.out.print(f"{job.id} {coloured(job_state(job))}", highlight=False)


def download_adapter(
    session: Session,
    job: Id,
    to: Annotated[Path, typer.Option("--to", help="Folder. Default: JOB.", show_default=False)] = Path(),
    checkpoint: Annotated[str, typer.Option(help="Checkpoint id. Default: the final one.")] = "",
) -> None:
    """Download an adapter (PEFT) and check the sha256 of every file."""
    folder = to if to != Path() else Path(job)
    saved = session.client.jobs.download_adapter(job, folder, checkpoint)
    if session.as_json:
        files: list[Plain] = [{"path": str(file.path), "bytes": file.size, "sha256": file.sha256} for file in saved]
        session.json({"job": job, "folder": str(folder), "files": files})
        return
    session.table(
        ("file", "#size", "sha256"),
        ((escape(str(file.path)), size(file.size), file.sha256) for file in saved),
        "The adapter has no files.",
    )


def _json_lines(session: Session, messages: Iterable[Message]) -> None:
    for message in messages:
        session.json(to_plain(message))
