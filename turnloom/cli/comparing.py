"""Compare runs and show the result: table, verdict, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.markup import escape

from turnloom.cli.running.jsonable import Plain
from turnloom.cli.running.session import Session
from turnloom.client import TurnloomClient
from turnloom.display.words import job_state
from turnloom.optional import missing
from turnloom.results.fetching import fetch
from turnloom.results.report import write_figures, write_steps, write_verdict
from turnloom.results.runs import SHORT, Run, Value, differing, label, written
from turnloom.results.verdict import Verdict, judge
from turnloom.v1 import training_pb2

NO_FIGURES: Final = "No figures: matplotlib is not installed. Get them with: pip install 'turnloom[plot]'"


def jobs_of(client: TurnloomClient, names: Sequence[str]) -> list[training_pb2.Job]:
    """Fetch the jobs, named by their ids or their sweep's id, each once."""
    jobs: dict[str, training_pb2.Job] = {}
    for name in names:
        found = client.sweeps.retrieve(name).jobs if name.startswith("sweep-") else [client.jobs.retrieve(name)]
        jobs.update({job.id: job for job in found})
    return list(jobs.values())


def keep(session: Session, folder: Path, runs: Sequence[Run], axes: Sequence[str], verdict: Verdict) -> list[Path]:
    """Write figures, steps and verdict; report it where figures can't be made."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [*write_steps(folder, runs, axes), write_verdict(folder, runs, axes, verdict)]
    if missing("matplotlib"):
        session.say(f"[yellow]{escape(NO_FIGURES)}[/]")
    else:
        made += write_figures(folder, runs, axes, title_of(runs))
    return made


def title_of(runs: Sequence[Run]) -> str:
    """Return the models and the batch size, without which a learning rate says little."""
    models = sorted({run.job.model for run in runs})
    sizes = sorted({run.job.hyperparameters.batch_size for run in runs})
    return f"{', '.join(models)}, batch size {', '.join(map(str, sizes))}"


def show(session: Session, runs: Sequence[Run], axes: Sequence[str], verdict: Verdict) -> None:
    """Show the final test NLL by cell, then the verdict."""
    title = "Final test NLL, nats per trained token"
    if any(run.test for run in runs):
        session.out.print(f"[bold]{title}[/] (batch size {_sizes(runs)})", highlight=False)
        _grid(session, runs, axes, verdict)
    for sentence in verdict.sentences:
        session.bullet(sentence)


def _sizes(runs: Sequence[Run]) -> str:
    return ", ".join(str(size) for size in sorted({run.job.hyperparameters.batch_size for run in runs}))


def _grid(session: Session, runs: Sequence[Run], axes: Sequence[str], verdict: Verdict) -> None:
    """Print the grid: the last axis across, the others down; with one axis a line per cell."""
    down, across = (axes[:-1], axes[-1]) if len(axes) > 1 else (axes, "")
    columns: list[Value] = sorted({run.value(across) for run in runs}) if across else [""]
    lines: dict[tuple[Value, ...], dict[Value, str]] = {}
    for run in runs:
        line = lines.setdefault(run.values(down), {})
        line[run.value(across) if across else ""] = _entry(run, verdict)
    headings = [f"{SHORT.get(across, across)} {written(value)}" if across else "test NLL" for value in columns]
    session.table(
        (" x ".join(SHORT.get(axis, axis) for axis in down) or "job", *(f"#{heading}" for heading in headings)),
        (
            (escape(label(down, values) or runs[0].job.id), *(line.get(column, "-") for column in columns))
            for values, line in lines.items()
        ),
        "",
    )


def _entry(run: Run, verdict: Verdict) -> str:
    if not run.test:
        return job_state(run.job)
    nll = f"{run.test[-1][1]:.4f}"
    job = run.job.id
    if job == verdict.best:
        return f"[bold green]{nll} best[/]"
    if job in verdict.stopped:
        return f"[yellow]{nll} stopped at {run.job.halving.compared_step}[/]"
    if job in verdict.trouble:
        return f"[red]{nll} {verdict.trouble[job].kind.value}[/]"
    if run.job.state != training_pb2.JOB_STATE_SUCCEEDED:
        return f"[yellow]{nll} {job_state(run.job)}[/]"
    return f"[green]{nll} tie[/]" if job in verdict.ties else nll


def compare(
    session: Session, jobs: Sequence[training_pb2.Job], axes: Sequence[str], folder: Path, document: dict[str, Plain]
) -> None:
    """Fetch the jobs' steps, judge them, write the files, and show table and verdict."""
    runs = fetch(session.client, jobs)
    axes = axes or differing(runs)
    verdict = judge(runs, axes)
    files = keep(session, folder, runs, axes, verdict)
    if session.as_json:
        session.json({**document, "verdict": _plain(verdict), "files": [str(path) for path in files]})
        return
    show(session, runs, axes, verdict)
    session.out.print(f"Kept in {folder}: {', '.join(path.name for path in files)}", highlight=False, soft_wrap=True)


def _plain(verdict: Verdict) -> Plain:
    troubles: dict[str, Plain] = {
        job: {"kind": found.kind.value, "step": found.step, "reason": found.reason}
        for job, found in verdict.trouble.items()
    }
    return {
        "best": verdict.best,
        "ties": list(verdict.ties),
        "stopped": dict(verdict.stopped),
        "trouble": troubles,
        "sentences": list(verdict.sentences),
    }
