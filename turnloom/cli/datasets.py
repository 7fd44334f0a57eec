"""Commands of `turnloom dataset`: create, import, list, show, delete, download."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.markup import escape

from turnloom.batches import Batch
from turnloom.cli.inputs import (
    MaxLength,
    Model,
    Option,
    TrainOn,
    Truncation,
    choose_model,
    preprocess_fields,
    upload,
)
from turnloom.cli.jsonable import to_plain
from turnloom.cli.session import Session, command
from turnloom.cli.sources import (
    Column,
    DataFormat,
    Deduplicate,
    Limit,
    MaxCharacters,
    MaxMessages,
    MinCharacters,
    MinMessages,
    Where,
    check_deduplication,
    choose_deduplication,
    columns,
    filter_message,
    is_hub_name,
    named_fields,
    parts,
    row_filter,
    watched,
)
from turnloom.cli.splits import checked_parts, leaving_nothing, split_of
from turnloom.errors import InvalidInput
from turnloom.local_sources import LocalSource
from turnloom.selecting import Choice
from turnloom.v1 import datasets_pb2
from turnloom.words import ago, coloured, count, dataset_state

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="JSONL, JSON, CSV, Parquet, Arrow; folders and globs too.", show_default=False),
]
Id = Annotated[str, typer.Argument(help="Dataset id.", metavar="DATASET", show_default=False)]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave bad conversations out instead of failing.")]
Name = Annotated[str, typer.Option(help="Name for people. Default: the file's.")]
HEADINGS = ("id", "name", "state", "#conversations", "?#examples", "?#tokens", "?#trained", "?#cut", "#left out", "age")


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    group = typer.Typer(no_args_is_help=True, help="Make and look at datasets.")
    app.add_typer(group, name="dataset")
    command(group, "create")(create)
    command(group, "import")(import_source)
    command(group, "list")(list_all)
    command(group, "show")(show)
    command(group, "delete")(delete)
    command(group, "cancel")(cancel)
    command(group, "download")(download)


def create(
    session: Session,
    file: Files,
    *,
    name: Name = "",
    test: Annotated[list[Path] | None, typer.Option(help="Test file: a dataset of its own; may be repeated.")] = None,
    test_fraction: Annotated[float | None, typer.Option(help="Part to hold out as a test dataset.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of --test-fraction.", min=0)] = 0,
    where: Where = None,
    min_messages: MinMessages = 0,
    max_messages: MaxMessages = 0,
    min_characters: MinCharacters = 0,
    max_characters: MaxCharacters = 0,
    deduplicate: Deduplicate = "",
    data_format: DataFormat = "",
    column: Column = None,
    limit: Limit = 0,
    skip_bad: SkipBad = False,
    model: Model = "",
    train_on: TrainOn = "",
    max_length: MaxLength = None,
    truncation: Truncation = "",
    option: Option = None,
) -> None:
    """Tokenize files, folders or globs into a dataset, or into one for training and others for testing.

    A name like owner/name that is no file is a hub dataset, which the server reads (see `dataset import`).
    """
    if test and test_fraction is not None:
        raise InvalidInput("--test and --test-fraction exclude each other.", hint="Give one of them.", field="--test")
    check_deduplication(deduplicate)
    rows = row_filter(where, min_messages, max_messages, min_characters, max_characters)
    if len(file) == 1 and is_hub_name(file[0]) and not test:
        import_source(
            session, file[0].as_posix(), data_format=data_format, column=column, limit=limit, where=where,
            min_messages=min_messages, max_messages=max_messages, min_characters=min_characters,
            max_characters=max_characters, deduplicate=deduplicate, test_fraction=test_fraction or 0.0, seed=seed,
            name=name, skip_bad=skip_bad, model=model, train_on=train_on, max_length=max_length,
            truncation=truncation, option=option,
        )  # fmt: skip
        return
    fields = preprocess_fields(train_on, max_length, truncation, option)
    split = Choice() if test_fraction is None else split_of(test_fraction, seed)
    choice = replace(split, row_filter=rows, deduplicate=deduplicate)
    mapping = columns(column)
    source = LocalSource.open(file, format_name=data_format, columns=mapping, choice=choice, limit=limit)
    session.say(f"{escape(source.name)}: read as {source.shape.name}.")
    title = name or source.name
    endings = ("",) if test_fraction is None else (" (train)", " (test)")
    parts = {f"{title}{ending}": part for ending, part in zip(endings, source.parts(), strict=True)}
    tests = replace(choice, test_fraction=0.0)
    for path in test or ():
        (parts[path.name],) = LocalSource.open([path], format_name=data_format, columns=mapping, choice=tests).parts()
    chosen = choose_model(session, model)
    made: dict[str, datasets_pb2.Dataset] = {}
    for label, part in checked_parts(parts, skip_bad=skip_bad).items():
        with leaving_nothing(session, {label: dataset.id for label, dataset in made.items()}):
            made[label] = upload(session, part, model=chosen, name=label, fields=fields)
    _report(session, list(made.values()))


def import_source(
    session: Session,
    uri: Annotated[str, typer.Argument(help="Hub dataset, or a path or URL below the server's roots.", metavar="URI")],
    *,
    split: Annotated[str, typer.Option(help="Split of a hub dataset. Default: train.")] = "",
    test_split: Annotated[str, typer.Option(help="Split that becomes a test dataset of its own.")] = "",
    revision: Annotated[str, typer.Option(help="Hub revision: a branch, tag or commit.")] = "",
    config: Annotated[str, typer.Option(help="Hub configuration.")] = "",
    streaming: Annotated[
        bool, typer.Option("--streaming/--no-streaming", help="Read the hub as it comes, or download all files first.")
    ] = True,
    data_format: DataFormat = "",
    column: Column = None,
    limit: Limit = 0,
    where: Where = None,
    min_messages: MinMessages = 0,
    max_messages: MaxMessages = 0,
    min_characters: MinCharacters = 0,
    max_characters: MaxCharacters = 0,
    deduplicate: Deduplicate = "",
    test_fraction: Annotated[float, typer.Option(help="Part to hold out as a test dataset of its own.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of --test-fraction.", min=0)] = 0,
    name: Name = "",
    skip_bad: SkipBad = False,
    model: Model = "",
    train_on: TrainOn = "",
    max_length: MaxLength = None,
    truncation: Truncation = "",
    option: Option = None,
) -> None:
    """Have the server make a dataset of a hub dataset, file or URL, and watch it."""
    if test_split and test_fraction:
        raise InvalidInput(
            "--test-split and --test-fraction exclude each other.", hint="Give one of them.", field="--test-split"
        )
    source = datasets_pb2.DatasetSource(
        uri=uri,
        split=split,
        revision=revision,
        config=config,
        format=data_format,
        column_mapping=columns(column),
        limit=limit,
        test_fraction=test_fraction,
        split_seed=seed,
        filter=filter_message(row_filter(where, min_messages, max_messages, min_characters, max_characters)),
        streaming=None if streaming else False,
    )
    choose_deduplication(source, deduplicate)
    fields = preprocess_fields(train_on, max_length, truncation, option)
    chosen = choose_model(session, model)
    asked = [
        session.client.datasets.create_from_source(
            part, model=chosen, display_name=f"{name or uri}{suffix}", skip_bad=skip_bad, **fields
        )
        for part, suffix in parts(source, test_split)
    ]
    _report(session, [watched(session, dataset) for dataset in asked], bare=True)


def list_all(session: Session) -> None:
    """List datasets, newest first."""
    found = list(session.client.datasets.list())
    if session.as_json:
        session.json([to_plain(dataset) for dataset in found])
    else:
        _table(session, found)


def show(session: Session, dataset: Id) -> None:
    """Show everything that is known of a dataset."""
    found = session.client.datasets.retrieve(dataset)
    if session.as_json:
        session.json(to_plain(found))
        return
    _table(session, [found])
    session.out.print(f"sha256 {found.sha256 or '-'}", highlight=False)
    for what, text in (*named_fields(found.source, "source"), *named_fields(found.left_out, "left out")):
        session.out.print(f"  {what}: {escape(text)}", highlight=False, soft_wrap=True)
    chosen = {name: value for name, value in to_plain(found.options).items() if value not in (None, "", False)}
    for name, value in chosen.items():
        session.out.print(f"  {name} = {escape(str(value))}", highlight=False)
    for issue in found.issues:
        session.out.print(
            f"[yellow]conversation {issue.conversation_index}[/]: {escape(issue.message)}", soft_wrap=True
        )
    for warning in found.warnings:
        session.out.print(f"conversation {warning.conversation_index}: {escape(warning.message)}", soft_wrap=True)


def delete(session: Session, dataset: Id) -> None:
    """Delete a dataset that no unfinished job uses."""
    session.client.datasets.delete(dataset)
    _done(session, dataset, "deleted")


def cancel(session: Session, dataset: Id) -> None:
    """Stop making a dataset."""
    session.client.datasets.cancel(dataset)
    _done(session, dataset, "cancelled")


def download(
    session: Session,
    dataset: Id,
    to: Annotated[
        Path, typer.Option("--to", help="File to write. Default: DATASET.jsonl.", show_default=False)
    ] = Path(),
) -> None:
    """Write the rows as JSON lines: token_ids, target_weights (one less), conversation, part."""
    path = to if to != Path() else Path(f"{dataset}.jsonl")
    part = path.with_name(path.name + ".part")
    rows = 0
    try:
        with part.open("w", encoding="utf-8") as file:
            for batch in session.client.datasets.download(dataset):
                rows += _write_rows(batch, file)
        part.replace(path)
    except OSError as error:
        raise InvalidInput(f"{path} can't be written: {error.strerror or error}.", hint="Name another file.") from error
    finally:
        part.unlink(missing_ok=True)
    if session.as_json:
        session.json({"dataset": dataset, "path": str(path), "rows": rows})
    else:
        session.out.print(f"{rows} rows in {escape(str(path))}", highlight=False)


def _write_rows(batch: Batch, file: TextIO) -> int:
    for row in batch:
        document = {
            "conversation": row.conversation_index,
            "part": row.part,
            "token_ids": row.token_ids.tolist(),
            "target_weights": row.target_weights.tolist(),
        }
        file.write(json.dumps(document) + "\n")
    return len(batch)


def _report(session: Session, made: list[datasets_pb2.Dataset], *, bare: bool = False) -> None:
    """What was made, the training part first; `bare`: a single one is no list in JSON."""
    if session.as_json:
        session.json(to_plain(made[0]) if bare and len(made) == 1 else [to_plain(dataset) for dataset in made])
        return
    _table(session, made)
    held = f" --test {made[1].id}" if len(made) > 1 else ""
    session.say(f"Train with: turnloom train {made[0].id}{held}")


def _done(session: Session, dataset: str, what: str) -> None:
    if session.as_json:
        session.json({"dataset": dataset, "state": what.upper()})
    else:
        session.out.print(f"{dataset} {what}", highlight=False)


def _table(session: Session, datasets: list[datasets_pb2.Dataset]) -> None:
    session.table(
        HEADINGS,
        (
            (
                *(dataset.id, escape(dataset.display_name), coloured(dataset_state(dataset))),
                *(count(dataset.conversations), count(dataset.examples), count(dataset.tokens)),
                *(count(dataset.loss_tokens), count(dataset.truncated_examples), count(dataset.skipped_conversations)),
                ago(dataset.create_time),
            )
            for dataset in datasets
        ),
        "There is no dataset; make one with `turnloom dataset create FILE`.",
    )
