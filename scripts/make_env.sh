#!/usr/bin/env bash
# Writes .env from .env.example with a random value for every empty secret. Never overwrites one that is there.
#
#   scripts/make_env.sh [FILE]             default: .env in the repository's root
#   scripts/make_env.sh --secrets FILE     the secrets alone, for deploy/kubernetes
set -euo pipefail
cd "$(dirname "$0")/.."
only_secrets=
[[ ${1:-} == --secrets ]] && { only_secrets=1; shift; : "${1:?make_env: --secrets takes a file}"; }
target=${1:-.env}
umask 077
[[ -e $target ]] && { echo "make_env: $target exists; delete it first if its secrets may go." >&2; exit 1; }

secret() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
while IFS= read -r line; do
  case $line in
    TURNLOOM_TUFT_API_KEY=) line+="tml-$(secret)" ;;
    REDIS_PASSWORD_*= | GRAFANA_ADMIN_PASSWORD= | TURNLOOM_REST_WEBHOOK_SECRET=) line+=$(secret) ;;
    *) [[ $only_secrets ]] && continue ;;
  esac
  printf '%s\n' "$line"
done <.env.example >"$target"
echo "Wrote $target with random secrets, readable by you alone."
