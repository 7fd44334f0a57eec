"""`make demo`: train a LoRA adapter from conversations on this machine's CPU, with its curve and honest numbers.

    python -m turnloom.demo [--data my.jsonl] [--tuft-python .venv-tuft/bin/python] [--verify]

Starts the embedded stack in a temporary folder and uses it as any client does. Leaves ./turnloom-demo: adapter/,
steps.csv, nll.png, results.json.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, cast

from turnloom.optional import needs

with needs("pip install -e '.[embedded]'", __name__):
    import numpy as np
    import typer
    from rich.markup import escape

    from turnloom.cli.running.exits import Exit, exit_code
    from turnloom.cli.running.session import Session, report
    from turnloom.cli.watching import show
    from turnloom.client import TurnloomClient
    from turnloom.demo.findings import Findings
    from turnloom.demo.plot import plot_nll
    from turnloom.demo.unigram import unigram_nll
    from turnloom.display.live import JobView, test_nll, train_nll
    from turnloom.display.words import count, many
    from turnloom.embedded import sample_data
    from turnloom.embedded.processes import on_child_death, sigterm_unwinds, undisturbed
    from turnloom.embedded.sample_data import SampleConversation
    from turnloom.embedded.stack import MODEL, Stack, StackSettings
    from turnloom.errors import StackError, TurnloomError
    from turnloom.plural import counted
    from turnloom.reading.local_sources import read
    from turnloom.reading.splitting import split
    from turnloom.v1 import datasets_pb2, training_pb2
    from turnloom.wire.batches import Float32, Int32
    from turnloom.wire.conversations import to_json
    from turnloom.wire.options import HyperparameterFields

MAX_LENGTH: Final = 1024  #: tokens, the tiny model's context
TEST_FRACTION: Final = 0.15  #: of the user's own conversations
STEPS: Final = 160
VERIFY_STEPS: Final = 5
REPLY_TOKENS: Final = 40
RECIPE: Final[HyperparameterFields] = {
    "lora_rank": 16,
    "learning_rate": 4e-3,
    "schedule": "linear",
    "warmup_steps": 5,
    "batch_size": 16,
    "eval_every": 20,
    "checkpoint_every": 0,
}


@dataclass(frozen=True, slots=True)
class Splits:
    """Training and held-out conversations."""

    train: Sequence[SampleConversation]
    test: Sequence[SampleConversation]

    @classmethod
    def of(cls, data: Path | None, seed: int) -> Splits:
        """Split the sample, or the user's file.

        Raises:
            InvalidInput: names the line of the file.
        """
        if data is None:
            return cls(sample_data.train_conversations(), sample_data.held_out_conversations())
        own = [cast(SampleConversation, to_json(conversation)) for conversation in read(data)]
        return cls(*split(own, TEST_FRACTION, seed))


@dataclass(slots=True)
class Demo:
    """One run on a started stack."""

    session: Session
    findings: Findings
    folder: Path  #: where results go
    steps: int
    seed: int

    @property
    def client(self) -> TurnloomClient:
        """A client of the stack."""
        return self.session.client

    def run(self, splits: Splits, *, verify: bool) -> None:
        """Preprocess, train, compare, fetch the adapter and plot."""
        findings = self.findings
        with self.phase("preprocessing"):
            train = self.make_dataset("train", splits.train)
            test = self.make_dataset("test", splits.test)
            shuffled = self.make_dataset("test, replies shuffled", sample_data.shuffled_replies(splits.test))
            findings.unigram_nll = self.unigram(train, test)
        with self.phase("training"):
            job = self.job(train, test, self.steps)
            series = list(self.client.jobs.steps(job))
            evaluated = [nll for step in series if (nll := test_nll(step)) is not None]
            findings.steps = self.steps
            findings.start_nll, findings.test_nll = evaluated[0], evaluated[-1]
            findings.train_nll = train_nll(series[-1]) or 0.0
        with self.phase("test on shuffled replies"):
            # A job is evaluated before its first step: this one measures the trained adapter on these replies.
            start = training_pb2.StartFrom(job=job, weights_only=True)
            first = next(self.client.jobs.steps(self.job(train, shuffled, 1, start)))
            findings.shuffled_nll = test_nll(first) or 0.0
        if verify:
            with self.phase("verifying"):
                start = training_pb2.StartFrom(job=job)
                once, again = (self.job(train, test, VERIFY_STEPS, start) for _ in range(2))
                findings.verified = self.exact(once) == self.exact(again)
        with self.phase("adapter and plot"):
            self.keep(job, series)
        with self.phase("replies"):
            self.ask(job, splits.test)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase and measure its time."""
        self.session.say(f"[bold]{name.capitalize()}[/]")
        began = time.monotonic()
        yield
        self.findings.seconds[name] = time.monotonic() - began

    def make_dataset(self, name: str, conversations: Sequence[SampleConversation]) -> str:
        """Send conversations and return the dataset's id."""
        dataset = self.client.datasets.create(
            cast("Sequence[dict[str, object]]", conversations),  # type: ignore[arg-type]  # a TypedDict is a Mapping too
            model=MODEL,
            display_name=name,
            max_length=MAX_LENGTH,
        )
        if dataset.state != datasets_pb2.DATASET_STATE_READY:
            raise StackError(f"The dataset {name} was not made: {dataset.error.message}", hint=dataset.error.hint)
        self.session.say(
            f"  {name}: {counted(dataset.conversations, 'conversation')}, {many(dataset.tokens, 'token')},"
            f" {count(dataset.loss_tokens)} of them trained"
        )
        return dataset.id

    def unigram(self, train: str, test: str) -> float:
        """Return the NLL of the test split under the train split's token frequencies."""
        (model,) = self.client.models.list()
        vocabulary = model.vocabulary_size
        return unigram_nll(*self.targets(train), *self.targets(test), vocabulary)

    def targets(self, dataset: str) -> tuple[Int32, Float32]:
        """Return the targets of all rows end to end, and their weights."""
        rows = [row for batch in self.client.datasets.download(dataset) for row in batch]
        return np.concatenate([r.target_ids for r in rows]), np.concatenate([r.target_weights for r in rows])

    def job(self, train: str, test: str, steps: int, start_from: training_pb2.StartFrom | None = None) -> str:
        """Run a job to its end and return its id; show progress unless it starts from another job.

        Raises:
            StackError: it did not succeed.
        """
        fields: HyperparameterFields = {**RECIPE, "max_steps": steps, "seed": self.seed}
        job = self.client.jobs.create(
            model=MODEL, training_dataset=train, test_dataset=test, start_from=start_from, **fields
        )
        if start_from is None and not self.session.as_json:
            show(self.session, JobView(job))
        else:
            deque(self.client.jobs.watch(job.id), maxlen=0)  # to the end
        done = self.client.jobs.retrieve(job.id)
        if done.state != training_pb2.JOB_STATE_SUCCEEDED:
            raise StackError(
                f"{job.id} did not succeed: {done.error.message}", hint=done.error.hint, code=done.error.code
            )
        return job.id

    def exact(self, job: str) -> list[tuple[int, float, float]]:
        """Return what two runs must agree on to the last bit."""
        return [(step.step, step.nll_sum, step.test_nll_sum) for step in self.client.jobs.steps(job)]

    def keep(self, job: str, series: Sequence[training_pb2.Step]) -> None:
        """Write adapter, steps.csv and the plot."""
        findings = self.findings
        adapter, plot = self.folder / "adapter", self.folder / "nll.png"
        self.client.jobs.download_adapter(job, adapter)
        with (self.folder / "steps.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                ("step", "epoch", "train_nll", "test_nll", "tokens", "loss_tokens", "learning_rate", "seconds")
            )
            for step in series:
                spent = sum(step.phase_seconds.values())
                losses = train_nll(step), test_nll(step)
                writer.writerow(
                    (step.step, step.epoch, *losses, step.tokens, step.loss_tokens, step.learning_rate, spent)
                )
        levels = {"unigram on test": findings.unigram_nll, "shuffled replies": findings.shuffled_nll}
        plot_nll(plot, series, levels, f"LoRA rank {RECIPE['lora_rank']} on {MODEL}, {job}")
        findings.adapter, findings.plot = str(adapter), str(plot)

    def ask(self, job: str, held_out: Sequence[SampleConversation]) -> None:
        """Let the trained adapter and the base model answer a conversation that was held out."""
        for conversation in held_out:
            roles = [message["role"] for message in conversation["messages"]]
            first = roles.index("assistant") if "assistant" in roles else 0
            if first and isinstance(conversation["messages"][first - 1].get("content"), str):
                break
        else:
            return
        asked = cast("dict[str, Any]", {**conversation, "messages": conversation["messages"][:first]})
        findings = self.findings
        findings.prompt = conversation["messages"][first - 1]["content"]
        findings.reply, findings.base_reply = (
            self.client.jobs.sample(job, asked, max_tokens=REPLY_TOKENS, temperature=0, base=base).text
            for base in (False, True)
        )


