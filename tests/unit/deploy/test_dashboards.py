"""The generated dashboards: up to date, sound by themselves, and about metrics that exist."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
GRAFANA = ROOT / "deploy/grafana"
sys.path.insert(0, str(GRAFANA))

import check_dashboards  # noqa: E402  (a script beside its dashboards, not a package)

BOARDS = {path.name: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
METRIC = re.compile(r"\b(turnloom_[a-z_]+|(?:run|model):[a-z0-9_]+:[a-z0-9]+)\b")


def documented_metrics() -> set[str]:
    """Every name in docs/monitoring.md's tables; a histogram stands for its three series."""
    text = (ROOT / "docs/monitoring.md").read_text()
    names = set(re.findall(r"`((?:turnloom|run|model)[a-z0-9_:]+)[`{]", text))
    return names | {name + suffix for name in names for suffix in ("_bucket", "_sum", "_count")}


def rule_expressions() -> list[str]:
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "deploy/prometheus/rules").glob("*.yml")]
    return [rule["expr"] for file in files for group in file["groups"] for rule in group["rules"]]


def test_the_committed_files_are_what_the_script_makes():
    done = subprocess.run(
        [sys.executable, GRAFANA / "make_dashboards.py", "--check"], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_has_unique_ids_a_grid_without_overlap_and_known_variables(name):
    assert check_dashboards.layout_problems(BOARDS[name]) == []


def test_no_two_dashboards_share_a_uid():
    assert check_dashboards.uid_problems(BOARDS) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda panels: panels[2].update(id=panels[1]["id"]), "panel id 2 is used 2 times"),
        (lambda panels: panels[2]["gridPos"].update(panels[1]["gridPos"]), "overlaps"),
        (lambda panels: panels[2]["gridPos"].update(x=23), "leaves the grid of 24 columns"),
        (lambda panels: panels[2]["targets"][0].update(expr="up{job='$nobody'}"), "unknown variable $nobody"),
        (lambda panels: panels[2].update(targets=[]), "has no query"),
        (lambda panels: panels[2].update(datasource={"uid": "mine"}), "does not use the variable of the data source"),
    ],
    ids=["id", "overlap", "width", "variable", "query", "source"],
)
def test_the_check_finds(change, problem):
    board = copy.deepcopy(BOARDS["run.json"])
    change(board["panels"])
    assert any(problem in text for text in check_dashboards.layout_problems(board))


def test_two_dashboards_with_one_uid_are_found():
    twins = {"a.json": BOARDS["run.json"], "b.json": BOARDS["run.json"]}
    assert check_dashboards.uid_problems(twins) == ["uid 'turnloom-run' stands in several dashboards"]


@pytest.mark.parametrize("name", BOARDS)
def test_every_metric_of_a_dashboard_is_documented(name):
    used = {metric for item in check_dashboards.expressions(BOARDS[name]) for metric in METRIC.findall(item.text)}
    assert used
    assert used <= documented_metrics()


def test_every_metric_of_a_rule_is_documented():
    used = {metric for expression in rule_expressions() for metric in METRIC.findall(expression)}
    assert used
    assert used <= documented_metrics()


def test_every_alert_has_its_runbook_section():
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/alerts.yml").read_text())
    headings = {
        f"docs/monitoring.md#{heading.lower()}"
        for heading in re.findall(r"^### (\w+)$", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    }
    runbooks = [rule["annotations"]["runbook"] for group in rules["groups"] for rule in group["rules"]]
    assert len(runbooks) == 10
    assert set(runbooks) <= headings


def test_every_alert_has_a_test_that_fires_and_one_that_stays_silent():
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    cases = [
        case
        for path in (ROOT / "deploy/prometheus/tests").glob("*.yml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts
