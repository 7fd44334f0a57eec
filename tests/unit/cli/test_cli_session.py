from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from tests.support.cli_runs import turnloom
from turnloom.cli.running.session import Session, command, report
from turnloom.client import TurnloomClient
from turnloom.errors import ResourceExhausted

NOBODY = "127.0.0.1:1"
HEADINGS = ("id", "?model", "state", "?#attempt", "age")
ROW = ("job-0123456789ab", "[b]some/long-model[/]", "SUCCEEDED", "1", "3:20 ago")


def table(width: int) -> tuple[str, str]:
    """What goes to stdout and to stderr at this width of a terminal."""
    out, err = (Console(file=io.StringIO(), width=width, color_system=None) for _ in range(2))
    with TurnloomClient(NOBODY) as client:
        Session(client, False, out=out, err=err).table(HEADINGS, [ROW], "none")
    return out.file.getvalue(), err.file.getvalue()  # type: ignore[attr-defined]  # both are StringIO


def test_a_table_that_fits_is_whole() -> None:
    out, err = table(63)
    assert out.splitlines()[0].split() == ["id", "model", "state", "attempt", "age"]
    assert err == ""


@pytest.mark.parametrize(("width", "left", "gone"), [(62, "attempt", "model"), (44, "age", "model, attempt")])
def test_a_narrow_terminal_leaves_columns_out_and_says_which_but_cuts_no_id_in_two(
    width: int, left: str, gone: str
) -> None:
    out, err = table(width)
    assert left in out
    assert ROW[0] in out
    assert ROW[2] in out
    assert "some/long-model" not in out
    assert f"A wider terminal also shows: {gone}. --json has everything." in err.replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("jobs", "--bogus"), "No such option: --bogus"),
        (("job", "show"), "Missing argument 'JOB'."),
        (("train", "x.jsonl", "--lr", "abc"), "Invalid value for '--lr' / '--learning-rate'"),
        (("steps", "job-1", "--from", "-1"), "Invalid value for '--from'"),
        (("steps", "job-1", "--from", "4294967296"), "Invalid value for '--from'"),
        (("lint", "x.jsonl", "--offenders", "4294967296"), "Invalid value for '--offenders'"),
        (("sample", "job-1", "Hi", "--max-tokens", "0"), "Invalid value for '--max-tokens'"),
        (("train", "x.jsonl", "--sample-max-tokens", "0"), "Invalid value for '--sample-max-tokens'"),
        (("job",), "No such option: --json"),
        (("nope",), "No such command 'nope'."),
        (("trian", "x.jsonl"), "No such command 'trian'."),
        (("dataset", "nope"), "No such command 'nope'."),
        (("--bogus", "jobs"), "No such option: --bogus"),
        (("sweep", "x.jsonl", "--eta", "-1"), "Invalid value for '--eta'"),
        (("sweep", "x.jsonl", "--rungs", "4", "-1"), "Invalid value for '--rungs'"),
    ],
)
def test_a_mistake_of_the_command_line_is_one_json_document_with_json(words: tuple[str, ...], sentence: str) -> None:
    refused = turnloom(NOBODY, *words, "--json")
    assert refused.code == 2
    assert len(refused.err.splitlines()) == 1
    assert refused.error["message"].startswith(sentence)
    assert "--help" in refused.error["hint"]
    told = turnloom(NOBODY, *words)
    assert "Usage: turnloom" in told.out + told.err


def test_a_refusal_hands_the_servers_wait_on_to_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    for wait in (60.0, None):
        report(ResourceExhausted("No.", hint="Later.", code="QUOTA_REACHED", retry_after=wait), as_json=True)
        assert json.loads(capsys.readouterr().err)["error"] == {
            "code": "QUOTA_REACHED",
            "message": "No.",
            "field": "",
            "hint": "Later.",
            "retry_after": wait,
        }


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device", "steps.csv")

    monkeypatch.setattr("turnloom.cli.export.fetch", full)
    monkeypatch.setattr("turnloom.cli.comparing.jobs_of", lambda *_: [])
    refused = turnloom(NOBODY, "export", "job-1")
    assert refused.code == 2
    assert refused.err == "Error: steps.csv can't be used: No space left on device.\nName another file or folder.\n"


