"""What can be checked of a dashboard without a Grafana server. Knows no metric by name.

    python deploy/grafana/check_dashboards.py                               grid, ids, variables
    python deploy/grafana/check_dashboards.py --schema                      and every field against Grafana's own models
    python deploy/grafana/check_dashboards.py --prometheus URL [--absent NAME ...]
                                                                            and every query: it must run and find series

--schema needs the package grafana-foundation-sdk. --absent names metrics (a prefix is enough) that this Prometheus
can't have, such as DCGM_ without a GPU; their queries must still be accepted.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
COLUMNS = 24
WINDOW = 300  # seconds before now that every query is asked for
#: Grafana's own variables and what they stand for in a check.
BUILT_IN = {"__rate_interval": "1m", "__interval": "15s", "__range": "1h"}
#: Fields that the data source's own plugin reads; Grafana's core models don't list them.
PLUGIN_FIELDS = frozenset({"step", "titleFormat", "useValueForTime", "definition"})
Board = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expression:
    """A PromQL expression and where it stands."""

    place: str
    text: str  #: with Grafana's variables in it


def main() -> int:
    """Prints what is wrong and a closing line."""
    arguments = _arguments()
    boards = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
    found = [f"{name}: {text}" for name, board in boards.items() for text in layout_problems(board)]
    found += uid_problems(boards)
    if arguments.schema:
        found += [f"{name}: {text}" for name, board in boards.items() for text in schema_problems(board)]
    asked = 0
    if arguments.prometheus:
        for name, board in boards.items():
            for expression in expressions(board):
                asked += 1
                found += [
                    f"{name}: {text}" for text in query_problems(expression, arguments.prometheus, arguments.absent)
                ]
    for text in found:
        print(text)  # noqa: T201
    panels = sum(len(board["panels"]) for board in boards.values())
    print(f"{len(boards)} dashboards, {panels} panels, {asked} queries run, {len(found)} problems")  # noqa: T201
    return bool(found) or not boards


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Checks the generated dashboards.")
    parser.add_argument("--schema", action="store_true", help="compare with Grafana's own models")
    parser.add_argument("--prometheus", metavar="URL", help="run every query there")
    parser.add_argument(
        "--absent", metavar="NAME", nargs="*", default=[], help="metrics that this Prometheus can't have"
    )
    return parser.parse_args()


# -- layout ----------------------------------------------------------------------------------------------------------


def layout_problems(board: Board) -> list[str]:
    """Ids, grid, data sources and variables of one dashboard."""
    panels = board["panels"]
    return [*_id_problems(panels), *_grid_problems(panels), *_source_problems(panels), *_variable_problems(board)]


def uid_problems(boards: dict[str, Board]) -> list[str]:
    """Two dashboards with one uid would overwrite each other."""
    uids = [board["uid"] for board in boards.values()]
    return [f"uid {uid!r} stands in several dashboards" for uid in sorted({uid for uid in uids if uids.count(uid) > 1})]


def _id_problems(panels: Sequence[Board]) -> list[str]:
    ids = [panel["id"] for panel in panels]
    return [
        f"panel id {number} is used {ids.count(number)} times" for number in sorted(set(ids)) if ids.count(number) > 1
    ]


def _grid_problems(panels: Sequence[Board]) -> Iterator[str]:
    owner: dict[tuple[int, int], str] = {}
    for panel in panels:
        grid, title = panel["gridPos"], str(panel["title"])
        if min(grid["w"], grid["h"]) < 1 or grid["x"] < 0 or grid["x"] + grid["w"] > COLUMNS:
            yield f"panel {title!r} leaves the grid of {COLUMNS} columns: {grid}"
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        for other in sorted({owner[cell] for cell in cells & owner.keys()}):
            yield f"panel {title!r} overlaps {other!r}"
        owner.update(dict.fromkeys(cells, title))


def _source_problems(panels: Sequence[Board]) -> Iterator[str]:
    for panel in panels:
        if panel["type"] == "row":
            continue
        if not panel["targets"]:
            yield f"panel {panel['title']!r} has no query"
        for holder in (panel, *panel["targets"]):
            if holder["datasource"]["uid"] != "${datasource}":
                yield f"panel {panel['title']!r} does not use the variable of the data source"


def _variable_problems(board: Board) -> Iterator[str]:
    known = {variable["name"] for variable in board["templating"]["list"]} | BUILT_IN.keys()
    for expression in expressions(board):
        for name in re.findall(r"\$\{?(\w+)", expression.text):
            if name not in known:
                yield f"{expression.place}: unknown variable ${name}"


def expressions(board: Board) -> list[Expression]:
    """Every PromQL expression: of panels, annotations and variables."""
    found = [
        Expression(f"panel {panel['title']!r}", target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]
    found += [Expression(f"annotation {item['name']!r}", item["expr"]) for item in board["annotations"]["list"]]
    for variable in board["templating"]["list"]:
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", ""))
        if match:
            found.append(Expression(f"variable {variable['name']!r}", f"count by ({match[2]}) ({match[1]})"))
    return found


# -- schema ----------------------------------------------------------------------------------------------------------


def schema_problems(board: Board) -> list[str]:
    """Fields that Grafana's models lose or change; what they add are defaults."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder  # noqa: PLC0415  (only --schema needs the package)
    from grafana_foundation_sdk.cog.plugins import register_default_plugins  # noqa: PLC0415
    from grafana_foundation_sdk.models.dashboard import Dashboard  # noqa: PLC0415

    register_default_plugins()
    return list(_differences(board, json.loads(JSONEncoder().encode(Dashboard.from_json(board))), ""))


def _differences(ours: object, theirs: object, place: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() - PLUGIN_FIELDS):
            yield from _differences(ours.get(key), theirs.get(key), f"{place}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differences(one, other, f"{place}[{index}]")
    elif ours and ours != theirs:  # an empty value may be left out
        yield f"{place.lstrip('.')} is {ours!r}; Grafana's model makes {theirs!r} of it"


# -- queries ---------------------------------------------------------------------------------------------------------


def query_problems(expression: Expression, base: str, absent: Sequence[str]) -> list[str]:
    """Whether Prometheus takes the expression and finds series for it."""
    text = re.sub(r"\$\{?(\w+)\}?", lambda match: BUILT_IN.get(match[1], ".*"), expression.text)
    now = time.time()
    form = urllib.parse.urlencode({"query": text, "start": now - WINDOW, "end": now, "step": 5})
    try:
        with urllib.request.urlopen(f"{base}/api/v1/query_range", form.encode(), timeout=10) as reply:  # noqa: S310
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        answer = json.load(error)
    if answer["status"] != "success":
        return [f"{expression.place}: {answer['error']}"]
    if not answer["data"]["result"] and not any(name in text for name in absent):
        return [f"{expression.place}: no series for {text}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
