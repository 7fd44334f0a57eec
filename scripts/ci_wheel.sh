#!/usr/bin/env bash
# The wheel alone, as users get it: built, installed with each extra in an environment of its own, and used there.
#
#   scripts/ci_wheel.sh                          the extras client and masks, on this Python
#   scripts/ci_wheel.sh --all [PYTHON...]        every extra, on each of these Pythons; before a release
#
# Leaves wheel and source distribution in dist/. Needs the .venv of `make check`, whose tests make the model folder.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export PIP_DISABLE_PIP_VERSION_CHECK=1
extras=("" client masks)
if [ "${1:-}" = --all ]; then
  shift
  extras+=(prepare hub plot tensorboard wandb store s3 preprocess preprocess-worker trainer rest services)
fi
pythons=("$@"); [ ${#pythons[@]} -gt 0 ] || pythons=("$root/.venv/bin/python")
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

# A fresh environment, filled from outside: it needs no pip of its own. uv does it in a tenth of the time.
fresh() { rm -rf "$2" && "$1" -m venv --without-pip "$2"; }
install() {
  if command -v uv >/dev/null; then uv pip install -q --python "$@"; else
    "$root/.venv/bin/python" -m pip --python "$1" install -q --no-compile "${@:2}"
  fi
}

fresh "${pythons[0]}" "$work/build"
install "$work/build/bin/python" build >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
rm -rf dist && "$work/build/bin/python" -m build --outdir dist . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
wheel=$(echo "$root"/dist/turnloom-*.whl)
.venv/bin/python -c 'import pathlib, sys; from tests.support.api_calls import write_model; write_model(pathlib.Path(sys.argv[1]))' "$work/model"
cp scripts/ci_wheel_check.py "$work"

cd "$work" # so that nothing of the checkout can be imported
failed=0
for python in "${pythons[@]}"; do
  for extra in "${extras[@]}"; do
    if ! fresh "$python" env || ! install env/bin/python "$wheel${extra:+[$extra]}" >install.log 2>&1; then
      echo "FAIL  $("$python" --version), extra '${extra:-none}': $(tail -n 3 install.log | tr "\n" " ")"; failed=1; continue
    fi
    env/bin/python ci_wheel_check.py "${extra:-none}" model || failed=1
  done
done
exit $failed
