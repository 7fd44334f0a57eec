"""Commands of `turnloom dataset`: create, import, register, list, show, delete, download, export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.markup import escape
from rich.text import Text

from turnloom.cli.inputs import of_dataset, of_files, of_source, upload
from turnloom.cli.options.groups import BadConversations, Preprocessing, RowChoice, TestPart, choose_model
from turnloom.cli.running.jsonable import Plain, as_text, to_plain
from turnloom.cli.running.session import Session, command
from turnloom.cli.sources import (
    check_deduplication,
    choose_deduplication,
    filter_message,
    is_hub_name,
    named_fields,
    parts,
    watched,
)
from turnloom.cli.splits import check_parts, leaving_nothing, split_of
from turnloom.display.names import display_name
from turnloom.display.words import ago, coloured, count, dataset_state, not_compared
from turnloom.errors import InvalidInput
from turnloom.optional import missing
from turnloom.plural import counted
from turnloom.v1 import datasets_pb2
from turnloom.whole_file import whole_file

if TYPE_CHECKING:
    from turnloom.reading.local_sources import LocalPart
    from turnloom.wire.batches import Batch, Row

Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE", help="JSONL, JSON, CSV, Parquet, Arrow; folders and globs too.", show_default=False),
]
Id = Annotated[str, typer.Argument(help="Dataset id.", metavar="DATASET", show_default=False)]
Name = Annotated[str, typer.Option(help="Name for people. Default: the file's.")]
HEADINGS = ("id", "name", "state", "#conversations", "?#examples", "?#tokens", "?#trained", "?#cut", "#left out", "age")


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Make and look at datasets.")
    app.add_typer(group, name="dataset")
    command(group, "create", "dataset create chats.jsonl --test-fraction 0.1 --where 'lang = en' --deduplicate exact")(
        create
    )
    command(group, "import", "dataset import HuggingFaceH4/no_robots --test-split test --max-length 2048")(
        import_source
    )
    command(group, "register", "dataset register s3://bucket/rows --model qwen3")(register)
    command(group, "list", "dataset list")(list_all)
    command(group, "show", "dataset show ds-0123456789ab --rows 3")(show)
    command(group, "delete", "dataset delete ds-0123456789ab")(delete)
    command(group, "cancel", "dataset cancel ds-0123456789ab")(cancel)
    command(group, "download", "dataset download ds-0123456789ab --to rows.jsonl")(download)
    command(group, "export", "dataset export ds-0123456789ab --to trl --out rows.parquet")(export)


def create(
    session: Session,
    file: Files,
    *,
    name: Name = "",
    test: Annotated[list[Path] | None, typer.Option(help="Test file: a dataset of its own; may be repeated.")] = None,
    part: TestPart,
    rows: RowChoice,
    bad: BadConversations,
    preprocessing: Preprocessing,
) -> None:
    """Tokenize files, folders or globs into a dataset, or into one for training and others for testing.

    A name like owner/name that is no file is a hub dataset, which the server reads (see `dataset import`).
    """
    if test and part.test_fraction is not None:
        raise InvalidInput("--test and --test-fraction exclude each other.", hint="Give one of them.", field="--test")
    bad.check()
    check_deduplication(rows.deduplicate)
    if len(file) == 1 and is_hub_name(file[0]) and not test:
        import_source(
            session, file[0].as_posix(), hub=Hub(), rows=rows, part=part, name=name, bad=bad,
            preprocessing=preprocessing,
        )  # fmt: skip
        return
    fields = preprocessing.fields()
    found = _local_parts(session, file, test or (), name, part, rows)
    chosen = choose_model(session, preprocessing.model)
    check_parts([one for _, one in found], skip_bad=bad.skip_bad)
    made: list[datasets_pb2.Dataset] = []
    for label, one in found:
        with leaving_nothing(session, [dataset.id for dataset in made]):
            made.append(upload(session, one, model=chosen, name=label, fields=fields, strict=bad.strict))
    _report(session, made)


def _local_parts(
    session: Session, files: Sequence[Path], tests: Sequence[Path], name: str, part: TestPart, rows: RowChoice
) -> list[tuple[str, LocalPart]]:
    """Return the parts of local files with their datasets' names, which may be equal; the training part first."""
    from turnloom.reading.local_sources import LocalSource  # noqa: PLC0415  # needs numpy
    from turnloom.reading.selecting import Choice  # noqa: PLC0415

    split = Choice() if part.test_fraction is None else split_of(part.test_fraction, part.seed)
    choice = replace(split, row_filter=rows.row_filter(), deduplicate=rows.deduplicate)
    mapping = rows.columns()
    source = LocalSource.open(files, format_name=rows.data_format, columns=mapping, choice=choice, limit=rows.limit)
    session.say(f"{escape(source.name)}: read as {source.shape.name}.")
    endings = ("",) if part.test_fraction is None else (" (train)", " (test)")
    found = [
        (f"{name}{ending}" if name else display_name(source.name, ending), one)
        for ending, one in zip(endings, source.parts(), strict=True)
    ]
    whole = replace(choice, test_fraction=0.0)
    for path in tests:
        opened = LocalSource.open([path], format_name=rows.data_format, columns=mapping, choice=whole)
        found += [(display_name(path.name), one) for one in opened.parts()]
    return found


