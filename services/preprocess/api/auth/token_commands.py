"""`python -m services.preprocess tokens create | list | revoke`: the operator's side of the file of tokens."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from services.preprocess.api.auth.bearer_tokens import create, read, revoke
from services.preprocess.domain.caller import Scope
from services.variables import BadSetting

HELP = """Make, list and revoke the bearer tokens that the API takes. They lie in one file, hashed; running servers read
it again when it changes. docs/security.md has the rules, docs/configuration.md the environment variables."""
EXIT_CODES = "Exit codes: 0 done, 2 the file or an argument can't be used."


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code.

    Raises:
        BadSetting: what is wrong, in one sentence.
    """
    options = _parser().parse_args(arguments)
    path: Path | None = options.file
    if path is None:
        raise BadSetting("TURNLOOM_TOKENS: is not set; set it, or give --file.")
    if options.command == "create":
        print(create(path, options.name, options.scopes))  # noqa: T201  # shown this once
        print(f"Written to {path}. The token is shown this once and kept nowhere.", file=sys.stderr)  # noqa: T201
    elif options.command == "revoke":
        revoke(path, options.name)
        print(f"{options.name} is revoked; servers refuse it from the next call on.", file=sys.stderr)  # noqa: T201
    else:
        for token in read(path):
            print(token.name, ",".join(sorted(token.scopes)), token.created, sep="\t")  # noqa: T201
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.preprocess tokens", description=HELP, epilog=EXIT_CODES)
    default = os.environ.get("TURNLOOM_TOKENS")
    parser.add_argument(
        "--file",
        type=Path,
        default=Path(default) if default else None,
        help="file of the tokens; default: TURNLOOM_TOKENS",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("create", help="add a token and print it")
    making.add_argument("name", help="who or what it is for; owner of what is made with it")
    making.add_argument("--scopes", type=_scopes, required=True, help="of read, submit, admin; with commas between")
    commands.add_parser("list", help="names, scopes and times of creation")
    ending = commands.add_parser("revoke", help="take a token out")
    ending.add_argument("name", help="as `list` shows it")
    return parser


def _scopes(text: str) -> frozenset[Scope]:
    try:
        return frozenset(Scope(word.strip()) for word in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} can't be used; give scopes of {', '.join(Scope)}") from error
