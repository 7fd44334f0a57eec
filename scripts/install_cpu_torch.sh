#!/usr/bin/env bash
# torch for the CPU into the environment of a Python, without gigabytes of CUDA where that can be had.
# Usage: install_cpu_torch.sh PYTHON
# In this order: TURNLOOM_TORCH_INDEX, the address of PyTorch's CPU wheel index; uv, which knows that index; pip as it
# is configured, with a line that says what it may cost.
set -euo pipefail
python=$1 version=2.13.0

installed='import importlib.metadata as m, sys; sys.exit(m.version("torch").partition("+")[0] != sys.argv[1])'
if "$python" -c "$installed" "$version" 2>/dev/null; then
  exit 0
fi
if [[ -n ${TURNLOOM_TORCH_INDEX:-} ]]; then
  exec "$python" -m pip install -q --disable-pip-version-check --index-url "$TURNLOOM_TORCH_INDEX" "torch==$version"
fi
if command -v uv >/dev/null; then
  uv pip install -q --python "$python" --torch-backend cpu "torch==$version" && exit 0
  echo "uv could not install torch for the CPU (above); pip tries now." >&2
fi
if [[ $(uname -s) == Linux ]]; then
  echo "torch comes from pip's own index and may bring CUDA, about 4 GB; uv on PATH or TURNLOOM_TORCH_INDEX avoid that."
fi
exec "$python" -m pip install -q --disable-pip-version-check "torch==$version"