@dataclass(frozen=True, slots=True)
class Hub:
    """Which part of a hub dataset to read."""

    split: Annotated[str, typer.Option(help="Split of a hub dataset. Default: train.")] = ""
    test_split: Annotated[str, typer.Option(help="Split that becomes a test dataset of its own.")] = ""
    revision: Annotated[str, typer.Option(help="Hub revision: a branch, tag or commit.")] = ""
    config: Annotated[str, typer.Option(help="Hub configuration.")] = ""
    streaming: Annotated[
        bool, typer.Option("--streaming/--no-streaming", help="Read the hub as it comes, or download all files first.")
    ] = True


def import_source(
    session: Session,
    uri: Annotated[str, typer.Argument(help="Hub dataset, or a path or URL below the server's roots.", metavar="URI")],
    *,
    hub: Hub,
    rows: RowChoice,
    part: TestPart,
    name: Name = "",
    bad: BadConversations,
    preprocessing: Preprocessing,
) -> None:
    """Have the server make a dataset of a hub dataset, file or URL, and watch it. Ctrl-C leaves it going."""
    if hub.test_split and part.test_fraction:
        raise InvalidInput(
            "--test-split and --test-fraction exclude each other.", hint="Give one of them.", field="--test-split"
        )
    bad.check()
    source = datasets_pb2.DatasetSource(
        uri=uri,
        split=hub.split,
        revision=hub.revision,
        config=hub.config,
        format=rows.data_format,
        column_mapping=rows.columns(),
        limit=rows.limit,
        test_fraction=part.test_fraction or 0.0,
        split_seed=part.seed,
        filter=filter_message(rows.row_filter()),
        streaming=None if hub.streaming else False,
    )
    choose_deduplication(source, rows.deduplicate)
    fields = preprocessing.fields()
    chosen = choose_model(session, preprocessing.model)
    asked = [
        session.client.datasets.create_from_source(
            one,
            model=chosen,
            display_name=f"{name}{suffix}" if name else display_name(uri, suffix),
            skip_bad=bad.skip_bad,
            skip_too_long=not bad.strict,
            **fields,
        )
        for one, suffix in parts(source, hub.test_split)
    ]
    _report(session, [watched(session, dataset) for dataset in asked], bare=True)


def register(
    session: Session,
    uri: Annotated[str, typer.Argument(help="Folder or URL below the server's roots.", metavar="FOLDER_OR_URL")],
    model: Annotated[str, typer.Option(help="Model of the server. Default: as the rows say.")] = "",
    name: Name = "",
) -> None:
    """Make a dataset of rows that another engine made with turnloom.masks.columns, such as Ray Data; and watch it."""
    from turnloom.client.registering import fields_of, read_description  # noqa: PLC0415  # fsspec takes a while

    told = read_description(uri)
    asked = session.client.datasets.create_from_source(
        datasets_pb2.DatasetSource(uri=uri, format="rows"),
        model=model or str(told["model"]),
        display_name=name or display_name(uri),
        **fields_of(told),
    )
    _report(session, [watched(session, asked)], bare=True)


def list_all(session: Session) -> None:
    """List datasets, newest first."""
    found = list(session.client.datasets.list())
    if session.as_json:
        session.json([to_plain(dataset) for dataset in found])
    else:
        _table(session, found)


def show(
    session: Session,
    dataset: Id,
    rows: Annotated[int, typer.Option(help="Rows to show: token ids, the trained ones marked.", min=0)] = 0,
) -> None:
    """Show everything that is known of a dataset."""
    found = session.client.datasets.retrieve(dataset)
    first = list(islice(chain.from_iterable(session.client.datasets.download(dataset)), rows)) if rows else []
    if session.as_json:
        shown: dict[str, Plain] = {"rows": [_plain(row) for row in first]} if rows else {}
        session.json({**to_plain(found), **shown})
        return
    _table(session, [found])
    session.out.print(f"sha256 {found.sha256 or '-'}", highlight=False)
    for what, text in named_fields(found.source, "source"):
        session.out.print(f"  {what}: {escape(text)}", highlight=False, soft_wrap=True)
    for sentence in (*of_source(found), *of_dataset(found), *of_files(found)):
        session.out.print(f"  {escape(sentence)}", highlight=False, soft_wrap=True)
    for name, value in to_plain(found.options).items():
        if value not in (None, "", False):
            session.out.print(f"  {name} = {escape(as_text(value))}", highlight=False, soft_wrap=True)
    for issue in found.issues:
        session.out.print(
            f"[yellow]conversation {issue.conversation_index}[/]: {escape(issue.message)}", soft_wrap=True
        )
    for warning in found.warnings:
        session.out.print(f"conversation {warning.conversation_index}: {escape(warning.message)}", soft_wrap=True)
    if found.unchecked_examples:
        session.out.print(f"[yellow]{not_compared(found.unchecked_examples)}[/]", soft_wrap=True, highlight=False)
    for number, row in enumerate(first):
        _show_row(session, number, row)


