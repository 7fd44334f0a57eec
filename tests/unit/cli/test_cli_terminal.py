"""What a command does before it works: what it loads, Ctrl-C, and texts that would steer a terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.support.cli_runs import turnloom
from turnloom.cli.app import MODULES
from turnloom.cli.running.exits import Exit
from turnloom.cli.running.interrupts import INTERRUPTED
from turnloom.display.console import SafeConsole
from turnloom.display.visible import CONTROL, controls, visible, visible_json

SMALL = [["jobs"], ["dataset", "list"], ["hosts"], ["sweeps", "--help"], ["--version"], ["--help"]]
DANGEROUS = st.text(
    st.sampled_from(["a", "é", "\n", "\t", "\x1b", "\x9b", "\x07", "\x7f", "\u202e", "\u2066", "[", "]", " "])
)


def rendered(*things: object, colours: bool = False) -> str:
    console = SafeConsole(file=io.StringIO(), width=400, color_system="standard" if colours else None)
    if colours:
        console._force_terminal = True
    console.print(*things, markup=False, highlight=False, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@given(DANGEROUS)
def test_no_text_reaches_a_terminal_with_a_control_character(text: str) -> None:
    table = Table(box=None)
    table.add_column("heading")
    table.add_row(Text(text))
    for shown in (rendered(text), rendered(Text(text)), rendered(table)):
        assert not set(shown) & (CONTROL - {"\n", "\t"})


@given(DANGEROUS)
def test_json_stays_the_same_document_without_a_control_character(text: str) -> None:
    document = visible_json(json.dumps({"name": text}, ensure_ascii=False))
    assert not set(document) & CONTROL
    assert json.loads(document) == {"name": text}


@given(DANGEROUS)
def test_a_name_has_controls_exactly_where_it_is_not_visible_as_it_is(text: str) -> None:
    assert bool(controls(text)) == (visible(text) != text or "\n" in text or "\t" in text)


def test_escapes_name_the_character_and_the_consoles_own_colours_stay() -> None:
    assert rendered("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\u202ec\n"
    coloured = rendered(Text("x\x1b", style="red"), colours=True)
    assert coloured.startswith("\x1b[31m")
    assert "\\x1b" in coloured


def test_consoles_of_commands_are_safe_ones() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("cli", "embedded")
        for path in (Path(__file__).parents[3] / "turnloom" / folder).glob("*.py")
    )
    assert "= Console(" not in source
    assert issubclass(SafeConsole, Console)


@pytest.mark.parametrize(
    "words", [["jobs"], ["dataset", "list"], ["hosts"], ["sweeps", "--help"], ["--version"], ["--help"]]
)
def test_a_small_command_loads_no_numpy_and_no_stack(words: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from turnloom.cli.app import app\n"
        f"try: app({words!r} + (['--address', '127.0.0.1:1'] if '--' not in {words[-1]!r} else []))\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'pyarrow', 'matplotlib', 'turnloom.embedded.stack') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


def test_every_command_is_found_in_the_module_that_is_named_for_it() -> None:
    for word in MODULES:
        assert turnloom("127.0.0.1:1", word, "--help").code == 0
    assert all(summary.endswith(".") and len(summary) < 60 for _, summary in MODULES.values())
    shown = turnloom("127.0.0.1:1", "--help").out
    assert all(word in shown for word in MODULES)
    refused = turnloom("127.0.0.1:1", "jbos")
    assert (refused.code, "No such command 'jbos'" in refused.err) == (2, True)


@pytest.mark.parametrize("module", ["turnloom.cli.app", "turnloom.cli.jobs", "turnloom.client", "grpc"])
def test_ctrl_c_while_a_command_is_still_loading_ends_it_without_a_word(module: str, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["turnloom", "jobs"]
from turnloom.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")
    assert Exit.INTERRUPTED == INTERRUPTED


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_whose_output_is_closed_does_its_work(tmp_path: Path, closed: str) -> None:
    for number, option in enumerate(("", "--json")):
        path = tmp_path / f"{number}.toml"
        line = f'"{sys.executable}" -m turnloom.cli init "{path}" {option} {closed}'
        assert subprocess.run(["/bin/sh", "-c", line], check=False).returncode == 0
        assert path.exists()