def main(
    *,
    data: Annotated[Path | None, typer.Option(help="Your conversations, JSONL. Default: the sample.")] = None,
    tuft_python: Annotated[Path | None, typer.Option(help="Interpreter of the TuFT environment.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("turnloom-demo"),
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = STEPS,
    seed: Annotated[int, typer.Option(help="Of the order, and of the split of --data.")] = 0,
    verify: Annotated[bool, typer.Option("--verify", help="Also run twice from one checkpoint and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Results as one JSON document.")] = False,
) -> None:
    """Train a LoRA adapter on a real TuFT server on this machine's CPU, end to end.

    Exit codes: 0 done, 1 it learned less than it should, 2 bad input, 5 a part of the stack ended, 130 interrupted.
    """
    state = Path(tempfile.mkdtemp(prefix="turnloom-demo-"))
    findings = Findings()
    try:
        splits = Splits.of(data, seed)
        out.mkdir(parents=True, exist_ok=True)
        settings = StackSettings(
            state,
            tuft_python,
            conversations=_text_for_the_tokenizer(state, splits),
            say=lambda part: None if as_json else typer.echo(f"  {part}", err=True),
        )
        with sigterm_unwinds():
            _run(settings, splits, findings, out, steps=steps, seed=seed, verify=verify, as_json=as_json)
    except TurnloomError as error:
        _keep_logs(state, out)
        error.hint = error.hint.replace(str(state / "logs"), str(out / "logs"))
        report(error, as_json=as_json)
        raise typer.Exit(exit_code(error)) from error
    except KeyboardInterrupt as error:
        typer.echo("Interrupted; everything was stopped.", err=True)
        raise typer.Exit(Exit.INTERRUPTED) from error
    finally:
        with undisturbed():
            shutil.rmtree(state, ignore_errors=True)
    shortcomings = list(findings.shortcomings()) if data is None and steps >= STEPS else []
    for shortcoming in shortcomings:
        report(StackError(shortcoming), as_json=as_json)
    if shortcomings:
        raise typer.Exit(Exit.JOB_FAILED)


def _text_for_the_tokenizer(state: Path, splits: Splits) -> list[Path]:
    """Write train and test: the tokenizer may see the words of both, the weights see train only."""
    path = state / "conversations.jsonl"
    sample_data.write_jsonl(path, [*splits.train, *splits.test])
    return [path]


def _run(
    settings: StackSettings,
    splits: Splits,
    findings: Findings,
    out: Path,
    *,
    steps: int,
    seed: int,
    verify: bool,
    as_json: bool,
) -> None:
    """Start the stack, run the demo on it and stop the stack."""
    began = time.monotonic()
    if not as_json:
        typer.echo("Starting the stack", err=True)
    with Stack(settings) as stack, TurnloomClient(stack.address) as client:
        session = Session(client, as_json)
        findings.seconds["starting"] = time.monotonic() - began
        session.say(f"  all of it runs; the API is at {stack.address}")
        with on_child_death(stack.check):
            Demo(session, findings, out, steps, seed).run(splits, verify=verify)
        stopping = time.monotonic()
    findings.seconds["stopping"] = time.monotonic() - stopping
    (out / "results.json").write_text(json.dumps(findings.to_plain(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(findings.to_plain()))
        return
    session.out.print(findings.numbers(), highlight=False)
    session.out.print(findings.replies(), highlight=False)
    session.out.print(f"adapter  {escape(findings.adapter)}\nplot     {escape(findings.plot)}", highlight=False)
    session.out.print(findings.times(), highlight=False, soft_wrap=True)


def _keep_logs(state: Path, out: Path) -> None:
    """Copy the logs out of the temporary folder after a failure."""
    for log in (*(state / "logs").glob("*.log"), *(state / "tuft").glob("*.log")):
        (out / "logs").mkdir(parents=True, exist_ok=True)
        shutil.copy(log, out / "logs")


if __name__ == "__main__":
    typer.run(main)
