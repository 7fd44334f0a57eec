#!/usr/bin/env bash
# torch for the CPU into the environment of the given pip. Usage: install_cpu_torch.sh PIP
# On Linux a plain `pip install torch` may bring gigabytes of CUDA: set TURNLOOM_TORCH_INDEX to the address of PyTorch's
# CPU wheel index to avoid it, or configure pip with a local wheel.
set -euo pipefail
"$1" install -q --disable-pip-version-check ${TURNLOOM_TORCH_INDEX:+--index-url "$TURNLOOM_TORCH_INDEX"} torch==2.13.0
