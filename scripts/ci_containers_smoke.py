# ruff: noqa: T201  (it reports to a terminal)
"""Trains a job in a running compose stack and holds what Prometheus and the engine say against what must be.

    python scripts/ci_containers_smoke.py ENV_FILE API_PORT PROMETHEUS_PORT

Run by scripts/ci_containers.sh, with its engine in the environment and `turnloom` installed beside this interpreter.
Prints one line per check and a closing count; exit status 1 where a check failed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from turnloom.client import TurnloomClient

ROOT = Path(__file__).parents[1]
TURNLOOM = Path(sys.executable).parent / "turnloom"
TRAIN = ROOT / "examples/conversations.jsonl"
TEST = ROOT / "examples/conversations.test.jsonl"
PARTS = ((TRAIN, 0.8), (TEST, 0.2))
STEPS, SAVE_EVERY, KILL_AT = 60, 20, 23  # the worker dies some steps after a checkpoint: those are trained again
HYPERPARAMETERS = (
    f"--rank 8 --lr 5e-3 --steps {STEPS} --batch-size 8 --eval-every 20 --checkpoint-every {SAVE_EVERY}".split()
)
#: What this stack can't have: no GPU, no retried call, no price, and no conversation that was refused.
ABSENT = ["DCGM_", "turnloom_trainer_retries_total", "turnloom_preprocess_issues_total", "turnloom_run_cost_total"]
LEDGER = """
import json, os
from services.store.store import open_store
store = open_store(os.environ["TURNLOOM_REDIS_URL"])
records = [r for r in store.ledger.all_steps("JOB") if r.step > 0]
nll, weight = sum(r.nll_sum for r in records), sum(r.weight_sum for r in records)
print(json.dumps({"steps": len(records), "nll": nll, "weight": weight}))
"""


class Smoke:
    """The stack, as a person at this host sees it."""

    def __init__(self, env_file: str, api_port: str, prometheus_port: str) -> None:
        self.env_file = env_file
        self.secrets = dict(line.split("=", 1) for line in Path(env_file).read_text().splitlines() if "=" in line)
        self.prometheus = f"http://127.0.0.1:{prometheus_port}"
        self.environment = {**os.environ, "TURNLOOM_ADDRESS": f"127.0.0.1:{api_port}", "NO_PROXY": "127.0.0.1"}
        self.base = [
            "docker",
            "compose",
            "--project-name",
            "turnloom-ci",
            "--env-file",
            env_file,
            "--profile",
            "cpu",
        ]
        self.job = ""

    def run(self, command: Sequence[str | Path], seconds: float = 180, check: bool = True) -> str:
        """Output of a command; what it says on stderr comes along where it fails."""
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, timeout=seconds, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(
                f"{command[0]} {command[1]} ended with {done.returncode}: {(done.stderr or done.stdout)[-1500:]}"
            )
        return done.stdout + ("" if check else done.stderr)

    def compose(self, *arguments: str, seconds: float = 300, check: bool = True) -> str:
        """A command of docker compose."""
        return self.run([*self.base, *arguments], seconds, check)

    def turnloom(self, *arguments: str | Path, seconds: float = 180) -> Any:
        """JSON of a command of ours; JSON lines become a list."""
        lines = self.run([TURNLOOM, *arguments, "--json"], seconds).strip()
        try:
            return json.loads(lines)
        except json.JSONDecodeError:
            return [json.loads(line) for line in lines.splitlines()]

    def value(self, expression: str) -> float:
        """The one value of an instant query; NaN where there is none."""
        form = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/query?{form}", timeout=60) as answer:  # noqa: S310
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if len(found) == 1 else math.nan

    def running(self) -> dict[str, Any]:
        """Name of each running service to what the engine knows of its container."""
        ids = self.compose("ps", "--quiet").split()
        found = json.loads(self.run(["docker", "inspect", *ids]))
        return {item["Config"]["Labels"]["com.docker.compose.service"]: item for item in found}


def eventually(what: str, met: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition of another machine's making."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.1)


# -- checks, in this order -------------------------------------------------------------------------------------------


def a_job_survives_the_death_of_its_worker(smoke: Smoke) -> str:
    """Trains over gRPC from this host, with the trainer's container killed in the middle."""
    eventually("TuFT is reported", lambda: any(host.get("backend_up") for host in smoke.turnloom("hosts")), 300)
    mixed = [f"{_only(smoke.turnloom('dataset', 'create', path))['id']}={share}" for path, share in PARTS]
    mix = [word for part in mixed for word in ("--mix", part)]  # panels of mixtures need data, too
    made = smoke.turnloom("train", *mix, "--test", TEST, *HYPERPARAMETERS, "--detach")
    smoke.job = made["id"]

    worker = smoke.running()["trainer-cpu"]["Id"]
    with TurnloomClient(smoke.environment["TURNLOOM_ADDRESS"]) as client:
        eventually(f"step {KILL_AT}", lambda: client.jobs.retrieve(smoke.job).progress.step >= KILL_AT, 300)
        smoke.run(["docker", "kill", "--signal", "KILL", worker])
    smoke.compose("up", "--detach", "--no-build", "--no-deps", "trainer-cpu")
    smoke.run([TURNLOOM, "watch", smoke.job, "--json"], seconds=600)
    job = smoke.turnloom("job", "show", smoke.job)
    assert job["state"] == "SUCCEEDED", job["error"]
    assert int(job["attempt"]) >= 2, job["attempt"]
    first, last = (smoke.turnloom("steps", smoke.job)[index] for index in (1, -1))
    assert last["step"] == STEPS, last
    test_nll = job["progress"]["test_nll"]
    curve = f"step NLL {_nll(first):.3f} -> {_nll(last):.3f}"
    return f"{smoke.job}: attempt {job['attempt']}, {curve}, test NLL {test_nll:.4f}"


