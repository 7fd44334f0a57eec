"""Assemble the commands, each loaded when it is requested, and provide the entry point."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

HELP = """Chat conversations into token-exact training batches, and LoRA adapters trained with them.

Exit codes: 0 ok, 1 job failed or cancelled, 2 bad input, 3 no server, 4 refused or not found, 5 server fault,
130 interrupted.
"""

#: First word of a command -> the module of this package that adds it, and its line in the help, in the help's order.
MODULES: Final[Mapping[str, tuple[str, str]]] = {
    "up": ("up", "Start everything on this machine, without a GPU."),
    "models": ("data", "List the models that the server preprocesses for."),
    "preview": ("data", "Show one conversation, trained tokens in colour."),
    "lint": ("data", "Look for what usually goes wrong in conversations."),
    "dataset": ("datasets", "Make and look at datasets."),
    "init": ("jobfile", "Write a commented job file."),
    "train": ("train", "Train a LoRA adapter and watch it."),
    "watch": ("train", "Watch a job until it ends."),
    "sweep": ("sweep", "Train a grid of ranks and rates, and compare."),
    "sweeps": ("sweep", "List sweeps."),
    "plot": ("sweep", "Compare any jobs."),
    "jobs": ("jobs", "List jobs."),
    "job": ("jobs", "Look at one job."),
    "steps": ("jobs", "List the steps of a job."),
    "events": ("jobs", "List what happened in a job."),
    "checkpoints": ("jobs", "List the checkpoints that a job keeps."),
    "logs": ("jobs", "Print steps and events of a job as a log."),
    "cancel": ("jobs", "Stop a job, or every job of a sweep."),
    "pause": ("jobs", "Save a checkpoint and free the GPU."),
    "resume": ("jobs", "Queue a paused, failed or cancelled job again."),
    "move": ("jobs", "Move a job to another host."),
    "queue": ("jobs", "List the jobs that wait for a host, and why."),
    "delete": ("jobs", "Delete a finished job."),
    "adapter": ("jobs", "Get trained adapters."),
    "export": ("export", "Write steps to a file, TensorBoard, W&B or Prometheus."),
    "replies": ("replies", "Show what a job's adapter said while it trained."),
    "sample": ("sample", "Ask a job's adapter."),
    "serve": ("publish", "Load an adapter into a running vLLM."),
    "push": ("publish", "Send an adapter to the Hugging Face hub."),
    "hosts": ("hosts", "List GPU hosts."),
    "doctor": ("hosts", "Check client, server, models and GPU hosts."),
}


AS_JSON: Final = f"{__name__}.as_json"  #: where a context keeps whether --json stands anywhere on the line


def _mistakes(ctx: Any) -> AbstractContextManager[None]:
    if not ctx.meta[AS_JSON]:
        return nullcontext()
    from turnloom.cli.running.session import mistakes  # noqa: PLC0415  # brings the client, which takes its time

    return mistakes(as_json=True)


class Lazy(TyperGroup):
    """A group that imports a command's module when the command is looked up, so that small ones start quickly."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the words before the command; with --json a mistake in them is JSON, as one of a command is."""
        ctx.meta[AS_JSON] = "--json" in args  # taken away while it parses
        with _mistakes(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Find the command and run it; with --json an unknown one is told as JSON."""
        with _mistakes(ctx):
            return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help from MODULES alone, importing no command."""
        self.commands = {word: TyperCommand(word, help=summary) for word, (_, summary) in MODULES.items()}
        super().format_help(ctx, formatter)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; an unknown word is refused with the names that are like it, or with what took its place."""
        if args[:1] == ["metrics"]:
            ctx.fail("No such command 'metrics'. Did you mean 'turnloom export --to openmetrics'?")
        if args and args[0] not in MODULES:
            self.commands = {word: TyperCommand(word) for word in MODULES}
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the first words of all commands."""
        return [*MODULES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of this name; None: there is none."""
        if cmd_name not in MODULES:
            return None
        if cmd_name not in self.commands:
            part = typer.Typer()
            part.callback()(lambda: None)  # else Typer turns a group of one command into that command
            importlib.import_module(f"turnloom.cli.{MODULES[cmd_name][0]}").add_to(part)
            part.registered_commands = [one for one in part.registered_commands if one.name == cmd_name]
            part.registered_groups = [one for one in part.registered_groups if one.name == cmd_name]
            self.commands.update(get_group(part).commands)  # the module's others would take longer
        return self.commands[cmd_name]


app = typer.Typer(cls=Lazy, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata  # noqa: PLC0415  # takes 50 ms, and only this needs it

        typer.echo(f"turnloom {metadata.version('turnloom')}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)]


@app.callback(help=HELP)
def root(version: Version = False) -> None:
    """Accept the options that come before any command."""


def main() -> None:
    """Run the console script."""
    app(prog_name="turnloom")
