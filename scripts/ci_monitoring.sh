#!/usr/bin/env bash
# Checks Prometheus' configuration, rules and rule tests, and the generated dashboards, in seconds. Needs no container.
#
#   scripts/ci_monitoring.sh [PYTHON]       default: python3; a small environment of its own is made in .venv-monitoring
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3}
venv=.venv-monitoring
schema='grafana-foundation-sdk==1769699379!11.6.0' # Grafana's models; the epoch is part of the version

if ! command -v promtool >/dev/null; then
  [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null ||
    { echo "ci_monitoring: promtool is missing; install Debian's package prometheus." >&2; exit 1; }
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null
fi
if [[ $(cat "$venv/stamp" 2>/dev/null) != "$schema" ]]; then
  "$python" -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check "$schema"
  echo "$schema" >"$venv/stamp"
fi

promtool check config deploy/prometheus/prometheus.yml
if command -v amtool >/dev/null; then amtool check-config deploy/alertmanager/alertmanager.yml; fi
promtool test rules deploy/prometheus/tests/*.yml
"$venv/bin/python" deploy/grafana/make_dashboards.py --check
"$venv/bin/python" deploy/grafana/check_dashboards.py --schema
echo "monitoring: configuration, rules, rule tests and dashboards are sound"