def _only(printed: Any) -> Any:
    """The last of what a command printed: progress may come before it."""
    return printed[-1] if isinstance(printed, list) else printed


def _nll(step: dict[str, Any]) -> float:
    return float(step["nll_sum"]) / float(step["weight_sum"])


def sums_in_prometheus_equal_the_ledgers(smoke: Smoke) -> str:
    """Work of all attempts, to 1e-9."""
    script = LEDGER.replace("JOB", smoke.job)
    ledger = json.loads(smoke.compose("exec", "--no-TTY", "supervisor", "python", "-c", script).splitlines()[-1])
    assert ledger["steps"] > STEPS, "no step was trained twice, so the worker was not killed in the middle"
    labels = f'run_id="{smoke.job}"'
    eventually(
        "the last step is scraped",
        lambda: smoke.value(f"turnloom_run_steps_total{{{labels}}}") == ledger["steps"],
        120,
    )
    for name, key in (("nll_nats", "nll"), ("loss_weight", "weight")):
        series = f'turnloom_run_{name}_total{{{labels},split="train"}}'
        # A scrape that came too late ends every series until the next.
        eventually(
            f"{series} is {ledger[key]}",
            lambda series=series, key=key: math.isclose(smoke.value(series), ledger[key], rel_tol=1e-9),  # type: ignore[misc]
            120,
        )
    return f"{ledger['steps']} steps, {ledger['nll']!r} nats / {ledger['weight']!r}"


def every_panel_finds_data(smoke: Smoke) -> str:
    """Every query of every dashboard against this Prometheus."""
    smoke.turnloom("dataset", "create", TEST)  # a counter has a rate once it moves between two scrapes
    check = [
        sys.executable,
        "deploy/grafana/check_dashboards.py",
        "--prometheus",
        smoke.prometheus,
        "--absent",
        *ABSENT,
    ]
    output = ""

    def complete() -> bool:
        nonlocal output
        output = smoke.run(check, seconds=120, check=False).strip()
        return output.endswith(" 0 problems")

    try:
        eventually("every query finds series", complete, 180)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{output}") from None
    return output.splitlines()[-1]


