"""The command `turnloom sample`: send one prompt to a job's adapter."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from turnloom.cli.options.groups import LARGEST
from turnloom.cli.running.jsonable import to_plain
from turnloom.cli.running.session import Session, command
from turnloom.plural import counted


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "sample", "sample job-0123456789ab 'What is LoRA?' --temperature 0")(sample)


def sample(
    session: Session,
    job: Annotated[str, typer.Argument(help="Job id.", metavar="JOB")],
    prompt: Annotated[str, typer.Argument(help="What the user says.", metavar="PROMPT")],
    system: Annotated[str, typer.Option(help="System message before it.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Checkpoint id. Default: the last one, as the final adapter.")] = "",
    max_tokens: Annotated[
        int | None, typer.Option(help="Of the reply, 1 to 4096. Default: 256.", min=1, max=LARGEST)
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 to 10; 0: the likeliest reply. Default: 1.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Above 0, at most 1. Default: 1.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed, the same reply.", min=0, max=LARGEST)] = None,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model, without the adapter.")] = False,
) -> None:
    """Ask a job's adapter, where its host samples.

    Exit code 4: the host trains only. 3: every worker of the host trains, or its TuFT server does not answer.
    """
    said = [{"role": "system", "content": system}] if system else []
    messages = [*said, {"role": "user", "content": prompt}]
    answer = session.client.jobs.sample(
        job,
        {"messages": [dict(message) for message in messages]},
        checkpoint=checkpoint,
        max_tokens=max_tokens or 0,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        base=base,
    )
    if session.as_json:
        session.json(to_plain(answer))
        return
    session.out.print(escape(answer.text), highlight=False, soft_wrap=True)
    if answer.finish_reason == "length":
        session.say(f"[dim]Ended by --max-tokens, after {counted(answer.tokens, 'token')}.[/dim]")
