"""Commands that export results to other tools: export."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from turnloom.cli import comparing
from turnloom.cli.running.session import Session, command
from turnloom.errors import InvalidInput
from turnloom.optional import missing
from turnloom.plural import counted
from turnloom.results.fetching import fetch
from turnloom.results.files import rows, write_csv
from turnloom.results.openmetrics import openmetrics
from turnloom.results.runs import Run, differing
from turnloom.whole_file import whole_file

NEEDS: Final[Mapping[str, tuple[str, str]]] = {
    "parquet": ("pyarrow", "pip install pyarrow"),
    "tensorboard": ("tensorboardX", "pip install tensorboardX"),
    "wandb": ("wandb", "pip install 'turnloom[wandb]'"),
}  #: format to module, and how to get it


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "export", "export sweep-0123456789ab --to wandb")(export)


def export(
    session: Session,
    names: Annotated[list[str], typer.Argument(help="Job ids, or ids of sweeps.", metavar="JOB")],
    kind: Annotated[str, typer.Option("--to", help="csv (default), parquet, openmetrics, tensorboard, wandb.")] = "csv",
    out: Annotated[
        Path | None,
        typer.Option(
            help="File; for tensorboard and wandb a folder. Default: steps.csv, steps.parquet, steps.om, runs, here."
        ),
    ] = None,
) -> None:
    """Write steps of jobs to a file, TensorBoard, Weights & Biases or Prometheus. Reads the ledger, slows no training.

    One row a step, NLLs in nats per trained token. wandb gets one run a job, named JOB, in the project `turnloom`
    (WANDB_PROJECT names another). A second export adds only later steps. WANDB_MODE=offline needs no account.
    openmetrics is text for `promtool tsdb create-blocks-from openmetrics`, as docs/monitoring.md shows.
    """
    if kind not in WRITERS:
        raise InvalidInput(f"--to: there is no {kind!r}.", hint=f"Choose from {', '.join(WRITERS)}.", field="--to")
    if kind in NEEDS and missing(NEEDS[kind][0]):
        module, how = NEEDS[kind]
        raise InvalidInput(f"--to {kind} needs {module}, which is not installed.", hint=f"Get it with: {how}")
    runs = fetch(session.client, comparing.jobs_of(session.client, names))
    files = WRITERS[kind](out, runs)
    if session.as_json:
        session.json({"format": kind, "files": [str(path) for path in files]})
        return
    steps = sum(len(run.steps) for run in runs)  # and a row for what was evaluated before training
    session.out.print(f"{counted(steps, 'row')} in {', '.join(map(str, files))}", highlight=False, soft_wrap=True)


def _csv(out: Path | None, runs: Sequence[Run]) -> list[Path]:
    path = out or Path("steps.csv")
    write_csv(path, rows(runs, differing(runs)))
    return [path]


def _parquet(out: Path | None, runs: Sequence[Run]) -> list[Path]:
    from turnloom.results.parquet import write_parquet  # noqa: PLC0415  # pyarrow is optional

    path = out or Path("steps.parquet")
    write_parquet(path, rows(runs, differing(runs)))
    return [path]


def _openmetrics(out: Path | None, runs: Sequence[Run]) -> list[Path]:
    path = out or Path("steps.om")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(openmetrics(runs))
    return [path]


def _tensorboard(out: Path | None, runs: Sequence[Run]) -> list[Path]:
    from turnloom.results.tensorboard import write_events  # noqa: PLC0415  # tensorboardX is optional

    return [path for run in runs for path in write_events(out or Path("runs"), run)]


def _wandb(out: Path | None, runs: Sequence[Run]) -> list[str]:
    from turnloom.results.weights_and_biases import mirror  # noqa: PLC0415  # wandb is optional

    return mirror(out or Path(), runs)


WRITERS: Final[Mapping[str, Callable[[Path | None, Sequence[Run]], Sequence[Path | str]]]] = {
    "csv": _csv,
    "parquet": _parquet,
    "openmetrics": _openmetrics,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
