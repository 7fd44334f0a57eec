"""Commands that run and compare many jobs: sweep, sweeps, plot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from turnloom.cli.options import numbers
from turnloom.cli.options.groups import (
    LARGEST,
    BadConversations,
    Budget,
    HeldOut,
    Mixture,
    Preprocessing,
    Submission,
    choose_model,
)
from turnloom.cli.options.replying import Replying
from turnloom.cli.running.exits import Exit
from turnloom.cli.running.jsonable import to_plain
from turnloom.cli.running.session import Session, command
from turnloom.cli.splits import is_dataset, leaving_nothing, sole_data, training_and_test
from turnloom.client import TERMINAL
from turnloom.display.words import ago
from turnloom.errors import InvalidInput
from turnloom.plural import counted
from turnloom.progress import follow_sweep, sweep_display
from turnloom.v1 import training_pb2
from turnloom.wire.options import hyperparameters

RANKS: Final = (8, 32, 128)  #: the guide's grid, where no axis is given
RATES: Final = (1e-5, 1e-4, 1e-3)
EVALUATIONS: Final = 10  #: of a cell, where --steps is given and --eval-every is not


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    command(
        app,
        "sweep",
        "sweep chats.jsonl --test test.jsonl --rank 8 32 --lr 1e-4 1e-3 --steps 100 --halving",
        numbers.ManyNumbers,
    )(sweep)
    command(app, "sweeps", "sweeps")(list_sweeps)
    command(app, "plot", "plot job-0123456789ab job-ba9876543210 --to figures")(plot)


@dataclass(frozen=True, slots=True)
class Axes:
    """The grid."""

    rank: Annotated[list[int] | None, typer.Option("--rank", "--lora-rank", help="LoRA ranks: 8 32 128.")] = None
    learning_rate: Annotated[
        list[float] | None, typer.Option("--lr", "--learning-rate", help="Learning rates: 1e-5 1e-4 1e-3.")
    ] = None
    axis: Annotated[
        list[str] | None, typer.Option(metavar="NAME=V,V", help="Any other hyperparameter; may be repeated.")
    ] = None

    def grid(self) -> dict[str, list[float]]:
        """Return the axes by hyperparameter; the guide's grid if none is given."""
        return numbers.axes(self.rank or (), self.learning_rate or (), self.axis or ()) or numbers.axes(
            RANKS, RATES, ()
        )


@dataclass(frozen=True, slots=True)
class Halving:
    """Whether worse cells are stopped on the way."""

    halving: Annotated[
        bool, typer.Option("--halving", help="Stop the worse cells on the way: successive halving by test NLL.")
    ] = False
    eta: Annotated[
        int | None, typer.Option(help="With --halving: one cell in this many goes on. Default: 2.", min=0, max=LARGEST)
    ] = None
    rungs: Annotated[
        list[int] | None,
        typer.Option(
            help="With --halving: steps at which cells are compared. Default: as many as fit.", min=0, max=LARGEST
        ),
    ] = None

    def check(self) -> None:
        """Refuse options without effect.

        Raises:
            InvalidInput
        """
        if not self.halving and (self.eta is not None or self.rungs):
            raise InvalidInput("--eta and --rungs belong to --halving.", hint="Add --halving.", field="--halving")


@dataclass(frozen=True, slots=True)
class SweepSubmission(Submission):
    """Where a sweep runs, and what it is called."""

    name: Annotated[str, typer.Option(help="A name for people.")] = ""
    to: Annotated[Path | None, typer.Option(help="Folder of figures and files. Default: the sweep's id.")] = None


