"""Write all files of a comparison into one folder: figures, steps, verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from turnloom.optional import missing
from turnloom.results.files import rows, write_csv
from turnloom.results.runs import Run, label
from turnloom.results.verdict import Verdict


def write_figures(folder: Path, runs: Sequence[Run], axes: Sequence[str], title: str) -> list[Path]:
    """Draw figure 1, test NLL over steps, where there are evaluations, and figure 2, mean train NLL."""
    from turnloom.results.figures import draw  # noqa: PLC0415  # matplotlib is optional and slow to import

    written = []
    if any(run.test for run in runs):
        named = f"Figure 1: test NLL over steps, {title}"
        written += draw(folder, "figure-1-test-nll", runs, axes, test=True, title=named)
    named = f"Figure 2: train mean NLL over steps, {title}"
    return written + draw(folder, "figure-2-train-nll", runs, axes, test=False, title=named)


def write_steps(folder: Path, runs: Sequence[Run], axes: Sequence[str]) -> list[Path]:
    """Write steps.csv, and steps.parquet where pyarrow is installed."""
    table = rows(runs, axes)
    paths = [folder / "steps.csv"]
    write_csv(paths[0], table)
    if not missing("pyarrow"):
        from turnloom.results.parquet import write_parquet  # noqa: PLC0415  # pyarrow is optional

        paths.append(folder / "steps.parquet")
        write_parquet(paths[1], table)
    return paths


def write_verdict(folder: Path, runs: Sequence[Run], axes: Sequence[str], verdict: Verdict) -> Path:
    """Write verdict.json: the sentences, and fields for programs."""
    path = folder / "verdict.json"
    cells = [
        {"job": run.job.id, "cell": label(axes, run.values(axes)), "test_nll": run.test[-1][1] if run.test else None}
        for run in runs
    ]
    document = {"axes": list(axes), "cells": cells, **asdict(verdict)}
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path
