"""Commands that run a job: train, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from turnloom.cli.jobfile import JobFile
from turnloom.cli.options.groups import (
    AUTO,
    BadConversations,
    HeldOut,
    JobHyperparameters,
    Mixture,
    Preprocessing,
    Start,
    Submission,
    choose_model,
)
from turnloom.cli.options.replying import Replying
from turnloom.cli.running.jsonable import to_plain
from turnloom.cli.running.session import Session, command
from turnloom.cli.splits import is_dataset, leaving_nothing, sole_data, training_and_test
from turnloom.cli.watching import conclude, watch_to_the_end
from turnloom.client.jobs import JobFields
from turnloom.display.words import count, duration, many, money
from turnloom.learning_rates import BATCH, suggest
from turnloom.plural import counted
from turnloom.results.runs import written
from turnloom.v1 import training_pb2
from turnloom.wire.options import HyperparameterFields, hyperparameters


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "train", "train chats.jsonl --test-fraction 0.1 --rank 16 --lr 1e-4 --epochs 2")(train)
    command(app, "watch", "watch job-0123456789ab")(watch)


def train(
    session: Session,
    data: Annotated[
        str, typer.Argument(help="Dataset id, or a file of conversations.", metavar="DATA", show_default=False)
    ] = "",
    *,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Job file (`turnloom init`); options win.")] = None,
    mixture: Mixture,
    held_out: HeldOut,
    training: JobHyperparameters,
    start: Start,
    submission: Submission,
    replying: Replying,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate; make no job.")] = False,
    bad: BadConversations,
    preprocessing: Preprocessing,
) -> None:
    """Train a LoRA adapter on a dataset or a file, and watch it. Ctrl-C detaches; the job goes on.

    A file becomes a dataset first. A job file (-f) has all options; those of the command line win.
    """
    asked = JobFile.read(file) if file is not None else JobFile()
    mix = mixture.weights() or ({} if data else dict(asked.mix))
    data = sole_data(data or ("" if mixture.mix else asked.data), mix)
    fields = asked.with_options(training.fields())
    tests = held_out or HeldOut(asked.test, asked.test_fraction)
    begin = Start(start.start_from or asked.start_from, start.weights_only or asked.weights_only).message()
    labels = {**asked.labels, **submission.labels()}
    model = choose_model(session, preprocessing.model or asked.model)
    if training.learning_rate == AUTO:
        fields["learning_rate"] = _rate_for(session, model, fields)
    replies = replying.over(asked.sample_prompts, asked.sample_every, asked.sample_max_tokens).fields()
    hyperparameters(fields)  # a mistake is told before a file is sent
    made = training_and_test(
        session, data or next(iter(mix)), tests, fields.get("seed", 0), model=model,
        options={**asked.preprocess, **preprocessing.fields()},
        bad=BadConversations(bad.skip_bad or asked.skip_bad, bad.strict or asked.strict),
    )  # fmt: skip
    if (mix or is_dataset(data)) and preprocessing.max_length is not None:
        fields["max_length"] = preprocessing.max_length
    job: JobFields = {
        **fields,
        "test_dataset": made.test,
        "mix": mix,
        "metadata": labels,
        "host": submission.host or asked.host,
        "priority": submission.priority,
        "start_from": begin,
        **replies,
    }
    if dry_run:
        with leaving_nothing(session, made.uploaded):
            answer = session.client.jobs.validate(model=model, training_dataset="" if mix else made.training, **job)
        _show_estimate(session, answer)
        return
    with leaving_nothing(session, made.uploaded):
        queued = session.client.jobs.create(
            model=model, training_dataset="" if mix else made.training, request_id=submission.request_id, **job
        )
    _follow(session, queued, detach=submission.detach)


def _follow(session: Session, queued: training_pb2.Job, *, detach: bool) -> None:
    """Show a submitted job; watch it to its end unless `detach`."""
    _warn_of_warmup(session, queued)
    if detach:
        _show_submitted(session, queued)
    else:
        _say_begun(session, queued)
        conclude(session, watch_to_the_end(session, queued.id))


def _rate_for(session: Session, model: str, fields: HyperparameterFields) -> float:
    chosen = suggest(model, fields.get("batch_size", BATCH))
    session.say(f"Learning rate {written(chosen.rate)} for {escape(chosen.reason)} (--lr auto).")
    return chosen.rate


def _show_submitted(session: Session, job: training_pb2.Job) -> None:
    if session.as_json:
        session.json(to_plain(job))
    else:
        session.out.print(f"{job.id} submitted.  Watch it: turnloom watch {job.id}", highlight=False)


def _say_begun(session: Session, job: training_pb2.Job) -> None:
    asked = job.hyperparameters  # a rate says little without its batch size
    session.say(
        f"[bold]{job.id}[/] on {escape(job.model)}: rank {asked.lora_rank}, rate {written(asked.learning_rate)} at"
        f" batch size {asked.batch_size}. Ctrl-C detaches, the job goes on."
    )


def watch(
    session: Session,
    job: Annotated[str, typer.Argument(help="Job id.", metavar="JOB", show_default=False)],
    start_event_id: Annotated[str, typer.Option("--from", help="Only what comes after this event_id.")] = "",
) -> None:
    """Watch a job until it ends. Ctrl-C detaches; with --json one line per update."""
    conclude(session, watch_to_the_end(session, job, start_event_id))


def _warn_of_warmup(session: Session, job: training_pb2.Job) -> None:
    asked, steps = job.hyperparameters, job.progress.planned_steps
    if 0 < steps < asked.warmup_steps:
        session.say(
            f"[yellow]warmup_steps is {asked.warmup_steps} and the job has {counted(steps, 'step')}: the rate never"
            f" reaches {written(asked.learning_rate)}.[/]"
        )


def _show_estimate(session: Session, answer: training_pb2.CreateJobResponse) -> None:
    _warn_of_warmup(session, answer.job)
    if session.as_json:
        session.json(to_plain(answer))
        return
    estimate, cut = answer.estimate, answer.job.cut
    time = ""
    if estimate.HasField("seconds"):
        what = " of GPU time" if estimate.HasField("gpu_seconds") else ""
        jobs = counted(max(1, estimate.rate_jobs), "job")
        low, high = duration(estimate.seconds_low), duration(estimate.seconds_high)
        price = f", {money(estimate.cost, estimate.currency)}" if estimate.HasField("cost") else ""
        time = f", about {duration(estimate.seconds)}{what}{price} ({low} to {high}, by {jobs} like it)"
    session.out.print(
        f"The job would run: {counted(estimate.steps, 'step')}, {many(estimate.tokens, 'token')},"
        f" {count(estimate.trained_tokens)} trained{time}.",
        highlight=False,
    )
    if cut.cut_rows:
        session.out.print(
            f"max_length cuts {counted(cut.cut_rows, 'row')} by {many(cut.cut_tokens, 'token')} and leaves"
            f" {counted(cut.emptied_rows, 'row')} without a trained token.",
            highlight=False,
        )
