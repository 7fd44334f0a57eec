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
from pathlib import Path
from typing import Any

from ci_compose_stack import ROOT, TURNLOOM, ComposeStack, eventually

from turnloom.client import TurnloomClient

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


# -- checks, in this order -------------------------------------------------------------------------------------------


def a_job_survives_the_death_of_its_worker(stack: ComposeStack) -> str:
    """Trains over gRPC from this host, with the trainer's container killed in the middle."""
    eventually("TuFT is reported", lambda: any(host.get("backend_up") for host in stack.turnloom("hosts")), 300)
    mixed = [f"{_only(stack.turnloom('dataset', 'create', path))['id']}={share}" for path, share in PARTS]
    mix = [word for part in mixed for word in ("--mix", part)]  # panels of mixtures need data, too
    made = stack.turnloom("train", *mix, "--test", TEST, *HYPERPARAMETERS, "--detach")
    stack.job = made["id"]

    worker = stack.running()["trainer-cpu"]["Id"]
    with TurnloomClient(stack.environment["TURNLOOM_ADDRESS"]) as client:
        eventually(f"step {KILL_AT}", lambda: client.jobs.retrieve(stack.job).progress.step >= KILL_AT, 300)
        stack.run(["docker", "kill", "--signal", "KILL", worker])
    stack.compose("up", "--detach", "--no-build", "--no-deps", "trainer-cpu")
    stack.run([TURNLOOM, "watch", stack.job, "--json"], seconds=600)
    job = stack.turnloom("job", "show", stack.job)
    assert job["state"] == "SUCCEEDED", job["error"]
    assert int(job["attempt"]) >= 2, job["attempt"]
    first, last = (stack.turnloom("steps", stack.job)[index] for index in (1, -1))
    assert last["step"] == STEPS, last
    test_nll = job["progress"]["test_nll"]
    curve = f"step NLL {_nll(first):.3f} -> {_nll(last):.3f}"
    return f"{stack.job}: attempt {job['attempt']}, {curve}, test NLL {test_nll:.4f}"


def _only(printed: Any) -> Any:
    """The last of what a command printed: progress may come before it."""
    return printed[-1] if isinstance(printed, list) else printed


def _nll(step: dict[str, Any]) -> float:
    return float(step["nll_sum"]) / float(step["weight_sum"])


def sums_in_prometheus_equal_the_ledgers(stack: ComposeStack) -> str:
    """Work of all attempts, to 1e-9."""
    script = LEDGER.replace("JOB", stack.job)
    ledger = json.loads(stack.compose("exec", "--no-TTY", "supervisor", "python", "-c", script).splitlines()[-1])
    assert ledger["steps"] > STEPS, "no step was trained twice, so the worker was not killed in the middle"
    labels = f'run_id="{stack.job}"'
    eventually(
        "the last step is scraped",
        lambda: stack.value(f"turnloom_run_steps_total{{{labels}}}") == ledger["steps"],
        120,
    )
    for name, key in (("nll_nats", "nll"), ("loss_weight", "weight")):
        series = f'turnloom_run_{name}_total{{{labels},split="train"}}'
        # A scrape that came too late ends every series until the next.
        eventually(
            f"{series} is {ledger[key]}",
            lambda series=series, key=key: math.isclose(stack.value(series), ledger[key], rel_tol=1e-9),  # type: ignore[misc]
            120,
        )
    return f"{ledger['steps']} steps, {ledger['nll']!r} nats / {ledger['weight']!r}"


def every_panel_finds_data(stack: ComposeStack) -> str:
    """Every query of every dashboard against this Prometheus."""
    stack.turnloom("dataset", "create", TEST)  # a counter has a rate once it moves between two scrapes
    check = [
        sys.executable,
        "deploy/grafana/check_dashboards.py",
        "--prometheus",
        stack.prometheus,
        "--absent",
        *ABSENT,
    ]
    output = ""

    def complete() -> bool:
        nonlocal output
        output = stack.run(check, seconds=120, check=False).strip()
        return output.endswith(" 0 problems")

    try:
        eventually("every query finds series", complete, 180)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{output}") from None
    return output.splitlines()[-1]


def files_of_the_server_become_a_dataset(stack: ComposeStack) -> str:
    """In shards, by the preprocess worker, from the folder that is mounted there and below no other."""
    made = _only(stack.turnloom("dataset", "import", "/srv/sources/conversations.jsonl"))
    eventually("READY", lambda: stack.turnloom("dataset", "show", made["id"])["state"] != "CREATING", 300)
    ready = stack.turnloom("dataset", "show", made["id"])
    lines = len(TRAIN.read_text().splitlines())
    assert (ready["state"], int(ready["conversations"])) == ("READY", lines), ready
    refused = stack.run([TURNLOOM, "dataset", "import", "/etc/passwd.jsonl"], check=False)
    assert "below" in refused or "root" in refused, refused
    return f"{lines} conversations"


