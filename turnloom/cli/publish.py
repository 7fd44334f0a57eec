"""Commands that bring an adapter to where it is used: serve, push."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from turnloom.cli.running.jsonable import Plain
from turnloom.cli.running.session import Session, command
from turnloom.client import TurnloomClient
from turnloom.errors import FailedPrecondition, InvalidInput, NotFound
from turnloom.optional import missing
from turnloom.publish.card import Facts, card
from turnloom.publish.vllm import Vllm
from turnloom.results.runs import Run
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import training_pb2 as tr

Id = Annotated[str, typer.Argument(help="Job id.", metavar="JOB", show_default=False)]
Checkpoint = Annotated[str, typer.Option(help="Checkpoint id. Default: the final adapter.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "serve", "serve job-0123456789ab --vllm http://127.0.0.1:8000")(serve)
    command(app, "push", "push job-0123456789ab anna/support-chat --private")(push)


def serve(
    session: Session,
    job: Id,
    checkpoint: Checkpoint = "",
    vllm: Annotated[
        str, typer.Option(help="URL of a running vLLM.", envvar="TURNLOOM_VLLM_URL")
    ] = "http://127.0.0.1:8000",
    vllm_key: Annotated[str, typer.Option(help="Its --api-key.", envvar="VLLM_API_KEY")] = "",
    name: Annotated[str, typer.Option(help="What requests call the model. Default: the job's id.")] = "",
    folder: Annotated[
        Path, typer.Option(help="Where adapters are kept for vLLM.", envvar="TURNLOOM_VLLM_FOLDER")
    ] = Path(".turnloom/served"),
    folder_there: Annotated[
        str, typer.Option(help="The same folder as vLLM's process sees it, where that differs.")
    ] = "",
    unload: Annotated[bool, typer.Option("--unload", help="Take it out of vLLM, and remove its files.")] = False,
) -> None:
    """Load a job's adapter into a running vLLM, without restarting it.

    vLLM must run with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and read --folder. An adapter that is
    loaded under the name is replaced. Exit code 4: vLLM refused. 3: it does not answer.
    """
    server, called = Vllm(vllm, vllm_key), name or job
    if Path(called).name != called or called in (".", ".."):
        raise InvalidInput(f"--name: {called!r} has slashes.", hint="Choose a plain name.", field="--name")
    place = folder.resolve() / called
    if unload:
        server.unload(called)
        shutil.rmtree(place, ignore_errors=True)
        _say(session, {"name": called, "vllm": server.url, "loaded": False}, f"{called} is no longer loaded.")
        return
    server.models()  # before anything is fetched
    session.client.jobs.download_adapter(job, place, checkpoint)
    there = f"{folder_there.rstrip('/')}/{called}" if folder_there else str(place)
    server.load(called, there)
    served: dict[str, Plain] = {"name": called, "vllm": server.url, "folder": str(place), "loaded": True}
    _say(session, served, f'{server.url}/v1 answers for the model "{called}".')


def push(
    session: Session,
    job: Id,
    name: Annotated[str, typer.Argument(help="OWNER/NAME on the hub.", metavar="NAME", show_default=False)],
    checkpoint: Checkpoint = "",
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is made.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "",
    out: Annotated[Path | None, typer.Option(help="Only write the files to this folder, and send nothing.")] = None,
) -> None:
    """Send a job's adapter to the Hugging Face hub, with a model card of facts.

    The card names base model, data by sha256 and counts, hyperparameters, losses and what they show. HF_TOKEN says
    who you are, HF_ENDPOINT names another hub. Needs the extra `hub`.
    """
    if out is None and missing("huggingface_hub"):
        hint = "Get it with: pip install 'turnloom[hub]'"
        raise InvalidInput("turnloom push needs huggingface-hub, which is not installed.", hint=hint)
    if out is not None:
        _prepare(session.client, job, checkpoint, name, out)
        _say(session, {"name": name, "folder": str(out)}, f"{escape(str(out))} holds what would be sent.")
        return
    from turnloom.publish import hub  # noqa: PLC0415  # huggingface-hub is optional and slow to import

    hub.check_name(name)
    with tempfile.TemporaryDirectory(prefix="turnloom-push-") as folder:
        facts = _prepare(session.client, job, checkpoint, name, Path(folder))
        text = message or f"Adapter of {job} after step {facts.checkpoint.step}"
        url = hub.push(Path(folder), name, private=private, message=text)
    _say(session, {"name": name, "commit": url, "checkpoint": facts.checkpoint.id}, f"{name} is at {escape(url)}")


def _say(session: Session, document: dict[str, Plain], sentence: str) -> None:
    if session.as_json:
        session.json(document)
    else:
        session.out.print(sentence, highlight=False, soft_wrap=True)


def _prepare(client: TurnloomClient, job: str, checkpoint: str, name: str, folder: Path) -> Facts:
    """Write the adapter's files and the card to a folder."""
    found = client.jobs.retrieve(job)
    saved = _checkpoint(found, client.jobs.checkpoints(job), checkpoint)
    files = client.jobs.download_adapter(job, folder, checkpoint)
    model = next((one for one in client.models.list() if one.name == found.model), None)
    trained = [part.dataset for part in found.mix] or [found.training_dataset]
    facts = Facts(
        run=Run(found, list(client.jobs.steps(job))),
        model=model,
        training=[one for name in trained if (one := _dataset(client, name)) is not None],
        test=_dataset(client, found.test_dataset),
        checkpoint=saved,
        files=[(file.path.name, file.sha256) for file in files],
    )
    (folder / "README.md").write_text(card(name, facts), encoding="utf-8")
    return facts


def _checkpoint(job: tr.Job, kept: list[tr.Checkpoint], wanted: str) -> tr.Checkpoint:
    """Return the wanted checkpoint: the named one, else the last in the store."""
    if wanted:
        found = [one for one in kept if one.id == wanted]
    else:
        found = [one for one in kept if one.stored or one.id == job.last_checkpoint]
    if not found:
        raise FailedPrecondition(
            f"Job {job.id} has no checkpoint {wanted}.".replace(" .", " in the store."),
            hint=f"`turnloom checkpoints {job.id}` lists them.",
        )
    return found[-1]


def _dataset(client: TurnloomClient, identity: str) -> ds.Dataset | None:
    if not identity:
        return None
    try:
        return client.datasets.retrieve(identity)
    except NotFound:
        return None