def sweep(
    session: Session,
    data: Annotated[
        str,
        typer.Argument(
            help="Dataset id or file; or the id of a sweep to come back to.", metavar="DATA", show_default=False
        ),
    ] = "",
    *,
    mixture: Mixture,
    held_out: HeldOut,
    axes: Axes,
    budget: Budget,
    halving: Halving,
    submission: SweepSubmission,
    replying: Replying,
    bad: BadConversations,
    preprocessing: Preprocessing,
) -> None:
    """Train a grid of ranks and rates, watch it, compare: figures, table, verdict. Ctrl-C detaches; it goes on.

    One job for every combination, 100 at most, all on the same data in the same order. The folder gets figures, steps
    and the verdict (docs/sweeps.md). The id of a sweep in place of DATA comes back to it.
    """
    if data.startswith("sweep-") and not Path(data).is_file():  # a folder of this name holds its figures
        made = session.client.sweeps.retrieve(data)
    else:
        halving.check()
        mix = mixture.weights()
        data = sole_data(data, mix)
        if not held_out:
            raise InvalidInput(
                "--test is missing; cells are compared by it.",
                hint="Or --test-fraction 0.1. To come back to a sweep give its id, sweep-...",
            )
        grid = axes.grid()
        if budget.eval_every is None and budget.max_steps is not None:
            budget = replace(budget, eval_every=max(1, budget.max_steps // EVALUATIONS))
        fields = budget.fields(without=grid)
        replies = replying.fields()
        hyperparameters(fields)  # a mistake is told before a file is sent
        model = choose_model(session, preprocessing.model)
        chosen = training_and_test(
            session, data or next(iter(mix)), held_out, budget.seed or 0, model=model,
            options=preprocessing.fields(), bad=bad,
        )  # fmt: skip
        if (mix or is_dataset(data)) and preprocessing.max_length is not None:
            fields["max_length"] = preprocessing.max_length
        with leaving_nothing(session, chosen.uploaded):
            made = session.client.sweeps.create(
                grid, model=model, training_dataset="" if mix else chosen.training, test_dataset=chosen.test, mix=mix,
                display_name=submission.name, request_id=submission.request_id, metadata=submission.labels(),
                host=submission.host, priority=submission.priority,
                successive_halving=halving.halving, halving_eta=halving.eta,
                halving_rungs=halving.rungs or (), **replies, **fields,
            )  # fmt: skip
    if submission.detach:
        _show_submitted(session, made)
        return
    session.say(
        f"[bold]{made.id}[/]: {counted(len(made.jobs), 'job')}{_plan(made)}; Ctrl-C detaches, training goes on."
    )
    _conclude(session, _watch(session, made), submission.to or Path(made.id))


def _show_submitted(session: Session, made: training_pb2.Sweep) -> None:
    if session.as_json:
        session.json(to_plain(made))
    else:
        session.out.print(f"{made.id} submitted.  Come back: turnloom sweep {made.id}", highlight=False)


def _watch(session: Session, made: training_pb2.Sweep) -> training_pb2.Sweep:
    """Show the sweep until every job has ended or was paused. Ctrl-C detaches: exit code 130.

    Raises:
        TurnloomError: the server is away for too long.
    """
    axes = [axis.hyperparameter for axis in made.axes]
    try:
        if session.as_json:
            return follow_sweep(session.client, made, lambda made: None)
        with sweep_display(axes, session.err) as refresh:
            return follow_sweep(session.client, made, refresh)
    except KeyboardInterrupt:
        # Bypass the console, as in watching.py.
        typer.echo(
            f"\nDetached: {made.id} goes on.  Come back: turnloom sweep {made.id}   Stop it: turnloom cancel {made.id}",
            err=True,
        )
        raise typer.Exit(Exit.INTERRUPTED) from None


def _plan(made: training_pb2.Sweep) -> str:
    """Describe halving: ", of which 4 go on after step 10, 2 after step 20"; empty without halving."""
    kept = [f"{rung.kept} {'goes' if rung.kept == 1 else 'go'} on after step {rung.step}" for rung in made.rungs]
    return f", of which {', '.join(kept)}" if kept else ""


def _conclude(session: Session, made: training_pb2.Sweep, folder: Path) -> None:
    """Show table and verdict, write the files; exit code 1 if a cell neither SUCCEEDED nor was stopped by halving."""
    from turnloom.cli.comparing import compare  # noqa: PLC0415  # needs numpy

    axes = [axis.hyperparameter for axis in made.axes]
    compare(session, made.jobs, axes, folder, {"sweep": to_plain(made)})
    if any(job.state != training_pb2.JOB_STATE_SUCCEEDED and not job.halving.stopped for job in made.jobs):
        raise typer.Exit(Exit.JOB_FAILED)


def list_sweeps(session: Session) -> None:
    """List sweeps, newest first."""
    found = list(session.client.sweeps.list())
    if session.as_json:
        session.json([to_plain(made) for made in found])
        return
    session.table(
        ("id", "name", "axes", "#jobs", "#ended", "age"),
        (
            (
                *(made.id, escape(made.display_name)),
                " x ".join(f"{axis.hyperparameter} ({len(axis.values)})" for axis in made.axes),
                str(len(made.jobs)),
                str(sum(job.state in TERMINAL for job in made.jobs)),
                ago(made.create_time),
            )
            for made in found
        ),
        "There is no sweep; start one with `turnloom sweep`.",
    )


def plot(
    session: Session,
    names: Annotated[list[str], typer.Argument(help="Job ids, or ids of sweeps.", metavar="JOB")],
    to: Annotated[Path, typer.Option(help="Folder of figures and files.")] = Path("turnloom-plot"),
) -> None:
    """Compare any jobs: figures, steps, verdict."""
    from turnloom.cli.comparing import compare, jobs_of  # noqa: PLC0415  # needs numpy

    jobs = jobs_of(session.client, names)
    compare(session, jobs, (), to, {"jobs": [to_plain(job) for job in jobs]})
