#!/usr/bin/env bash
# The contract: lint clean, nothing broken since the last released image, committed stubs equal what the generators write.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d); trap 'rm -rf "$out"' EXIT
scripts/generate_stubs.sh "$out" 2>/dev/null
buf="$PWD/.venv-proto/bin/buf"
(cd proto && "$buf" lint && "$buf" format -d --exit-code && "$buf" breaking --against released.binpb)
diff -ru --exclude=__pycache__ --exclude=__init__.py "$out/turnloom/v1" turnloom/v1 || { echo "turnloom/v1 differs from proto/: run 'make proto' and commit"; exit 1; }
echo "proto: lint, format, breaking and drift clean"
