"""Panels, variables and the grid of a Grafana dashboard as plain JSON values. Knows no metric of Turnloom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Json = Mapping[str, object]

SCHEMA_VERSION = 39  # of Grafana 11; newer ones migrate it when they load it
COLUMNS = 24
TALL = 10  # rows of the grid from which a table of all curves leaves room for the curves
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression of a panel."""

    expr: str
    legend: str = ""  #: with {{label}} in it; empty: Grafana's own
    table: bool = False  #: one row per series at the end of the range, instead of a curve


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. `kind` is Grafana's name of the panel type."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"  #: Grafana's unit id
    kind: str = "timeseries"
    width: int = 12  #: columns of 24
    height: int = 8  #: rows of the grid
    description: str = ""
    decimals: int | None = None
    minimum: float | None = None  #: of the axis
    logarithmic: bool = False
    no_value: str = ""  #: said where there is no data; empty: Grafana's own words
    text: str = "auto"  #: what a stat shows: auto, value, name
    mappings: Sequence[Json] = ()
    transformations: Sequence[Json] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A titled strip of panels, filled from left to right and wrapped at 24 columns."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice above the dashboard, filled by label_values()."""

    name: str
    query: str
    label: str
    several: bool = False


@dataclass(frozen=True, slots=True)
class Annotation:
    """Marks over all curves where the expression has samples."""

    name: str
    expr: str
    title: str
    color: str
    value_is_time: bool = False  #: the sample holds the moment, in milliseconds since 1970


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One file below dashboards/."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()
    annotations: Sequence[Annotation] = ()
    since: str = "now-1h"
    tags: Sequence[str] = field(default=("turnloom",))


def dashboard_json(dashboard: Dashboard) -> Json:
    """The dashboard as Grafana's file provider reads it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": list(dashboard.tags),
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,  # one cross-hair over all panels
        "refresh": "10s",
        "time": {"from": dashboard.since, "to": "now"},
        "timezone": "browser",
        "links": [_links()],
        "templating": {"list": [_source_variable(), *map(_variable, dashboard.variables)]},
        "annotations": {"list": [*map(_annotation, dashboard.annotations)]},
        "panels": _layout(dashboard.rows),
    }


def _layout(rows: Sequence[Row]) -> list[Json]:
    placed: list[Json] = []
    top = 0
    for row in rows:
        placed.append(_strip(row.title, len(placed) + 1, top))
        top += 1
        left = tallest = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            placed.append(_panel(panel, len(placed) + 1, left, top))
            left += panel.width
            tallest = max(tallest, panel.height)
        top += tallest
    return placed


def _strip(title: str, number: int, top: int) -> Json:
    position = {"h": 1, "w": COLUMNS, "x": 0, "y": top}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": position, "panels": []}


def _panel(panel: Panel, number: int, left: int, top: int) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": left, "y": top},
        "targets": [_target(query, index) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "transformations": list(panel.transformations),
    }


def _target(query: Query, index: int) -> Json:
    return {
        "refId": chr(ord("A") + index),
        "datasource": SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": query.table,
        "range": not query.table,
        "format": "table" if query.table else "time_series",
        "editorMode": "code",
    }


def _options(panel: Panel) -> Json:
    if panel.kind == "stat":
        return {**_OPTIONS["stat"], "textMode": panel.text}
    if panel.kind == "timeseries" and panel.height < TALL:
        legend = {"displayMode": "list", "placement": "bottom", "calcs": ["lastNotNull"], "showLegend": True}
        return {**_OPTIONS["timeseries"], "legend": legend}
    return _OPTIONS[panel.kind]


def _defaults(panel: Panel) -> Json:
    values: dict[str, object] = {"unit": panel.unit, "mappings": list(panel.mappings)}
    if panel.no_value:
        values["noValue"] = panel.no_value
    if panel.decimals is not None:
        values["decimals"] = panel.decimals
    if panel.minimum is not None:
        values["min"] = panel.minimum
    if panel.kind == "timeseries":
        scale = {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"}
        values["custom"] = {
            "drawStyle": "line",
            "lineWidth": 2,
            "fillOpacity": 5,
            "showPoints": "auto",
            "spanNulls": False,
            "scaleDistribution": scale,
        }
    return values


#: What each panel type shows beside its data.
_OPTIONS: Mapping[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull"], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "auto",
        "justifyMode": "auto",
        "orientation": "auto",
    },
    "bargauge": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "displayMode": "basic",
        "orientation": "horizontal",
        "showUnfilled": True,
    },
    "table": {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False},
    },
}


def _source_variable() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}


def _variable(variable: Variable) -> Json:
    return {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": variable.query, "refId": f"variable-{variable.name}"},
        "definition": variable.query,
        "refresh": 2,  # when the time range changes: runs come and go
        "sort": 2,  # descending
        "multi": variable.several,
        "includeAll": variable.several,
        "allValue": ".*" if variable.several else None,
    }


def _annotation(annotation: Annotation) -> Json:
    return {
        "name": annotation.name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": annotation.color,
        "expr": annotation.expr,
        "step": "15s",
        "titleFormat": annotation.title,
        "useValueForTime": "on" if annotation.value_is_time else False,
    }


def _links() -> Json:
    """A menu to the other dashboards that keeps the time range."""
    return {
        "title": "Turnloom",
        "type": "dashboards",
        "asDropdown": True,
        "tags": ["turnloom"],
        "keepTime": True,
        "includeVars": False,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
