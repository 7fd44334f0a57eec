"""The command `turnloom up`: the embedded stack in the foreground."""

from __future__ import annotations

import time
import tomllib
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from turnloom.cli.running.session import Session, command
from turnloom.client import TurnloomClient
from turnloom.client.client import ADDRESS
from turnloom.embedded.processes import sigterm_unwinds
from turnloom.embedded.stack import Stack, StackSettings
from turnloom.errors import StackError

LOOK_SECONDS: Final = 0.5  #: between two looks at the parts


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "up", "up --workers 2 --data chats.jsonl")(up)


def up(
    session: Session,
    folder: Annotated[Path, typer.Option(help="Where its state lies, over restarts too.")] = Path(".turnloom"),
    tuft_python: Annotated[
        Path | None, typer.Option(help="Interpreter of the TuFT environment.", envvar="TURNLOOM_TUFT_PYTHON")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="JSONL that the tiny model's tokenizer is made from; may be repeated.")
    ] = None,
    models: Annotated[
        Path | None, typer.Option(help="models.toml; preview, lint and datasets then know its models too.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Jobs that run at once.", min=1)] = 1,
    http: Annotated[str, typer.Option(help="HOST:PORT of the OpenAI-compatible service.")] = "127.0.0.1:8088",
    metrics_port: Annotated[int, typer.Option(help="Metrics of the API; 0: a free port.", min=0, max=65535)] = 9464,
    exporter_port: Annotated[int, typer.Option(help="Metrics of jobs; 0: a free port.", min=0, max=65535)] = 9465,
) -> None:
    """Start everything on this machine, without a GPU, until Ctrl-C. --address says where the API listens.

    Datasets, jobs, adapters and logs stay in the folder; FOLDER/stack.json has the addresses. TURNLOOM_REDIS_URL
    names a Redis of your own. A worker that ends is started again. Ends with 0 after Ctrl-C, with 143 after SIGTERM.
    """
    settings = StackSettings(
        folder=folder,
        tuft_python=tuft_python,
        address=session.client.address,
        http_address=http,
        conversations=data or (),
        models=models,
        workers=workers,
        metrics_port=metrics_port,
        exporter_port=exporter_port,
        say=lambda part: session.say(f"Starting: {escape(part)}"),
    )
    with sigterm_unwinds(), Stack(settings) as stack:
        if session.as_json:
            session.json({**stack.describe()})
        else:
            for name, value in stack.describe().items():
                session.out.print(f"{name:>13}  {value}", highlight=False, soft_wrap=True)
            away = "" if stack.address == ADDRESS else f" --address {stack.address}"
            session.say(
                f"[green]Ready.[/] Ctrl-C stops everything.  Try: turnloom preview examples/conversations.jsonl{away}"
            )
        for name in not_loaded(stack.folder, stack.address):
            session.say(
                f"[yellow]Model {escape(name)} is not loaded.[/] `turnloom preview FILE -m NAME` says why;"
                " correct --models, then start again."
            )
        try:
            while True:
                stack.mend()
                time.sleep(LOOK_SECONDS)
        except KeyboardInterrupt:  # the usual end
            session.say("Stopping.")
        except StackError as error:  # stopping takes up to a minute, in which nobody has to wonder
            session.say(f"[yellow]Stopping: {escape(error.message)}[/]")
            raise


def not_loaded(folder: Path, address: str) -> list[str]:
    """Return the models that the API was told of and does not serve: their sources may be wrong."""
    told = tomllib.loads((folder / "models.toml").read_text(encoding="utf-8"))["models"]
    with TurnloomClient(address) as client:
        served = {model.name for model in client.models.list()}
    return [one["name"] for one in told if one.get("name") not in served]