def files_of_the_server_become_a_dataset(smoke: Smoke) -> str:
    """In shards, by the preprocess worker, from the folder that is mounted there and below no other."""
    made = _only(smoke.turnloom("dataset", "import", "/srv/sources/conversations.jsonl"))
    eventually("READY", lambda: smoke.turnloom("dataset", "show", made["id"])["state"] != "CREATING", 300)
    ready = smoke.turnloom("dataset", "show", made["id"])
    lines = len(TRAIN.read_text().splitlines())
    assert (ready["state"], int(ready["conversations"])) == ("READY", lines), ready
    refused = smoke.run([TURNLOOM, "dataset", "import", "/etc/passwd.jsonl"], check=False)
    assert "below" in refused or "root" in refused, refused
    return f"{lines} conversations"


def openais_routes_find_the_job_and_its_model(smoke: Smoke) -> str:
    """The service of HTTP, asked from this host; an upload lies in its volume."""
    base = f"http://127.0.0.1:{os.environ['TURNLOOM_OPENAI_PORT']}/v1"

    def asked(path: str, body: bytes | None = None, kind: str = "") -> Any:
        request = urllib.request.Request(f"{base}/{path}", body, {"Content-Type": kind} if kind else {})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    job = asked(f"fine_tuning/jobs/{smoke.job}")
    assert job["status"] == "succeeded", job
    assert job["fine_tuned_model"] in [model["id"] for model in asked("models")["data"]]
    parts = [b'name="purpose"\r\n\r\nfine-tune', b'name="file"; filename="a.jsonl"\r\n\r\n' + TRAIN.read_bytes()]
    form = b"".join(b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--b--\r\n"
    file = asked("files", form, "multipart/form-data; boundary=b")
    assert file["bytes"] == TRAIN.stat().st_size, file
    return f"{job['fine_tuned_model']}, {file['id']}"


def no_container_is_root_or_writes_to_its_image(smoke: Smoke) -> str:
    """User, read-only root, capabilities, privileges of every container."""
    running = smoke.running()
    for name, item in running.items():
        host = item["HostConfig"]
        assert item["Config"]["User"].split(":")[0] not in ("", "0", "root"), f"{name} runs as root"
        assert host["ReadonlyRootfs"], f"{name} can write to its root file system"
        assert host["CapDrop"] == ["ALL"], f"{name} keeps capabilities"
        assert "no-new-privileges:true" in host["SecurityOpt"], f"{name} may gain privileges"
    return f"{len(running)} containers"


def only_the_apis_and_prometheus_are_published_and_on_loopback(smoke: Smoke) -> str:
    """Grafana would be the fourth; it isn't started here."""
    published = {
        name: [binding["HostIp"] for bindings in item["HostConfig"]["PortBindings"].values() for binding in bindings]
        for name, item in smoke.running().items()
        if item["HostConfig"]["PortBindings"]
    }
    assert published == {name: ["127.0.0.1"] for name in ("preprocess", "rest", "prometheus")}, published
    return ", ".join(published)


def redis_lets_each_service_write_its_own_keys_only(smoke: Smoke) -> str:
    """As redis-cli of the right user, and without one."""

    def redis(user: str, *command: str) -> str:
        login = (
            ["--user", user, "-a", smoke.secrets[f"REDIS_PASSWORD_{user.upper()}"], "--no-auth-warning"] if user else []
        )
        return smoke.compose("exec", "--no-TTY", "redis", "redis-cli", *login, *command, check=False)

    refused = {
        "nobody reads": redis("", "GET", "tl:schema"),
        "the trainer rewrites a dataset": redis("trainer", "HSET", "tl:api:dataset:x", "state", "ready"),
        "the exporter writes": redis("exporter", "SET", "tl:run:x", "1"),
        "the trainer asks for the configuration": redis("trainer", "CONFIG", "GET", "*"),
        "the API flushes": redis("api", "FLUSHALL"),
        "a wrong password": smoke.compose(
            "exec",
            "--no-TTY",
            "redis",
            "redis-cli",
            "--user",
            "api",
            "-a",
            "wrong",
            "--no-auth-warning",
            "GET",
            "x",
            check=False,
        ),
    }
    for what, answer in refused.items():
        assert any(word in answer for word in ("NOPERM", "NOAUTH", "WRONGPASS")), f"{what}: {answer.strip()}"
    assert redis("trainer", "GET", "tl:schema").strip().isdigit()
    return f"{len(refused)} attempts refused"


def no_image_of_ours_but_tuft_holds_torch(smoke: Smoke) -> str:
    """And each says its size."""
    script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    limits = {
        "turnloom/preprocess:0.1.0": 550,
        "turnloom/rest:0.1.0": 650,
        "turnloom/trainer:0.1.0": 700,
        "turnloom/preprocess-worker:0.1.0": 900,
    }
    sizes = []
    for image, limit in limits.items():
        smoke.run(["docker", "run", "--rm", "--network", "none", image, "python", "-c", script])
        size = int(smoke.run(["docker", "image", "inspect", "--format", "{{.Size}}", image])) / 1e6
        assert size < limit, f"{image} has {size:.0f} MB, the limit is {limit} MB"
        sizes.append(f"{image} {size:.0f} MB")
    return ", ".join(sizes)


def with_a_bucket_a_job_leaves_its_adapter_there(smoke: Smoke) -> str:
    """docker-compose.s3.yml: the same stack, begun anew with a store in an S3 of this host."""
    bridge = os.environ["CI_BRIDGE"]
    with socket.create_server((bridge, 0)) as probe:
        port = str(probe.getsockname()[1])
    moto = [TURNLOOM.parent / "moto_server", "-H", bridge, "-p", port]
    server = subprocess.Popen(moto, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bucket = f"http://{bridge}:{port}/turnloom"

    def asked(method: str, url: str) -> str:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=60) as answer:  # noqa: S310
            return str(answer.read().decode())

    def made_a_bucket() -> bool:
        with contextlib.suppress(OSError):
            asked("PUT", bucket)
            return True
        return False

    try:
        eventually("moto's server answers", made_a_bucket, 60)
        smoke.environment |= {
            "TURNLOOM_STORE_URL": "s3://turnloom/store",
            "AWS_ENDPOINT_URL": f"http://{bridge}:{port}",
            "AWS_ACCESS_KEY_ID": "ci",
            "AWS_SECRET_ACCESS_KEY": "ci-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        services = ("preprocess", "preprocess-worker", "supervisor", "trainer-cpu")
        files = ("--file", "docker-compose.yml", "--file", "docker-compose.s3.yml")
        compose = [*smoke.base[:2], *files, *smoke.base[2:]]
        begin = ("up", "--detach", "--no-build", "--no-deps", "--wait", "--wait-timeout", "240", *services)
        smoke.run([*compose, *begin], seconds=300)
        eventually("TuFT is reported", lambda: any(host.get("backend_up") for host in smoke.turnloom("hosts")), 120)
        said, _ = json.JSONDecoder().raw_decode(smoke.run([TURNLOOM, "doctor", "--json"], check=False))
        checks = {one["name"]: one["outcome"] for one in said if one["name"].startswith("store")}
        assert checks == {"store": "ok", "store_writable": "ok"}, checks
        made = smoke.turnloom("train", TRAIN, *HYPERPARAMETERS[:-4], "--detach")["id"]
        smoke.run([TURNLOOM, "watch", made, "--json"], seconds=300)
        job = smoke.turnloom("job", "show", made)
        assert job["state"] == "SUCCEEDED", job["error"]
        listed = asked("GET", f"{bucket}?list-type=2&prefix=store/")
        assert f"store/adapters/{made}/" in listed, listed[:1500]
        assert "adapter_model.safetensors" in listed
        folder = Path(smoke.env_file).parent / "adapter"
        smoke.run([TURNLOOM, "adapter", "download", made, "--to", folder])
        assert (folder / "adapter_model.safetensors").stat().st_size
    finally:
        server.terminate()
        server.wait(30)
        for name in [name for name in smoke.environment if name.startswith("AWS_") or name == "TURNLOOM_STORE_URL"]:
            del smoke.environment[name]
    return f"{made}: {listed.count('<Key>')} objects"


def with_tokens_and_tls_the_api_serves_who_has_both(smoke: Smoke) -> str:
    """Begun anew with the settings that .env.example names; its health check follows."""
    folder = Path(smoke.env_file).parent / "tls"
    folder.mkdir()
    smoke.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=api "
        f"-addext subjectAltName=DNS:api.example,IP:127.0.0.1 -keyout {folder}/api.key -out {folder}/api.pem".split()
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    token = smoke.compose("run", "--rm", "--no-TTY", "tokens", "create", "ci", "--scopes", "read,submit").strip()
    assert token.startswith("tl_"), "tokens create prints no token"
    smoke.secrets["API_PASSWORD"] = token
    smoke.environment |= {
        "TURNLOOM_API_TOKENS": "/var/lib/turnloom/tokens/tokens.json",
        "TURNLOOM_API_TLS_FOLDER": str(folder),
        "TURNLOOM_API_TLS_CERT": "/etc/turnloom/tls/api.pem",
        "TURNLOOM_API_TLS_KEY": "/etc/turnloom/tls/api.key",
    }
    smoke.compose("up", "--detach", "--no-build", "--no-deps", "--wait", "--wait-timeout", "240", "preprocess")
    plain = smoke.run([TURNLOOM, "jobs", "--json"], check=False)
    assert '"error"' in plain, plain
    smoke.environment["TURNLOOM_TLS_CA"] = str(folder / "api.pem")
    nameless = smoke.run([TURNLOOM, "jobs", "--json"], check=False)
    assert "token" in nameless, nameless
    smoke.environment["TURNLOOM_TOKEN"] = token
    assert smoke.job in [job["id"] for job in smoke.turnloom("jobs")]
    return "plain text and no token are refused, both together are served, healthy"


def no_log_holds_a_secret_or_a_conversation(smoke: Smoke) -> str:
    """Everything that all containers wrote."""
    logs = smoke.compose("logs", "--no-color")
    hidden = [value for name, value in smoke.secrets.items() if "PASSWORD" in name or name.endswith("API_KEY")]
    messages = [message for line in TRAIN.read_text().splitlines() for message in json.loads(line)["messages"]]
    hidden += [message["content"] for message in messages if len(message["content"]) > 20]
    found = [text for text in hidden if text and text in logs]
    assert not found, f"{len(found)} of {len(hidden)} texts stand in the logs, the first begins {found[0][:12]!r}"
    return f"{len(logs.splitlines())} lines, {len(hidden)} texts looked for"


CHECKS = (
    a_job_survives_the_death_of_its_worker,
    sums_in_prometheus_equal_the_ledgers,
    every_panel_finds_data,
    files_of_the_server_become_a_dataset,
    openais_routes_find_the_job_and_its_model,
    no_container_is_root_or_writes_to_its_image,
    only_the_apis_and_prometheus_are_published_and_on_loopback,
    redis_lets_each_service_write_its_own_keys_only,
    no_image_of_ours_but_tuft_holds_torch,
    with_a_bucket_a_job_leaves_its_adapter_there,
    with_tokens_and_tls_the_api_serves_who_has_both,
    no_log_holds_a_secret_or_a_conversation,
)


def main() -> int:
    """Runs every check, also after one that failed."""
    smoke = Smoke(*sys.argv[1:4])
    failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        begun = time.monotonic()
        try:
            print(f"ok    {name}: {check(smoke)} [{time.monotonic() - begun:.0f} s]", flush=True)
        except (AssertionError, OSError, subprocess.TimeoutExpired, KeyError, ValueError) as error:
            failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
