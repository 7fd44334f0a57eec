"""What every command shares: a server, a terminal or --json, and one way to end with an error."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, TypeAlias, cast, get_type_hints

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from turnloom.cli.running.exits import Exit, exit_code
from turnloom.cli.running.interrupts import begin
from turnloom.cli.running.jsonable import Plain
from turnloom.client import TurnloomClient
from turnloom.display.console import SafeConsole
from turnloom.display.visible import visible_json
from turnloom.errors import InvalidInput, TurnloomError, why
from turnloom.transport.calls import Tls

Body: TypeAlias = "Callable[..., None]"  # a Session first, then what its command line says
GAP = 2  #: blanks between the columns of a table
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])  # the base, which Typer does not export
PIPE_WIDTH = 200  #: characters of a line where the output is no terminal: tables stay whole


@dataclass(slots=True)
class Session:
    """One run of one command."""

    client: TurnloomClient
    as_json: bool
    tls: Tls | None = None  #: how the client encrypts; None: it does not
    has_token: bool = False  #: whether the client sends one
    out: Console = field(default_factory=lambda: _console(stderr=False))
    err: Console = field(default_factory=lambda: _console(stderr=True))
    said: set[str] = field(default_factory=set)  #: by say_once()

    def json(self, document: Plain) -> None:
        """Print one JSON document on one line of stdout."""
        sys.stdout.write(visible_json(json.dumps(document, ensure_ascii=False)) + "\n")
        sys.stdout.flush()

    def say(self, markup: str) -> None:
        """Print a remark for people to stderr; with --json print nothing."""
        if not self.as_json:
            self.err.print(markup, soft_wrap=True, highlight=False)

    def say_once(self, markup: str) -> None:
        """Print a remark that several datasets of one command would repeat."""
        if markup not in self.said:
            self.said.add(markup)
            self.say(markup)

    def bullet(self, text: str) -> None:
        """Print a sentence of plain text: wrapped and indented in a terminal, else on one line."""
        if not self.out.is_terminal:
            self.out.print(f"* {escape(text)}", highlight=False, soft_wrap=True)
            return
        line = Table.grid(padding=(0, 1))
        line.add_row("*", escape(text))
        self.out.print(line, highlight=False)

    def table(self, headings: Sequence[str], rows: Iterable[Sequence[str]], empty: str) -> None:
        """Print a table of rich markup.

        Args:
            headings: # marks a column of numbers; ? (before the #) marks one that a narrow terminal drops,
                the first of them first.
            rows: an entry for each heading.
            empty: printed when there is no row.
        """
        lines = list(rows)
        if not lines:
            self.say(empty)
            return
        shown, hidden = _fitting(headings, lines, self.out.width)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index in shown:
            heading = headings[index].lstrip("?")
            table.add_column(
                heading.lstrip("#"), justify="right" if heading.startswith("#") else "left", overflow="fold"
            )
        for line in lines:
            table.add_row(*(line[index] for index in shown))
        self.out.print(table, highlight=False)
        if hidden:
            self.say(f"[dim]A wider terminal also shows: {', '.join(hidden)}. --json has everything.[/]")


def _fitting(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[list[int], list[str]]:
    """Return indices of the columns that fit into a width, and the headings of those dropped."""
    cells = [[heading.lstrip("?#"), *(row[index] for row in rows)] for index, heading in enumerate(headings)]
    widths = [max(Text.from_markup(cell).cell_len for cell in column) for column in cells]
    shown = list(range(len(headings)))
    hidden: list[str] = []
    for index, heading in enumerate(headings):
        if heading.startswith("?") and sum(widths[i] for i in shown) + GAP * (len(shown) - 1) > width:
            shown.remove(index)
            hidden.append(heading.lstrip("?#"))
    return shown, hidden


def _console(*, stderr: bool) -> Console:
    console = SafeConsole(stderr=stderr)
    return console if console.is_terminal else SafeConsole(stderr=stderr, width=PIPE_WIDTH)


Address = Annotated[str, typer.Option(help="host:port of the server.", envvar="TURNLOOM_ADDRESS")]
Token = Annotated[str, typer.Option(help="Bearer token.", envvar="TURNLOOM_TOKEN", show_envvar=True)]
TlsFlag = Annotated[bool, typer.Option("--tls", help="Encrypt the connection.", envvar="TURNLOOM_TLS")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM of the server's authority.", envvar="TURNLOOM_TLS_CA")]
TlsCert = Annotated[Path | None, typer.Option(help="PEM of your certificate (mTLS).", envvar="TURNLOOM_TLS_CERT")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM of its key.", envvar="TURNLOOM_TLS_KEY")]
Json = Annotated[bool, typer.Option("--json", help="JSON for scripts.")]


def _common(
    *,
    address: Address = "127.0.0.1:50051",
    token: Token = "",
    tls: TlsFlag = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    as_json: Json = False,
) -> Session:
    """Make the session from the options that every command takes."""
    files = Tls(tls_ca, tls_cert, tls_key)
    chosen = files if tls or files != Tls() else None
    client = TurnloomClient(address, token or None, tls=chosen)
    return Session(client, as_json, chosen, bool(token))


COMMON = inspect.signature(_common, eval_str=True).parameters


@contextmanager
def mistakes(*, as_json: bool) -> Iterator[None]:
    """Report a mistake of the command line as one JSON document if that is wanted, else leave it to Typer."""
    try:
        yield
    except UsageError as error:
        if not as_json:
            raise
        path = error.ctx.command_path if error.ctx else "turnloom"
        report(InvalidInput(error.format_message(), hint=f"See {path} --help."), as_json=True)
        raise typer.Exit(Exit.BAD_INPUT) from error


class Command(TyperCommand):
    """A command that reports command-line mistakes as JSON with --json, like every other error."""

    def parse_args(self, ctx, args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, D102  # as click has it
        with mistakes(as_json="--json" in args):
            return super().parse_args(ctx, args)


def command(app: typer.Typer, name: str, example: str, kind: type[TyperCommand] = Command) -> Callable[[Body], None]:
    """Add a command that takes a Session first.

    A parameter whose type is a dataclass is a group: its fields are options, and the command gets the group. The
    options of _common() are added to every command.

    Args:
        app: the group to add it to.
        name: its word.
        example: words after `turnloom` that show it; the last line of its help, and of docs/cli.md.
        kind: how its command line is read.
    """

    def decorate(function: Body) -> None:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        groups = {p.name: cast("type", p.annotation) for p in own if is_dataclass(p.annotation)}
        spread = [option for p in own for option in (_options(p.annotation) if p.name in groups else (p,))]

        def run(**values: object) -> None:
            common = {key: values.pop(key) for key in COMMON}
            for key, group in groups.items():
                values[key] = group(**{option.name: values.pop(option.name) for option in fields(group)})
            _run(common, lambda session: function(session, **values))

        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*spread, *COMMON.values())]
        # Typer reads both of these to make the options.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name, cls=kind, epilog=f"Example: turnloom {example}")(run)

    return decorate


def _options(group: type) -> list[inspect.Parameter]:
    """Return the fields of a group as parameters, inherited ones first."""
    hints = get_type_hints(group, include_extras=True)  # resolve each class's types in its own module
    kind = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(f.name, kind, default=f.default, annotation=hints[f.name]) for f in fields(group)]


def _run(common: dict[str, object], body: Callable[[Session], None]) -> None:
    """Run one command; every error of ours becomes one sentence and an exit code."""
    as_json = bool(common["as_json"])
    try:
        begin()
        session = _common(**common)  # type: ignore[arg-type]
        with session.client:
            body(session)
    except TurnloomError as error:
        report(error, as_json=as_json)
        raise typer.Exit(exit_code(error)) from error
    except UnicodeEncodeError as error:  # the command line's bytes, which Python keeps as surrogates
        refused = InvalidInput(f"{str(error.object)!r} is no text in UTF-8.", hint="Write it in UTF-8.")
        report(refused, as_json=as_json)
        raise typer.Exit(exit_code(refused)) from error
    except BrokenPipeError:
        raise  # the reader closed the pipe; click ends quietly
    except OSError as error:
        refused = InvalidInput(_why(error), hint="Name another file or folder.")
        report(refused, as_json=as_json)
        raise typer.Exit(exit_code(refused)) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(Exit.INTERRUPTED) from error


def _why(error: OSError) -> str:
    """Return one sentence, with the path where the error has it."""
    return f"{why(error)}." if error.filename is None else f"{error.filename} can't be used: {why(error)}."


def report(error: TurnloomError, *, as_json: bool) -> None:
    """Print the sentence in red and the hint below it; with --json one document on stderr."""
    if as_json:
        document: Plain = {name: getattr(error, name) for name in ("code", "message", "field", "hint", "retry_after")}
        sys.stderr.write(visible_json(json.dumps({"error": document}, ensure_ascii=False)) + "\n")
        return
    console = _console(stderr=True)
    console.print(f"[bold red]Error:[/] [red]{escape(error.message)}[/]", soft_wrap=True, highlight=False)
    for violation in error.violations[1:]:
        console.print(f"  {escape(f'{violation.field}: {violation.message}')}", soft_wrap=True, highlight=False)
    if error.hint:
        console.print(f"{escape(error.hint)}", soft_wrap=True, highlight=False)


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Return NAME=VALUE options as a dictionary.

    Raises:
        InvalidInput: one has no "=".
    """
    split = [text.partition("=") for text in texts]
    for name, equals, _ in split:
        if not equals:
            raise InvalidInput(f"{option} {name}: there is no '='.", hint=f"Write {option} NAME=VALUE.", field=option)
    return {name.replace("-", "_"): value for name, _, value in split}
