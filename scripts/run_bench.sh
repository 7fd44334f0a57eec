#!/usr/bin/env bash
# The benchmarks of one machine, peers beside us, in an environment of their own. bench/gpu has its own page.
# Those that need the Qwen3 vocabulary and public templates are named when these are not there.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.venv-bench
if ! cmp -s bench/requirements-peers.txt "$venv/stamp"; then
  "${PYTHON:-python3}" -m venv "$venv"
  scripts/install_cpu_torch.sh "$venv/bin/python"
  "$venv/bin/pip" install -q --disable-pip-version-check -e '.[embedded]' -r bench/requirements-peers.txt
  cp bench/requirements-peers.txt "$venv/stamp"
fi
run() { printf '\n=== python -m %s\n' "$*"; taskset -c 0 "$venv/bin/python" -m "$@"; }
run bench.loop
run bench.ledger --steps 20000
if [ -d "${TURNLOOM_TOKENIZERS:-../shared/tokenizers}" ] && [ -d "${TURNLOOM_TEMPLATES:-../shared/templates}" ]; then
  run bench.preprocess
  run bench.growth
  run bench.templates
else
  echo "bench.preprocess, bench.growth, bench.templates: need TURNLOOM_TOKENIZERS and TURNLOOM_TEMPLATES, see bench/README.md"
fi
