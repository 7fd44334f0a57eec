"""The command `turnloom replies`: what a job's adapter said to its prompts while it trained."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

import typer
from rich.markup import escape

from turnloom.cli.options.groups import LARGEST
from turnloom.cli.running.jsonable import to_plain
from turnloom.cli.running.session import Session, command


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "replies", "replies job-0123456789ab --prompt 1")(replies)


def replies(
    session: Session,
    job: Annotated[str, typer.Argument(help="Job id.", metavar="JOB", show_default=False)],
    step: Annotated[int | None, typer.Option(help="Only after this step.", min=1, max=LARGEST)] = None,
    prompt: Annotated[int, typer.Option(help="Only to this prompt, from 1; 0: to all.", min=0, max=LARGEST)] = 0,
) -> None:
    """Show the replies of a job with --sample-prompts, by prompt and step. With --json one list."""
    found = [one for one in session.client.jobs.replies(job, step) if prompt in (0, one.prompt)]
    if session.as_json:
        session.json([to_plain(one) for one in found])
        return
    if not found:
        chosen = (f" to prompt {prompt}" if prompt else "") + (f" after step {step}" if step else "")
        session.say(f"There is no reply{chosen} yet. Jobs answer prompts with `turnloom train --sample-prompts FILE`.")
        return
    for (number, asked), said in groupby(
        sorted(found, key=lambda one: (one.prompt, one.step)), key=lambda one: (one.prompt, one.asked)
    ):
        session.out.print(f"[bold]{number}. {escape(asked)}[/]", highlight=False, soft_wrap=True)
        for one in said:
            more = " [dim](cut at its limit)[/]" if one.finish_reason == "length" else ""
            session.out.print(f"  step {one.step}: {escape(one.text)}{more}", highlight=False, soft_wrap=True)
