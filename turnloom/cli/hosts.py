"""Commands about where things run: hosts, doctor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata

import typer
from rich.markup import escape

from turnloom.cli.exits import Exit
from turnloom.cli.jsonable import to_plain
from turnloom.cli.session import Session, command
from turnloom.cli.words import ago, coloured, seconds, size
from turnloom.errors import Refused, Unimplemented
from turnloom.v1 import training_pb2

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "grpc_proxy", "all_proxy", "ALL_PROXY")
SKEW_SECONDS = 60.0  #: a heartbeat from further in the future means that clocks differ


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    command(app, "hosts")(hosts)
    command(app, "doctor")(doctor)


def hosts(session: Session) -> None:
    """List GPU hosts, what they serve and when they were last heard of."""
    found = session.client.hosts()
    if session.as_json:
        session.json([to_plain(host) for host in found])
        return
    session.table(
        ("name", "GPUs", "TuFT", "models", "#workers", "#queued", "heard of"),
        (
            (
                escape(host.name),
                ", ".join(f"{escape(gpu.name)} ({size(gpu.memory_bytes)})" for gpu in host.gpus) or "none (CPU)",
                "[green]up[/]" if host.backend_up else "[red]down[/]",
                ", ".join(escape(model.name) for model in host.models) or "-",
                *(str(host.workers), str(host.queued_jobs), ago(host.heartbeat_time)),
            )
            for host in found
        ),
        "No host is known; start a worker (`python -m services.trainer`) or the embedded stack (`turnloom up`).",
    )


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor looked at."""

    name: str
    outcome: str  #: "ok", "warning", "failed", "skipped"
    message: str
    hint: str = ""
    host: str = ""  #: empty: this machine or the API


def doctor(session: Session) -> None:
    """Check client, server, models and GPU hosts; exit code 1 where a check failed."""
    findings = list(examine(session))
    if session.as_json:
        session.json([asdict(finding) for finding in findings])
    else:
        session.table(
            ("check", "outcome", "host", "found"),
            (
                (
                    *(escape(finding.name), coloured(finding.outcome), escape(finding.host)),
                    escape(f"{finding.message} {finding.hint}".strip()),
                )
                for finding in findings
            ),
            "",
        )
    if any(finding.outcome == "failed" for finding in findings):
        raise typer.Exit(Exit.JOB_FAILED)


def examine(session: Session) -> Iterator[Finding]:
    """All checks in order; what a server refuses is a finding, a server that is not there is an error."""
    client = metadata.version("turnloom")
    yield Finding("client", "ok", f"turnloom {client}")
    proxies = [name for name in PROXIES if os.environ.get(name)]
    yield Finding(
        "proxies",
        "warning" if proxies else "ok",
        f"{', '.join(proxies)} set; calls to other hosts go through it." if proxies else "No proxy variable is set.",
        "Name the server in NO_PROXY if it is inside your network." if proxies else "",
    )
    began = time.monotonic()
    info = session.client.server_info()
    latency = (time.monotonic() - began) * 1000
    same = info.version == client
    yield Finding(
        "server",
        "ok" if same else "warning",
        f"turnloom {info.version} answers at {session.client.address} in {latency:.0f} ms.",
        "" if same else f"This client is {client}; install the same version on both sides.",
    )
    yield from _asked("models", lambda: _models(session))
    yield from _asked("hosts", lambda: _hosts(session))
    yield from _asked("diagnose", lambda: _diagnosis(session))


def _asked(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Unimplemented as error:
        yield Finding(name, "skipped", error.message)
    except Refused as error:
        yield Finding(name, "failed", error.message, error.hint)


def _models(session: Session) -> Iterator[Finding]:
    names = [model.name for model in session.client.models()]
    if names:
        yield Finding("models", "ok", f"{len(names)}: {', '.join(names)}.")
    else:
        yield Finding("models", "failed", "The server has no model.", "Add one to its models.toml.")


def _hosts(session: Session) -> Iterator[Finding]:
    found = session.client.hosts()
    if not found:
        yield Finding(
            "hosts",
            "failed",
            "No worker is known, so jobs would wait.",
            "Start one on the GPU host: python -m services.trainer",
        )
    for host in found:
        yield _host(host)
    trained = {model.name for host in found for model in host.models}
    for model in session.client.models():
        if found and model.tuft_model_name not in trained:
            yield Finding(
                "models",
                "warning",
                f"{model.name}: no host trains {model.tuft_model_name}.",
                "Add it to a TuFT server's configuration, or correct tuft_model_name in models.toml.",
            )


def _host(host: training_pb2.Host) -> Finding:
    ahead = seconds(host.heartbeat_time) - time.time()
    if ahead > SKEW_SECONDS:
        message = f"Its clock is {ahead:.0f} s ahead of this one."
        return Finding("host", "warning", message, "Synchronize the clocks.", host.name)
    if not host.backend_up:
        return Finding(
            "host", "failed", "Its TuFT server does not answer.", "Start TuFT there, or correct its URL.", host.name
        )
    if not host.workers:
        return Finding("host", "failed", "No worker takes jobs there.", "Start python -m services.trainer.", host.name)
    models = ", ".join(model.name for model in host.models) or "no model"
    return Finding(
        "host",
        "ok",
        f"TuFT is up with {models}; {host.workers} worker, heard of {ago(host.heartbeat_time)}.",
        "",
        host.name,
    )


def _diagnosis(session: Session) -> Iterator[Finding]:
    for check in session.client.diagnose():
        yield Finding(check.name, check.outcome, check.message, check.hint, check.host)
