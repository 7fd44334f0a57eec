"""Print deploy/prometheus/rules as one PrometheusRule of the Prometheus operator, which reads no ConfigMaps.

python scripts/prometheus_rule.py | kubectl apply -n turnloom -f -
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

RULES = Path(__file__).parents[1] / "deploy/prometheus/rules"


def rule() -> dict[str, object]:
    """Return the object with the groups of every file, by name."""
    groups = [group for path in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "turnloom"},
        "spec": {"groups": groups},
    }


if __name__ == "__main__":
    json.dump(rule(), sys.stdout, indent=2)
