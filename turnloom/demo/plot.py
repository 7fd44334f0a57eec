"""Plot a job's curve as a PNG: train NLL of each step, test NLL where evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from turnloom.display.live import test_nll, train_nll
from turnloom.v1 import training_pb2

DASHES = ("--", ":", "-.")


def plot_nll(path: Path, steps: Sequence[training_pb2.Step], levels: Mapping[str, float], title: str) -> None:
    """Write the plot.

    Args:
        path: PNG to write.
        steps: in order; step 0 may hold an evaluation only.
        levels: reference NLLs by name, a horizontal line each.
        title: above the picture.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    train = [(step.step, nll) for step in steps if (nll := train_nll(step)) is not None]
    test = [(step.step, nll) for step in steps if (nll := test_nll(step)) is not None]
    axes.plot(*zip(*train, strict=True), color="tab:blue", linewidth=1.2, label="train, each step's batch")
    if test:
        axes.plot(*zip(*test, strict=True), color="tab:red", marker="o", markersize=4, label="test, held out")
        axes.annotate(f"{test[-1][1]:.3f}", test[-1], textcoords="offset points", xytext=(6, 6), color="tab:red")
        axes.set_xlim(right=test[-1][0] * 1.09)  # room for the number
    for (name, level), dash in zip(levels.items(), DASHES, strict=False):
        axes.axhline(level, color="dimgray", linewidth=1, linestyle=dash, label=f"{name}: {level:.2f}")
    axes.set_yscale("log")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("masked NLL, nats per trained token (log scale)")
    axes.set_title(title)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
