"""Draw the README's chart of speed from the first table of docs/performance.md.

python -m bench.chart
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from bench.program import PLOT, libraries, usage

PROGRAM: Final = usage("bench.chart", __doc__)

with libraries(PLOT, __name__, PROGRAM):
    import matplotlib.pyplot as plt

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "performance.md"
CHART: Final = ROOT / "docs" / "images" / "speed.svg"
_ROW: Final = re.compile(r"^\| (?P<who>[^|]+) \| (?P<rate>[\d,]+) \|", re.MULTILINE)


def rows(page: str) -> list[tuple[str, int]]:
    """Return who and conversations a second, as the page's first table has them."""
    table = page[page.index("| who | conversations/s") :].split("\n\n", 1)[0]
    return [(found["who"].strip(), int(found["rate"].replace(",", ""))) for found in _ROW.finditer(table)]


def draw(found: list[tuple[str, int]], target: Path) -> None:
    """Write the chart: a bar for each row, ours in colour."""
    plt.rcParams["svg.hashsalt"] = "turnloom"  # the same rows give the same file
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(found) + 0.8))
    names, rates = zip(*reversed(found), strict=True)
    colours = ["#2a6fbb" if name.startswith("turnloom") else "#b0b0b0" for name in names]
    bars = axes.barh(range(len(names)), rates, color=colours)
    axes.bar_label(bars, labels=[f"{rate:,}" for rate in rates], padding=3)
    axes.set_yticks(range(len(names)), [re.sub(r" \(.*\)", "", name) for name in names])
    axes.set_xlabel("conversations a second, messages to ids and weights, one core")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.savefig(target, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    PROGRAM.parse_args()
    draw(rows(PAGE.read_text(encoding="utf-8")), CHART)