def openais_routes_find_the_job_and_its_model(stack: ComposeStack) -> str:
    """The service of HTTP, asked from this host; an upload lies in its volume."""
    base = f"http://127.0.0.1:{os.environ['TURNLOOM_OPENAI_PORT']}/v1"

    def asked(path: str, body: bytes | None = None, kind: str = "") -> Any:
        request = urllib.request.Request(f"{base}/{path}", body, {"Content-Type": kind} if kind else {})  # noqa: S310
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    job = asked(f"fine_tuning/jobs/{stack.job}")
    assert job["status"] == "succeeded", job
    assert job["fine_tuned_model"] in [model["id"] for model in asked("models")["data"]]
    parts = [b'name="purpose"\r\n\r\nfine-tune', b'name="file"; filename="a.jsonl"\r\n\r\n' + TRAIN.read_bytes()]
    form = b"".join(b"--b\r\nContent-Disposition: form-data; " + part + b"\r\n" for part in parts) + b"--b--\r\n"
    file = asked("files", form, "multipart/form-data; boundary=b")
    assert file["bytes"] == TRAIN.stat().st_size, file
    return f"{job['fine_tuned_model']}, {file['id']}"


def no_container_is_root_or_writes_to_its_image(stack: ComposeStack) -> str:
    """User, read-only root, capabilities, privileges of every container."""
    running = stack.running()
    for name, item in running.items():
        host = item["HostConfig"]
        assert item["Config"]["User"].split(":")[0] not in ("", "0", "root"), f"{name} runs as root"
        assert host["ReadonlyRootfs"], f"{name} can write to its root file system"
        assert host["CapDrop"] == ["ALL"], f"{name} keeps capabilities"
        assert "no-new-privileges:true" in host["SecurityOpt"], f"{name} may gain privileges"
    return f"{len(running)} containers"


def only_the_apis_and_prometheus_are_published_and_on_loopback(stack: ComposeStack) -> str:
    """Grafana would be the fourth; it isn't started here."""
    published = {
        name: [binding["HostIp"] for bindings in item["HostConfig"]["PortBindings"].values() for binding in bindings]
        for name, item in stack.running().items()
        if item["HostConfig"]["PortBindings"]
    }
    assert published == {name: ["127.0.0.1"] for name in ("preprocess", "rest", "prometheus")}, published
    return ", ".join(published)


