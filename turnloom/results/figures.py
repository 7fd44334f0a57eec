"""Draw curves of runs as PNG and SVG: one colour per learning rate, one line style per rank.

Colours are Okabe and Ito's (https://jfly.uni-koeln.de/color/), in an order whose lightness differs too. They stay
distinct for colour-blind people and in grey; markers repeat the colour's meaning. Needs matplotlib (turnloom[plot]).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from turnloom.results.runs import SHORT, Curve, Run, Value, label, written

COLOURS: Final = ("#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#E69F00")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
DASHES: Final = ((5, 2), (1, 1.2), (6, 2, 1, 2), (9, 2), (3, 1, 1, 1, 1, 1))
STYLES: Final[tuple[Any, ...]] = ("-", *((0, dash) for dash in DASHES))
LOG_RATIO: Final = 4.0  #: largest by smallest value from which the scale is logarithmic
SPARSE_RATIO: Final = 30.0  #: likewise, from which minor ticks have no number
HEADROOM: Final = 1.5  #: times the NLL before training; what diverged further leaves the picture
FORMATS: Final = (".png", ".svg")


def draw(
    folder: Path, name: str, runs: Sequence[Run], axes: Sequence[str], *, test: bool, title: str, dpi: int = 150
) -> list[Path]:
    """Write NAME.png and NAME.svg, and return them in this order.

    Args:
        folder: target folder, created if missing.
        name: of the files.
        runs: one curve each; a run without a point is left out.
        axes: what tells the runs apart; learning_rate (else the last one) gives the colour, the others the style.
        test: test NLL at every evaluation; else mean train NLL of every step.
        title: above the picture.
        dpi: pixels per inch of the PNG, which is 8.5 x 5 inches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # svg.hashsalt and no date: the same runs give the same bytes.
    with rc_context({"svg.hashsalt": "turnloom", "svg.fonttype": "none", "font.size": 10}):
        figure = _figure(runs, axes, test=test, title=title)
        paths = [folder / f"{name}{suffix}" for suffix in FORMATS]
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=dpi, metadata=metadata)
    return paths


def _figure(runs: Sequence[Run], axes: Sequence[str], *, test: bool, title: str) -> Figure:
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    coloured = "learning_rate" if "learning_rate" in axes else axes[-1] if axes else "job"
    others = [axis for axis in axes if axis != coloured]
    colours = _order(run.values([coloured]) for run in runs)
    styles = _order(run.values(others) for run in runs)
    shown: list[Curve] = []
    for run in runs:
        curve = run.test if test else run.train
        if not curve:
            continue
        shown.append(curve)
        hue, style = colours.index(run.values([coloured])), styles.index(run.values(others))
        plot.plot(
            *zip(*curve, strict=True),
            color=COLOURS[hue % len(COLOURS)],
            linestyle=STYLES[style % len(STYLES)],
            linewidth=1.6 if test else 1.1,
            marker=MARKERS[hue % len(MARKERS)],
            markersize=4.5 if test else 3.5,
            markevery=1 if test else (0.02 * (hue + 1), 0.15),
            markerfacecolor="white",
        )
    _scale(plot, shown)
    plot.set_xlabel("optimizer step")
    plot.set_ylabel(f"{'test' if test else 'mean train'} NLL, nats per trained token")
    plot.set_title(title, fontsize=11)
    plot.grid(visible=True, which="major", alpha=0.3, linewidth=0.6)
    _legend(figure, coloured, colours, others, styles)
    return figure


def _scale(plot: Any, curves: Sequence[Curve]) -> None:  # matplotlib is not typed here
    values = [nll for curve in curves for _, nll in curve]
    if not values:
        return
    top = HEADROOM * max(curve[0][1] for curve in curves)
    if min(values) > 0 and min(max(values), top) / min(values) > LOG_RATIO:
        plot.set_yscale("log")
        plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        few = min(max(values), top) / min(values) < SPARSE_RATIO
        plot.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if few else ""))
    if max(values) > top:
        plot.set_ylim(top=top)


def _legend(
    figure: Figure, coloured: str, colours: Sequence[Any], others: Sequence[str], styles: Sequence[Any]
) -> None:
    """Draw a legend of the colours, and one of line styles where there are several."""
    hues = [
        Line2D([], [], color=colour, marker=marker, markerfacecolor="white", label=written(values[0]))
        for values, colour, marker in zip(colours, itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    ]
    dashes = [
        Line2D([], [], color="#555555", linestyle=style, label=_named(others, values))
        for values, style in zip(styles, itertools.cycle(STYLES), strict=False)
    ]
    title = coloured.replace("_", " ")
    figure.legend(handles=hues, title=title, loc="outside right upper", frameon=False, handlelength=3)
    if others:
        title = ", ".join(SHORT.get(axis, axis) if len(others) > 1 else axis.replace("_", " ") for axis in others)
        figure.legend(handles=dashes, title=title, loc="outside right lower", frameon=False, handlelength=4)


def _named(axes: Sequence[str], values: Sequence[Value]) -> str:
    return written(values[0]) if len(axes) == 1 else label(axes, values)


def _order(found: Any) -> list[tuple[Value, ...]]:
    """Return distinct values, ascending."""
    key: Callable[[tuple[Value, ...]], Any] = lambda values: values  # noqa: E731
    return sorted(set(found), key=key)
