#!/usr/bin/env bash
# Writes the pinned, hashed requirement files of the images from pyproject.toml and tuft.in. Needs uv on PATH.
#
#   deploy/requirements/lock.sh              keeps what is pinned and still allowed
#   deploy/requirements/lock.sh --upgrade    newest versions that the ranges allow
set -euo pipefail
cd "$(dirname "$0")/../.."
upgrade=("$@")

# lock FILE ARGUMENTS...: uv reads the old FILE first, so a pin stays until someone asks for another.
lock() {
  local file=deploy/requirements/$1
  shift
  uv pip compile --quiet --generate-hashes --no-emit-index-url --no-annotate \
    --custom-compile-command "deploy/requirements/lock.sh" \
    --python-version 3.11 --python-platform x86_64-unknown-linux-gnu \
    "${upgrade[@]}" --output-file "$file" "$@" >/dev/null
  echo "$file: $(grep -c '==' "$file") packages"
}

lock preprocess.txt pyproject.toml --extra preprocess --extra s3
lock preprocess-worker.txt pyproject.toml --extra preprocess-worker --extra s3
lock rest.txt pyproject.toml --extra rest --extra s3
lock trainer.txt pyproject.toml --extra trainer --extra s3
lock tuft-gpu.txt deploy/requirements/tuft-gpu.in
# On a CPU torch comes from a wheel of its own (deploy/docker/tuft-cpu.Dockerfile), and CUDA not at all.
mapfile -t cuda < <(uv pip compile --quiet --no-header --no-annotate --no-hashes --python-version 3.11 \
  --python-platform x86_64-unknown-linux-gnu deploy/requirements/tuft-cpu.in |
  grep -oE '^(torch|triton|cuda-[a-z-]+|nvidia-[a-z0-9-]+)==' | tr -d = | grep -v '^nvidia-ml-py$')
lock tuft-cpu.txt deploy/requirements/tuft-cpu.in "${cuda[@]/#/--no-emit-package=}"
# TuFT's own metadata asks for vLLM, which training never imports.
lock tuft-server.txt deploy/requirements/tuft-server.in --no-deps