def redis_lets_each_service_write_its_own_keys_only(stack: ComposeStack) -> str:
    """As redis-cli of the right user, and without one."""

    def redis(user: str, *command: str) -> str:
        login = (
            ["--user", user, "-a", stack.secrets[f"REDIS_PASSWORD_{user.upper()}"], "--no-auth-warning"] if user else []
        )
        return stack.compose("exec", "--no-TTY", "redis", "redis-cli", *login, *command, check=False)

    refused = {
        "nobody reads": redis("", "GET", "tl:schema"),
        "the trainer rewrites a dataset": redis("trainer", "HSET", "tl:api:dataset:x", "state", "ready"),
        "the exporter writes": redis("exporter", "SET", "tl:run:x", "1"),
        "the trainer asks for the configuration": redis("trainer", "CONFIG", "GET", "*"),
        "the API flushes": redis("api", "FLUSHALL"),
        "a wrong password": stack.compose(
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


def no_image_of_ours_but_tuft_holds_torch(stack: ComposeStack) -> str:
    """And each says its size."""
    script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is not None)"
    limits = {
        "turnloom/preprocess:0.2.0": 550,
        "turnloom/rest:0.2.0": 650,
        "turnloom/trainer:0.2.0": 700,
        "turnloom/preprocess-worker:0.2.0": 900,
    }
    sizes = []
    for image, limit in limits.items():
        stack.run(["docker", "run", "--rm", "--network", "none", image, "python", "-c", script])
        size = int(stack.run(["docker", "image", "inspect", "--format", "{{.Size}}", image])) / 1e6
        assert size < limit, f"{image} has {size:.0f} MB, the limit is {limit} MB"
        sizes.append(f"{image} {size:.0f} MB")
    return ", ".join(sizes)


def with_a_bucket_a_job_leaves_its_adapter_there(stack: ComposeStack) -> str:
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
        stack.environment |= {
            "TURNLOOM_STORE_URL": "s3://turnloom/store",
            "AWS_ENDPOINT_URL": f"http://{bridge}:{port}",
            "AWS_ACCESS_KEY_ID": "ci",
            "AWS_SECRET_ACCESS_KEY": "ci-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        services = ("preprocess", "preprocess-worker", "supervisor", "trainer-cpu")
        files = ("--file", "docker-compose.yml", "--file", "docker-compose.s3.yml")
        compose = [*stack.base[:2], *files, *stack.base[2:]]
        begin = ("up", "--detach", "--no-build", "--no-deps", "--wait", "--wait-timeout", "240", *services)
        stack.run([*compose, *begin], seconds=300)
        eventually("TuFT is reported", lambda: any(host.get("backend_up") for host in stack.turnloom("hosts")), 120)
        said, _ = json.JSONDecoder().raw_decode(stack.run([TURNLOOM, "doctor", "--json"], check=False))
        checks = {one["name"]: one["outcome"] for one in said if one["name"].startswith("store")}
        assert checks == {"store": "ok", "store_writable": "ok"}, checks
        made = stack.turnloom("train", TRAIN, *HYPERPARAMETERS[:-4], "--detach")["id"]
        stack.run([TURNLOOM, "watch", made, "--json"], seconds=300)
        job = stack.turnloom("job", "show", made)
        assert job["state"] == "SUCCEEDED", job["error"]
        listed = asked("GET", f"{bucket}?list-type=2&prefix=store/")
        assert f"store/adapters/{made}/" in listed, listed[:1500]
        assert "adapter_model.safetensors" in listed
        folder = Path(stack.env_file).parent / "adapter"
        stack.run([TURNLOOM, "adapter", "download", made, "--to", folder])
        assert (folder / "adapter_model.safetensors").stat().st_size
    finally:
        server.terminate()
        server.wait(30)
        for name in [name for name in stack.environment if name.startswith("AWS_") or name == "TURNLOOM_STORE_URL"]:
            del stack.environment[name]
    return f"{made}: {listed.count('<Key>')} objects"


def with_tokens_and_tls_the_api_serves_who_has_both(stack: ComposeStack) -> str:
    """Begun anew with the settings that .env.example names; its health check follows."""
    folder = Path(stack.env_file).parent / "tls"
    folder.mkdir()
    stack.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=api "
        f"-addext subjectAltName=DNS:api.example,IP:127.0.0.1 -keyout {folder}/api.key -out {folder}/api.pem".split()
    )
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    token = stack.compose("run", "--rm", "--no-TTY", "tokens", "create", "ci", "--scopes", "read,submit").strip()
    assert token.startswith("tl_"), "tokens create prints no token"
    stack.secrets["API_PASSWORD"] = token
    stack.environment |= {
        "TURNLOOM_API_TOKENS": "/var/lib/turnloom/tokens/tokens.json",
        "TURNLOOM_API_TLS_FOLDER": str(folder),
        "TURNLOOM_API_TLS_CERT": "/etc/turnloom/tls/api.pem",
        "TURNLOOM_API_TLS_KEY": "/etc/turnloom/tls/api.key",
    }
    stack.compose("up", "--detach", "--no-build", "--no-deps", "--wait", "--wait-timeout", "240", "preprocess")
    plain = stack.run([TURNLOOM, "jobs", "--json"], check=False)
    assert '"error"' in plain, plain
    stack.environment["TURNLOOM_TLS_CA"] = str(folder / "api.pem")
    nameless = stack.run([TURNLOOM, "jobs", "--json"], check=False)
    assert "token" in nameless, nameless
    stack.environment["TURNLOOM_TOKEN"] = token
    assert stack.job in [job["id"] for job in stack.turnloom("jobs")]
    return "plain text and no token are refused, both together are served, healthy"


def no_log_holds_a_secret_or_a_conversation(stack: ComposeStack) -> str:
    """Everything that all containers wrote."""
    logs = stack.compose("logs", "--no-color")
    hidden = [value for name, value in stack.secrets.items() if "PASSWORD" in name or name.endswith("API_KEY")]
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
    stack = ComposeStack(*sys.argv[1:4])
    failed = 0
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        begun = time.monotonic()
        try:
            print(f"ok    {name}: {check(stack)} [{time.monotonic() - begun:.0f} s]", flush=True)
        except (AssertionError, OSError, subprocess.TimeoutExpired, KeyError, ValueError) as error:
            failed += 1
            print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
