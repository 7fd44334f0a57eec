#!/usr/bin/env bash
# Writes turnloom/v1 from proto/turnloom/v1 with the pinned generators. Usage: generate_stubs.sh [OUT_DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
tools=.venv-proto
if ! cmp -s scripts/requirements-proto.txt "$tools/stamp"; then
  "${PYTHON:-python3}" -m venv "$tools"
  "$tools/bin/pip" install -q --disable-pip-version-check -r scripts/requirements-proto.txt
  cp scripts/requirements-proto.txt "$tools/stamp"
fi
PATH="$PWD/$tools/bin:$PATH" "$tools/bin/python" -m grpc_tools.protoc -I proto \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
  proto/turnloom/v1/*.proto