def _show_row(session: Session, number: int, row: Row) -> None:
    """Print the ids of one row; trained targets are green, in a file between ⟦ and ⟧."""
    brackets = session.out.color_system is None
    weights = [0.0, *row.target_weights.tolist()]
    text = Text()
    for is_trained, same in groupby(zip(row.token_ids.tolist(), weights, strict=True), key=lambda pair: pair[1] > 0):
        ids = " ".join(str(token) for token, _ in same)
        text.append(f"⟦{ids}⟧ " if brackets and is_trained else f"{ids} ", style="bold green" if is_trained else "dim")
    part = f", part {row.part}" if row.part else ""
    trained = sum(weight > 0 for weight in weights)
    many = counted(len(weights), "token")
    head = f"row {number}: conversation {row.conversation_index}{part}, {many}, {trained} trained"
    session.out.print(head, highlight=False)
    session.out.print(text)


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
    rows = 0
    try:
        with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
            for batch in session.client.datasets.download(dataset):
                rows += _write_rows(batch, file)
    except OSError as error:
        raise InvalidInput(f"{path} can't be written: {error.strerror or error}.", hint="Name another file.") from error
    if session.as_json:
        session.json({"dataset": dataset, "path": str(path), "rows": rows})
    else:
        session.out.print(f"{counted(rows, 'row')} in {escape(str(path))}", highlight=False)


def export(
    session: Session,
    dataset: Id,
    kind: Annotated[str, typer.Option("--to", help="trl, axolotl, cookbook or datasets.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write. Default: DATASET.parquet, for the cookbook DATASET.jsonl.")
    ] = None,
) -> None:
    """Write the rows for another trainer: input_ids, and labels that are -100 where nothing is trained.

    trl, axolotl and datasets are Parquet files, cookbook JSON lines with what a Datum is made of. Weights are in
    loss_weights, which TRL leaves aside. Axolotl takes none, so rows with other weights than 0 and 1 are refused.
    """
    from turnloom.client.exports import FILES  # noqa: PLC0415  # numpy takes a while, and most commands need none
    from turnloom.client.exports import export as write  # noqa: PLC0415

    if kind not in FILES:
        raise InvalidInput(f"--to: there is no {kind!r}.", hint=f"Choose from {', '.join(FILES)}.", field="--to")
    ending = FILES[kind][1]
    if ending == "parquet" and missing("pyarrow"):
        raise InvalidInput(f"--to {kind} needs pyarrow, which is not installed.", hint="Get it: pip install pyarrow")
    path = out or Path(f"{dataset}.{ending}")
    try:
        rows = write(chain.from_iterable(session.client.datasets.download(dataset)), kind, path)
    except OSError as error:
        raise InvalidInput(f"{path} can't be written: {error.strerror or error}.", hint="Name another file.") from error
    if session.as_json:
        session.json({"dataset": dataset, "format": kind, "path": str(path), "rows": rows})
    else:
        session.out.print(f"{counted(rows, 'row')} in {escape(str(path))}", highlight=False)


def _write_rows(batch: Batch, file: TextIO) -> int:
    file.writelines(json.dumps(_plain(row)) + "\n" for row in batch)
    return len(batch)


def _plain(row: Row) -> dict[str, Plain]:
    return {
        "conversation": row.conversation_index,
        "part": row.part,
        "token_ids": row.token_ids.tolist(),
        "target_weights": row.target_weights.tolist(),
    }


def _report(session: Session, made: list[datasets_pb2.Dataset], *, bare: bool = False) -> None:
    """Report the new datasets, the training part first; `bare`: a single one is not a list in JSON."""
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


def _left_out(dataset: datasets_pb2.Dataset) -> int:
    """Return how many rows and conversations were left out, whatever for; `show` says how many for what."""
    chosen = dataset.left_out
    return chosen.filtered + chosen.duplicates + dataset.skipped_conversations


def _table(session: Session, datasets: list[datasets_pb2.Dataset]) -> None:
    session.table(
        HEADINGS,
        (
            (
                *(dataset.id, escape(dataset.display_name), coloured(dataset_state(dataset))),
                *(count(dataset.conversations), count(dataset.examples), count(dataset.tokens)),
                *(count(dataset.loss_tokens), count(dataset.truncated_examples), count(_left_out(dataset))),
                ago(dataset.create_time),
            )
            for dataset in datasets
        ),
        "There is no dataset; make one with `turnloom dataset create FILE`.",
    )
