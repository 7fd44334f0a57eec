"""Commands to inspect models and conversations: models, preview, lint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from turnloom.cli.inputs import Loaded
from turnloom.cli.options.groups import LARGEST, File, Preprocessing, Reading, choose_model
from turnloom.cli.running.exits import Exit
from turnloom.cli.running.jsonable import to_plain
from turnloom.cli.running.session import Session, command
from turnloom.cli.tokens import show
from turnloom.display.words import buckets, count, many, not_compared
from turnloom.foreign.columns import unused_sentence
from turnloom.plural import counted
from turnloom.v1 import preprocess_pb2


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "models", "models")(models)
    command(app, "preview", "preview chats.jsonl --index 3 --max-length 1024")(preview)
    command(app, "lint", "lint chats.jsonl --test test.jsonl --strict")(lint)


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
    reading: Reading,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count only rows that can be read.")] = False,
    preprocessing: Preprocessing,
) -> None:
    """Show one conversation as the model will see it, trained tokens in colour.

    A file shows them between ⟦ and ⟧. Each stretch has its role and kind; escaped control tokens, split examples and
    what max_length cut are listed.
    """
    chosen = Loaded.one(file, index, reading, skip_bad=skip_bad)
    with chosen.located():
        answer = session.client.preview(
            chosen.conversations[0], model=choose_model(session, preprocessing.model), **preprocessing.fields()
        )
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
    reading: Reading,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Rows that can't be read are no finding.")] = False,
    preprocessing: Preprocessing,
) -> None:
    """Look for what usually goes wrong in conversations. Rows that can't be read are listed and left out."""
    loaded = Loaded.from_file(file, reading)
    held_out = [one for path in test or () for one in Loaded.from_file(path, reading).conversations]
    with loaded.located():
        report = session.client.lint(
            loaded.conversations,
            model=choose_model(session, preprocessing.model),
            test=held_out,
            max_offenders=offenders,
            **preprocessing.fields(),
        )
    if session.as_json:
        session.json(
            {
                **to_plain(report),
                "unreadable_rows": loaded.bad_rows,
                "unreadable": list(loaded.bad),
                "unused_columns": [*loaded.unused_columns],
            }
        )
    else:
        _show_report(session, report, loaded, offenders)
    if strict and (report.findings or (loaded.bad_rows and not skip_bad)):
        raise typer.Exit(Exit.BAD_INPUT)


def _show_report(
    session: Session, report: preprocess_pb2.LintConversationsResponse, loaded: Loaded, offenders: int
) -> None:
    session.out.print(
        f"{counted(report.conversations, 'conversation')}, {counted(report.examples, 'example')},"
        f" {many(report.tokens, 'token')},"
        f" {count(report.loss_tokens)} trained",
        highlight=False,
    )
    session.out.print(f"Tokens per example: {buckets(report.length_histogram)}", highlight=False)
    if loaded.unused_columns:
        session.out.print(
            f"[yellow]{escape(unused_sentence(loaded.unused_columns))}[/]", soft_wrap=True, highlight=False
        )
    if report.unchecked_examples:
        session.out.print(f"[yellow]{not_compared(report.unchecked_examples)}[/]", soft_wrap=True, highlight=False)
    if loaded.bad_rows:
        session.out.print(
            f"[yellow]{loaded.bad_rows} x unreadable[/]: rows that can't be read; `--skip-bad` leaves them out"
        )
        for sentence in loaded.bad[:offenders]:
            session.out.print(f"  {escape(sentence)}", soft_wrap=True, highlight=False)
    for finding in report.findings:
        session.out.print(f"[yellow]{finding.count} x {finding.code}[/]: {escape(finding.explanation)}", soft_wrap=True)
        for issue in finding.offenders:
            place = loaded.place(issue.conversation_index)
            session.out.print(f"  {escape(f'{place}: {issue.message}')}", soft_wrap=True, highlight=False)
    if not (report.findings or loaded.bad_rows):
        session.out.print("[green]Nothing found.[/]")