def test_an_address_of_the_wrong_form_says_how_to_write_it() -> None:
    for address in ("127.0.0.1", "http://127.0.0.1:50051", "127.0.0.1:99999"):
        refused = turnloom(address, "jobs", "--json")
        assert refused.code == 3
        assert refused.error["code"] == "UNAVAILABLE"
        assert refused.error["hint"] == "Write --address or TURNLOOM_ADDRESS as HOST:PORT, without http://."


@dataclass(frozen=True, slots=True)
class Fruit:
    apples: Annotated[int, typer.Option(help="How many.")] = 1
    pears: Annotated[list[str] | None, typer.Option()] = None


@dataclass(frozen=True, slots=True)
class Basket(Fruit):
    lid: Annotated[bool, typer.Option("--lid")] = False


def test_a_group_of_options_is_spliced_into_the_command_and_comes_as_one_value() -> None:
    app = typer.Typer()
    seen: list[tuple[str, Basket]] = []

    def pick(session: Session, tree: Annotated[str, typer.Argument()], *, basket: Basket) -> None:
        seen.append((tree, basket))

    command(app, "pick", "pick oak")(pick)
    app.callback()(lambda: None)
    for words in (["oak"], ["elm", "--apples", "3", "--pears", "a", "--pears", "b", "--lid"]):
        assert CliRunner().invoke(app, ["pick", *words], catch_exceptions=False).exit_code == 0
    assert seen == [("oak", Basket()), ("elm", Basket(3, ["a", "b"], True))]
    assert "Example: turnloom pick oak" in CliRunner().invoke(app, ["pick", "--help"]).output


@pytest.mark.parametrize("terminal", [True, False])
def test_a_verdict_is_broken_at_words_in_a_terminal_and_whole_in_a_file(terminal: bool) -> None:
    out = Console(file=io.StringIO(), width=30, color_system=None, force_terminal=terminal)
    sentence = "Within noise of it: rank 8, rate 1e-4 [+0.0012]; rank 32."
    with TurnloomClient(NOBODY) as client:
        Session(client, False, out=out).bullet(sentence)
    lines = out.file.getvalue().splitlines()  # type: ignore[attr-defined]  # a StringIO
    assert " ".join(line.removeprefix("* ").strip() for line in lines) == sentence
    assert all(len(line) <= 30 for line in lines) is terminal
    assert [line[:2] for line in lines] == ["* ", *["  "] * (len(lines) - 1)]


def test_lr_auto_says_its_rate_and_why_and_refuses_a_name_without_a_size(tmp_path: Path) -> None:
    none = tmp_path / "none.jsonl"  # nothing is read or sent before the rate is known
    said = turnloom(NOBODY, "train", none, "-m", "org/Some-4B", "--lr", "auto", "--batch-size", 64)
    assert said.err.startswith("Learning rate 6e-4 for 4B parameters at batch size 64 (--lr auto).")
    assert "There is no file" in said.err
    refused = turnloom(NOBODY, "train", none, "-m", "gpt2", "--lr", "auto", "--json")
    assert (refused.code, refused.error["field"]) == (2, "--lr")


@pytest.mark.parametrize("words", [("job", "show", "\udcff"), ("jobs", "--label", "a=\udcff"), ("pause", "a\udcffb")])
def test_bytes_of_the_command_line_that_are_no_utf_8_are_refused_as_a_bad_command_line(words: tuple[str, ...]) -> None:
    refused = turnloom(NOBODY, *words)
    assert refused.code == 2
    assert refused.err.splitlines() == [
        f"Error: {words[-1].removeprefix('a=')!r} is no text in UTF-8.",
        "Write it in UTF-8.",
    ]
    assert turnloom(NOBODY, *words, "--json").error["hint"] == "Write it in UTF-8."


def test_a_token_that_can_not_be_sent_is_a_bad_option() -> None:
    refused = turnloom(NOBODY, "jobs", "--token", "a\nb", "--json")
    assert (refused.code, refused.error["field"]) == (2, "token")
