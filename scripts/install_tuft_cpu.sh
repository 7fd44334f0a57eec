#!/usr/bin/env bash
# Installs the real TuFT server for a machine without a GPU into a virtual environment of its own.
#
#   scripts/install_tuft_cpu.sh [VENV_DIR] [PYTHON]      default: .venv-tuft python3 (3.11 or newer)
#
# TuFT's metadata asks for vLLM and a CUDA build of torch, which training on a CPU never imports; so its dependencies
# are installed by name and TuFT itself without them. Everything comes from the index that pip is configured with;
# install_cpu_torch.sh beside says where torch comes from.
set -euo pipefail
scripts=$(dirname "$0")

venv=${1:-.venv-tuft}
python=${2:-python3}

torch=(torch==2.13.0)
needed=(
  'ray>=2.50,<2.61' 'transformers>=5.10,<6' peft==0.20.0 accelerate 'fastapi>=0.133,<0.137' uvicorn omegaconf typer httpx
  'protobuf>=6.33.5' opentelemetry-api opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc
  opentelemetry-instrumentation-fastapi opentelemetry-instrumentation-logging psutil nvidia-ml-py redis tinker==0.25.0
)
tuft=(tuft==0.2.2)
wanted="${torch[*]} ${needed[*]} ${tuft[*]}"
stamp=$venv/turnloom-tuft.stamp
log=$venv/install.log

fail() { echo "install_tuft_cpu: $1" >&2; exit 1; }

if [[ -f $stamp && $(<"$stamp") == "$wanted" ]]; then
  echo "TuFT 0.2.2 is installed in $venv."
  exit 0
fi
command -v "$python" >/dev/null || fail "there is no '$python' on PATH; name a Python 3.11 or newer as the second argument."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "'$python' is $("$python" -V 2>&1), but Python 3.11 or newer is needed; name another as the second argument."
"$python" -c 'import ensurepip' 2>/dev/null || fail "'$python' can't make virtual environments; install its venv package (Debian: python3-venv)."

echo "Installing TuFT 0.2.2 for the CPU into $venv: downloads about 0.6 GB (torch for the CPU, Ray, transformers), 1.5 GB on disk."
rm -f "$stamp"
"$python" -m venv "$venv" || fail "'$python -m venv $venv' failed; is the folder writable?"

# stage TITLE COMMAND...: runs it and shows, while it works, how large the environment has become.
stage() {
  local title=$1 child=0 ticks=0
  shift
  "$@" >"$log.out" 2>&1 &
  child=$!
  trap 'kill "$child" 2>/dev/null || true' EXIT
  while kill -0 "$child" 2>/dev/null; do
    sleep 1
    ticks=$((ticks + 1))
    if [[ -t 1 ]]; then
      printf '\r  %-40s %5s MB' "$title" "$(du -sm "$venv" | cut -f1)"
    elif ((ticks % 15 == 0)); then
      echo "  $title: $(du -sm "$venv" | cut -f1) MB"
    fi
  done
  trap - EXIT
  if ! wait "$child"; then
    [[ -t 1 ]] && echo
    fail "$title: $(grep -m1 '^ERROR' "$log.out" || tail -n1 "$log.out") (the whole log: $log)"
  fi
  printf '%s  %-40s %5s MB\n' "$([[ -t 1 ]] && printf '\r')" "$title" "$(du -sm "$venv" | cut -f1)"
}

pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --log "$log")
stage "1/3 torch" "$scripts/install_cpu_torch.sh" "$venv/bin/python"
grep -h '^torch comes' "$log.out" || true
stage "2/3 Ray, transformers, peft, tinker" "${pip[@]}" "${needed[@]}"
stage "3/3 TuFT" "${pip[@]}" --no-deps "${tuft[@]}"

"$venv/bin/python" - <<'PY' || fail "the installed packages don't import (see the lines above)."
import importlib.metadata as metadata

import peft, ray, tinker, torch, transformers  # noqa: F401
import tuft.server  # noqa: F401

print("  ready:", ", ".join(f"{name} {metadata.version(name)}" for name in ("tuft", "tinker", "torch", "ray", "transformers")))
PY
echo "$wanted" >"$stamp"
