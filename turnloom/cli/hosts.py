"""Commands about GPU hosts: hosts; doctor has a module of its own."""

from __future__ import annotations

import typer
from rich.markup import escape

from turnloom.cli.doctor import doctor
from turnloom.cli.running.jsonable import to_plain
from turnloom.cli.running.session import Session, command
from turnloom.display.words import ago, money, size
from turnloom.v1 import training_pb2


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "hosts", "hosts")(hosts)
    command(app, "doctor", "doctor --address gpu-host:50051")(doctor)


def hosts(session: Session) -> None:
    """List GPU hosts, what they serve and when they were last heard of."""
    found = session.client.hosts.list()
    if session.as_json:
        session.json([to_plain(host) for host in found])
        return
    session.table(
        ("name", "GPUs", "TuFT", "models", "#workers", "#queued", "?#an hour", "heard of"),
        (
            (
                escape(host.name),
                ", ".join(f"{escape(gpu.name)} ({size(gpu.memory_bytes)})" for gpu in host.gpus) or "none (CPU)",
                "[green]up[/]" if host.backend_up else "[red]down[/]",
                ", ".join(escape(_model(model)) for model in host.models) or "-",
                *(str(host.workers), str(host.queued_jobs)),
                money(host.hour_price, host.currency) if host.HasField("hour_price") else "-",
                ago(host.heartbeat_time),
            )
            for host in found
        ),
        "No host is known; start a worker (`python -m services.trainer`) or the embedded stack (`turnloom up`).",
    )


def _model(model: training_pb2.ServedModel) -> str:
    """Return a model's name and, if known, how it is trained and whether it is sampled."""
    said = ["sampled" if model.samples else "not sampled"] if model.HasField("samples") else []
    if model.HasField("accelerated"):
        said.insert(0, "accelerated" if model.accelerated else f"not accelerated: {model.not_accelerated}")
    return f"{model.name} ({', '.join(said)})" if said else model.name
