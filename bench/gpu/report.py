"""The tables of one results.jsonl: medians per contender, ratios, and what happened to the killed and the full.

python -m bench.gpu.report RESULTS.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.gpu.figures import medians
from bench.program import need_file, usage

PROGRAM: Final = usage("bench.gpu.report", __doc__)
PROGRAM.add_argument("results", type=Path)

COLUMNS: Final = (
    ("tokens_per_second", "tokens/s", 1.0, "{:,.0f}"),
    ("trained_tokens_per_second", "trained/s", 1.0, "{:,.0f}"),
    ("step_seconds", "s/step", 1.0, "{:.3f}"),
    ("idle_share", "idle %", 100.0, "{:.2f}"),
    ("gpu_utilization", "GPU %", 1.0, "{:.0f}"),
    ("mfu", "MFU %", 100.0, "{:.1f}"),
    ("gpu_memory_peak", "peak GB", 1e-9, "{:.1f}"),
    ("cpu_ms_per_step", "CPU ms/step", 1.0, "{:.1f}"),
    ("calls_per_step", "calls/step", 1.0, "{:.1f}"),
)
TABLES: Final = (
    *("compare", "losses", "guide_sized", "fsdp", "pair_alone", "end_to_end"),
    *("lever", "depth", "growing", "overlap", "pair_job"),
)
LISTS: Final = (
    "machine",
    "host",
    "loss_difference",
    "extrapolation",
    "acceleration",
    "pair",
    "kill",
    "kill_difference",
    "fsdp_kill",
    "fsdp_difference",
    "fsdp_memory",
    "server_lost",
    "oom",
    "trouble",
)


def summary(path: Path) -> str:
    """All tables as Markdown."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    parts: list[str] = []
    for size in dict.fromkeys(line["size"] for line in lines):
        mine = [line for line in lines if line["size"] == size]
        for kind in TABLES:
            rows = [line for line in mine if line["kind"] == kind]
            if rows:
                parts.append(f"\n{size} {kind}\n" + "\n".join(table(rows)))
        for line in mine:
            if line["kind"] in LISTS:
                said = {name: value for name, value in line.items() if name not in ("size", "at", "nlls")}
                parts.append(json.dumps(said)[:1200])
    return "\n".join(parts)


def table(rows: Sequence[Mapping[str, object]]) -> Iterable[str]:
    """One line per contender: medians of its runs, and its tokens/s over the last contender's of the guide."""
    yield "| who | runs | " + " | ".join(title for _, title, _, _ in COLUMNS) + " |"
    yield "|---|---|" + "---|" * len(COLUMNS)
    for name in dict.fromkeys(str(row["name"]) for row in rows):
        runs = [row for row in rows if row["name"] == name]
        good = [row for row in runs if not row["error"]]
        if not good:
            yield f"| {name} | 0 of {len(runs)} | {str(runs[-1]['error'])[:160]} |"
            continue
        middle = medians([{key: _number(row.get(key)) for key, _, _, _ in COLUMNS} for row in good])
        cells = [pattern.format(middle[key] * scale) if key in middle else "" for key, _, scale, pattern in COLUMNS]
        yield f"| {name} | {len(good)} of {len(runs)} | " + " | ".join(cells) + " |"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


if __name__ == "__main__":
    asked = PROGRAM.parse_args()
    need_file(asked.results, "give the results.jsonl of a run")
    print(summary(asked.results))
