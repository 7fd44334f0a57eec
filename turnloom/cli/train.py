"""Commands that run a job: train, watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer
from rich.markup import escape

from turnloom.cli.exits import Exit
from turnloom.cli.inputs import (
    Labels,
    MaxLength,
    Model,
    Option,
    TrainOn,
    Truncation,
    choose_model,
    hyperparameter_fields,
    preprocess_fields,
)
from turnloom.cli.jobfile import JobFile
from turnloom.cli.jsonable import to_plain
from turnloom.cli.session import Session, command, pairs
from turnloom.cli.splits import is_dataset, leaving_nothing, training_and_test
from turnloom.cli.watching import conclude, watch_to_the_end
from turnloom.errors import InvalidInput
from turnloom.options import PreprocessFields
from turnloom.results.runs import written
from turnloom.v1 import training_pb2
from turnloom.words import count, duration


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "train")(train)
    command(app, "watch")(watch)


def train(
    session: Session,
    data: Annotated[
        str, typer.Argument(help="Dataset id, or a file of conversations.", metavar="DATA", show_default=False)
    ] = "",
    *,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Job file (`turnloom init`); options win.")] = None,
    test: Annotated[str, typer.Option(help="Dataset id or file to evaluate on.")] = "",
    test_fraction: Annotated[float | None, typer.Option(help="Part of the file to hold out instead.")] = None,
    model: Model = "",
    rank: Annotated[int | None, typer.Option("--rank", "--lora-rank", help="LoRA rank. Default: 32.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--lr", "--learning-rate", help="Default: 1e-4, for batch size 16.")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="constant (default), linear or cosine.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Default: 0.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data. Default: 1.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", "--max-steps", help="Instead of --epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Conversations per step. Default: 16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Order of the data; split of --test-fraction. Default: 0.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations. Default: 50.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints. Default: 50.")] = None,
    train_mlp: Annotated[bool | None, typer.Option(help="Adapters in MLP layers. Default: yes.")] = None,
    train_attn: Annotated[bool | None, typer.Option(help="Adapters in attention. Default: yes.")] = None,
    train_unembed: Annotated[
        bool | None, typer.Option(help="An adapter in the output layer, where the model takes one. Default: yes.")
    ] = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other hyperparameter; may be repeated."),
    ] = None,
    start_from: Annotated[str, typer.Option(metavar="JOB[:CHECKPOINT]", help="Begin from a checkpoint.")] = "",
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Leave its optimizer state behind.")] = False,
    host: Annotated[str, typer.Option(help="GPU host. Default: one that serves the model.")] = "",
    label: Labels = None,
    request_id: Annotated[str, typer.Option(help="Makes the command repeatable: the same id, the same job.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate; make no job.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Submit and return.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave bad conversations of files out.")] = False,
    train_on: TrainOn = "",
    max_length: MaxLength = None,
    truncation: Truncation = "",
    option: Option = None,
) -> None:
    """Train a LoRA adapter on a dataset or a file, and watch it. Ctrl-C detaches; the job goes on."""
    asked = JobFile.read(file) if file is not None else JobFile()
    data = data or asked.data
    if not data:
        raise InvalidInput("There is nothing to train on.", hint="Name a file or a dataset, or a job file with -f.")
    if not test and test_fraction is None:
        test, test_fraction = asked.test, asked.test_fraction
    options = cast(
        PreprocessFields, {**asked.preprocess, **preprocess_fields(train_on, max_length, truncation, option)}
    )
    given: dict[str, object] = {
        "lora_rank": rank,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "warmup_steps": warmup_steps,
        "epochs": epochs,
        "max_steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        "eval_every": eval_every,
        "checkpoint_every": checkpoint_every,
        "train_mlp": train_mlp,
        "train_attn": train_attn,
        "train_unembed": train_unembed,
    }
    fields = asked.with_options(hyperparameter_fields(given, others))
    labels = {**asked.labels, **pairs(label or (), "--label")}
    host = host or asked.host
    start = _start_from(start_from or asked.start_from, weights_only=weights_only or asked.weights_only)
    chosen = choose_model(session, model or asked.model)
    training, held_out = training_and_test(
        session, data, test, test_fraction, fields.get("seed", 0), model=chosen, options=options,
        skip_bad=skip_bad or asked.skip_bad,
    )  # fmt: skip
    if is_dataset(data) and max_length is not None:
        fields["max_length"] = max_length
    made = {data: training, test: held_out}
    if dry_run:
        with leaving_nothing(session, made):
            answer = session.client.jobs.validate(
                model=chosen, training_dataset=training, test_dataset=held_out, metadata=labels, host=host,
                start_from=start, **fields,
            )  # fmt: skip
        _warn_of_warmup(session, answer.job)
        _show_estimate(session, answer)
        return
    with leaving_nothing(session, made):
        job = session.client.jobs.create(
            model=chosen, training_dataset=training, test_dataset=held_out, request_id=request_id, metadata=labels,
            host=host, start_from=start, **fields,
        )  # fmt: skip
    _warn_of_warmup(session, job)
    if detach:
        if session.as_json:
            session.json(to_plain(job))
        else:
            session.out.print(f"{job.id} submitted.  Watch it: turnloom watch {job.id}", highlight=False)
        return
    asked_for = job.hyperparameters  # a rate says little without its batch size
    session.say(
        f"[bold]{job.id}[/] on {escape(chosen)}: rank {asked_for.lora_rank}, rate {written(asked_for.learning_rate)} at"
        f" batch size {asked_for.batch_size}. Ctrl-C detaches, the job goes on."
    )
    conclude(session, watch_to_the_end(session, job.id))


def watch(
    session: Session,
    job: Annotated[str, typer.Argument(help="Job id.", metavar="JOB", show_default=False)],
    start_event_id: Annotated[str, typer.Option("--from", help="Only what comes after this event_id.")] = "",
) -> None:
    """Watch a job until it ends. Ctrl-C detaches; with --json one line per update."""
    conclude(session, watch_to_the_end(session, job, start_event_id))


def _start_from(text: str, *, weights_only: bool) -> training_pb2.StartFrom | None:
    if not text:
        if weights_only:
            raise InvalidInput("--weights-only says nothing without --start-from.", hint="Add --start-from JOB.")
        return None
    job, _, checkpoint = text.partition(":")
    return training_pb2.StartFrom(job=job, checkpoint=checkpoint, weights_only=weights_only)


def _warn_of_warmup(session: Session, job: training_pb2.Job) -> None:
    asked, steps = job.hyperparameters, job.progress.planned_steps
    if 0 < steps < asked.warmup_steps:
        session.say(
            f"[yellow]warmup_steps is {asked.warmup_steps} and the job has {steps} steps: the rate never reaches"
            f" {written(asked.learning_rate)}.[/]"
        )


def _show_estimate(session: Session, answer: training_pb2.CreateJobResponse) -> None:
    if session.as_json:
        session.json(to_plain(answer))
        return
    estimate, cut = answer.estimate, answer.job.cut
    time = f", about {duration(estimate.gpu_seconds)} of GPU time" if estimate.HasField("gpu_seconds") else ""
    session.out.print(
        f"The job would run: {estimate.steps} steps, {count(estimate.tokens)} tokens,"
        f" {count(estimate.trained_tokens)} trained{time}.",
        highlight=False,
    )
    if cut.cut_rows:
        session.out.print(
            f"max_length cuts {cut.cut_rows} rows by {count(cut.cut_tokens)} tokens; {cut.emptied_rows} rows are left"
            " without a trained token.",
            highlight=False,
        )
    raise typer.Exit(Exit.OK)
