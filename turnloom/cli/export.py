"""Commands that take results elsewhere: export, sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from turnloom.cli import comparing
from turnloom.cli.jsonable import to_plain
from turnloom.cli.session import Session, command
from turnloom.errors import InvalidInput
from turnloom.results.files import rows, write_csv
from turnloom.results.report import missing
from turnloom.results.runs import Run, differing

NEEDS: Final[Mapping[str, tuple[str, str]]] = {
    "parquet": ("pyarrow", "pip install pyarrow"),
    "tensorboard": ("tensorboardX", "pip install tensorboardX"),
}  #: format to module, and how to get it


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "export")(export)
    command(app, "sample")(sample)


def export(
    session: Session,
    names: Annotated[list[str], typer.Argument(help="Job ids, or ids of sweeps.", metavar="JOB...")],
    kind: Annotated[str, typer.Option("--to", help="csv (default), parquet or tensorboard.")] = "csv",
    out: Annotated[
        Path | None, typer.Option(help="File; for tensorboard a folder. Default: steps.csv, steps.parquet, runs.")
    ] = None,
) -> None:
    """Write the steps of jobs to a file, or as TensorBoard events. Reads the ledger, so it never slows training."""
    if kind not in WRITERS:
        raise InvalidInput(f"--to: there is no {kind!r}.", hint=f"Choose from {', '.join(WRITERS)}.", field="--to")
    if kind in NEEDS and missing(NEEDS[kind][0]):
        module, how = NEEDS[kind]
        raise InvalidInput(f"--to {kind} needs {module}, which is not installed.", hint=f"Get it with: {how}")
    runs = comparing.fetch(session.client, comparing.jobs_of(session.client, names))
    files = WRITERS[kind](out, runs)
    if session.as_json:
        session.json({"format": kind, "files": [str(path) for path in files]})
        return
    steps = sum(len(run.steps) for run in runs)
    session.out.print(f"{steps} steps in {', '.join(map(str, files))}", highlight=False, soft_wrap=True)


def _csv(out: Path | None, runs: Sequence[Run]) -> list[Path]:
    path = out or Path("steps.csv")
    write_csv(path, rows(runs, differing(runs)))
    return [path]


def _parquet(out: Path | None, runs: Sequence[Run]) -> list[Path]:
    from turnloom.results.parquet import write_parquet  # noqa: PLC0415  # pyarrow is optional

    path = out or Path("steps.parquet")
    write_parquet(path, rows(runs, differing(runs)))
    return [path]


def _tensorboard(out: Path | None, runs: Sequence[Run]) -> list[Path]:
    from turnloom.results.tensorboard import write_events  # noqa: PLC0415  # tensorboardX is optional

    return [path for run in runs for path in write_events(out or Path("runs"), run)]


WRITERS: Final[Mapping[str, Callable[[Path | None, Sequence[Run]], list[Path]]]] = {
    "csv": _csv,
    "parquet": _parquet,
    "tensorboard": _tensorboard,
}


def sample(
    session: Session,
    job: Annotated[str, typer.Argument(help="Job id.", metavar="JOB")],
    prompt: Annotated[str, typer.Argument(help="What the user says.")],
    system: Annotated[str, typer.Option(help="System message before it.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Checkpoint id. Default: the final adapter.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Of the reply. Default: 256.", min=0)] = 0,
    temperature: Annotated[float | None, typer.Option(help="Default: 1.")] = None,
) -> None:
    """Ask a job's adapter, where its TuFT server samples; a CPU server does not."""
    said = [{"role": "system", "content": system}] if system else []
    messages = [*said, {"role": "user", "content": prompt}]
    answer = session.client.sample(
        job, {"messages": [dict(message) for message in messages]}, checkpoint=checkpoint, max_tokens=max_tokens,
        temperature=temperature,
    )  # fmt: skip
    if session.as_json:
        session.json(to_plain(answer))
    else:
        session.out.print(escape(answer.text), highlight=False, soft_wrap=True)
