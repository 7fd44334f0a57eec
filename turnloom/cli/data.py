"""Commands that look at models and conversations: models, preview, lint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from turnloom.cli.exits import Exit
from turnloom.cli.inputs import (
    LARGEST,
    Loaded,
    MaxLength,
    Model,
    Option,
    TrainOn,
    Truncation,
    choose_model,
    preprocess_fields,
)
from turnloom.cli.jsonable import to_plain
from turnloom.cli.session import Session, command
from turnloom.cli.tokens import show
from turnloom.words import buckets, count

File = Annotated[
    Path,
    typer.Argument(help="JSONL, JSON, CSV, Parquet or Arrow file, folder or glob.", metavar="FILE", show_default=False),
]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "models")(models)
    command(app, "preview")(preview)
    command(app, "lint")(lint)


def models(session: Session) -> None:
    """List the models that conversations can be preprocessed for."""
    served = session.client.models.list()
    if session.as_json:
        session.json([to_plain(model) for model in served])
        return
    session.table(
        ("name", "?TuFT model", "#vocabulary", "?encoder", "template", "tokenizer"),
        (
            (
                *(escape(model.name), escape(model.tuft_model_name), f"{model.vocabulary_size}", escape(model.encoder)),
                *(model.template_sha256[:12], model.tokenizer_sha256[:12]),
            )
            for model in served
        ),
        "The server has no model; add one to its models.toml.",
    )


def preview(
    session: Session,
    file: File,
    *,
    index: Annotated[int, typer.Option(help="Which conversation, from 0.", min=0)] = 0,
    tokens: Annotated[bool, typer.Option("--tokens", help="One line per token, with ids.")] = False,
    model: Model = "",
    train_on: TrainOn = "",
    max_length: MaxLength = None,
    truncation: Truncation = "",
    option: Option = None,
) -> None:
    """Show one conversation as the model will see it, trained tokens in colour."""
    fields = preprocess_fields(train_on, max_length, truncation, option)
    chosen = Loaded.one(file, index)
    with chosen.located():
        answer = session.client.preview(chosen.conversations[0], model=choose_model(session, model), **fields)
    if session.as_json:
        session.json(to_plain(answer))
    else:
        session.say(f"[bold]{escape(chosen.places[0])}[/], date {answer.date}")
        show(answer, session.out, each_token=tokens)


def lint(
    session: Session,
    file: File,
    *,
    test: Annotated[list[Path] | None, typer.Option(help="Test file, to find overlaps.")] = None,
    offenders: Annotated[int, typer.Option(help="Offenders listed per finding.", min=1, max=LARGEST)] = 5,
    strict: Annotated[bool, typer.Option("--strict", help="End with code 2 where anything was found.")] = False,
    model: Model = "",
    train_on: TrainOn = "",
    max_length: MaxLength = None,
    truncation: Truncation = "",
    option: Option = None,
) -> None:
    """Look for what usually goes wrong in conversations."""
    fields = preprocess_fields(train_on, max_length, truncation, option)
    loaded = Loaded.from_file(file)
    held_out = [conversation for path in test or () for conversation in Loaded.from_file(path).conversations]
    with loaded.located():
        report = session.client.lint(
            loaded.conversations,
            model=choose_model(session, model),
            test=held_out,
            max_offenders=offenders,
            **fields,
        )
    if session.as_json:
        session.json(to_plain(report))
    else:
        session.out.print(
            f"{report.conversations} conversations, {report.examples} examples, {count(report.tokens)} tokens,"
            f" {count(report.loss_tokens)} trained",
            highlight=False,
        )
        session.out.print(f"Tokens per example: {buckets(report.length_histogram)}", highlight=False)
        for finding in report.findings:
            session.out.print(
                f"[yellow]{finding.count} x {finding.code}[/]: {escape(finding.explanation)}", soft_wrap=True
            )
            for issue in finding.offenders:
                place = loaded.place(issue.conversation_index)
                session.out.print(f"  {escape(f'{place}: {issue.message}')}", soft_wrap=True, highlight=False)
        if not report.findings:
            session.out.print("[green]Nothing found.[/]")
    if strict and report.findings:
        raise typer.Exit(Exit.BAD_INPUT)
