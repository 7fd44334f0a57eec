"""The command `turnloom doctor`: check this client, the way to the server, then the server and its hosts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import typer
from rich.markup import escape

from turnloom.cli.running.exits import Exit
from turnloom.cli.running.session import Session
from turnloom.display.words import ago, coloured, seconds
from turnloom.errors import DeadlineExceeded, NotAllowed, Refused, ServerUnreachable, Unavailable, Unimplemented
from turnloom.transport.reaching import steps
from turnloom.v1 import training_pb2
from turnloom.version import VERSION

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "grpc_proxy", "all_proxy", "ALL_PROXY")
SKEW_SECONDS = 60.0  #: a heartbeat from further in the future means that clocks differ
UNREACHED = "server"  #: name of the check that no server can be asked


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check."""

    name: str
    outcome: str  #: "ok", "warning", "failed", "skipped"
    message: str
    hint: str = ""
    host: str = ""  #: empty: this machine or the API


def doctor(session: Session) -> None:
    """Check client, server, models and GPU hosts; exit code 1 where a check failed, 3 where no server answers."""
    checks = list(examine(session))
    if session.as_json:
        session.json([asdict(check) for check in checks])
    else:
        session.table(
            ("check", "outcome", "host", "found"),
            (
                (
                    *(escape(check.name), coloured(check.outcome), escape(check.host)),
                    escape(f"{_ended(check.message)} {check.hint}".strip()),
                )
                for check in checks
            ),
            "",
        )
    failed = [check.name for check in checks if check.outcome == "failed"]
    if failed:
        raise typer.Exit(Exit.UNREACHABLE if UNREACHED in failed else Exit.JOB_FAILED)


def _ended(sentence: str) -> str:
    """End the sentence with a full stop, so that the hint can follow."""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def examine(session: Session) -> Iterator[Check]:
    """Yield all checks in order; those that need an unreachable server are left out."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("client", "ok", f"turnloom {VERSION} on Python {python}.")
    yield _proxies()
    began = time.monotonic()
    try:
        version = session.client.server_info().version
    except NotAllowed as error:
        sent = "A token was sent" if session.has_token else "No token was sent"
        yield Check("token", "failed", f"{sent}: {error.message}", error.hint or "Give --token or TURNLOOM_TOKEN.")
        return
    except ServerUnreachable as error:
        yield from _way(session)
        yield Check(UNREACHED, "failed", error.message, error.hint)
        return
    except (DeadlineExceeded, Unavailable) as error:
        yield Check(UNREACHED, "failed", error.message, error.hint or "Wait until it has loaded, or see its log.")
        return
    yield Check("token", "ok", _token(session))
    yield _versions(
        VERSION, version, f"answers at {session.client.address} in {(time.monotonic() - began) * 1000:.0f} ms"
    )
    yield from _asked("models", lambda: _models(session))
    yield from _asked("hosts", lambda: _hosts(session))
    yield from _asked("diagnose", lambda: _diagnosis(session))


def _proxies() -> Check:
    found = [name for name in PROXIES if os.environ.get(name)]
    if not found:
        return Check("proxies", "ok", "No proxy variable is set.")
    message = f"{', '.join(found)} set; calls to other hosts go through it."
    return Check("proxies", "warning", message, "Name the server in NO_PROXY if it is inside your network.")


def _way(session: Session) -> Iterator[Check]:
    """Yield the steps on the way to an unreachable server, up to the one that fails."""
    named = "TURNLOOM_ADDRESS" if os.environ.get("TURNLOOM_ADDRESS") == session.client.address else ""
    for step in steps(session.client.address, session.tls):
        source = f" It comes from {named}." if named and step.name == "address" else ""
        yield Check(step.name, "failed" if step.wrong else "ok", step.sentence + source, step.hint)


def _token(session: Session) -> str:
    return "The server takes the token." if session.has_token else "None was sent, and none was asked for."


def _versions(client: str, server: str, answers: str) -> Check:
    if server == client:
        return Check("server", "ok", f"turnloom {server} {answers}.")
    hint = f"This client is {client}; install the same version on both sides."
    return Check("server", "warning", f"turnloom {server} {answers}.", hint)


def _asked(name: str, check: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    try:
        yield from check()
    except Unimplemented as error:
        yield Check(name, "skipped", error.message)
    except (Refused, DeadlineExceeded) as error:
        yield Check(name, "failed", error.message, error.hint)


def _models(session: Session) -> Iterator[Check]:
    names = [model.name for model in session.client.models.list()]
    if names:
        yield Check("models", "ok", f"{len(names)}: {', '.join(names)}.")
    else:
        yield Check("models", "failed", "The server has no model.", "Add one to its models.toml.")


def _hosts(session: Session) -> Iterator[Check]:
    found = session.client.hosts.list()
    if not found:
        yield Check(
            "hosts",
            "failed",
            "No worker is known, so jobs would wait.",
            "Start one on the GPU host: python -m services.trainer",
        )
    for host in found:
        yield _host(host)
    trained = {model.name for host in found for model in host.models}
    for model in session.client.models.list():
        if found and model.tuft_model_name not in trained:
            yield Check(
                "models",
                "warning",
                f"{model.name}: no host trains {model.tuft_model_name}.",
                "Add it to a TuFT server's configuration, or correct tuft_model_name in models.toml.",
            )


def _host(host: training_pb2.Host) -> Check:
    ahead = seconds(host.heartbeat_time) - time.time()
    if ahead > SKEW_SECONDS:
        message = f"Its clock is {ahead:.0f} s ahead of this one."
        return Check("host", "warning", message, "Synchronize the clocks.", host.name)
    if not host.backend_up:
        return Check(
            "host", "failed", "Its TuFT server does not answer.", "Start TuFT there, or correct its URL.", host.name
        )
    if not host.workers:
        return Check("host", "failed", "No worker takes jobs there.", "Start python -m services.trainer.", host.name)
    models = ", ".join(_named(model) for model in host.models) or "no model"
    return Check(
        "host",
        "ok",
        f"TuFT is up with {models}; workers: {host.workers}; heard of {ago(host.heartbeat_time)}.",
        "",
        host.name,
    )


def _named(model: training_pb2.ServedModel) -> str:
    return f"{model.name} (accelerated)" if model.accelerated else model.name


def _diagnosis(session: Session) -> Iterator[Check]:
    for check in session.client.hosts.diagnose():
        yield Check(check.name, check.outcome, check.message, check.hint, check.host)
