"""Command line of the preprocess services: the API, and its worker. The only place that reads the environment."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

from turnloom.optional import missing, needs

with needs("pip install -e '.[preprocess]'", __name__):
    from services.preprocess.settings import ApiSettings, parse_processes, read_settings
    from services.store.errors import StoreError
    from services.store.logs import log_to_stderr
    from services.variables import BadSetting, address

NOT_INSTALLED = 1  #: exit code: an extra is missing
OF_TASKS = ("datasets", "transformers")  #: imported in the process of a task, which has nobody to tell
USAGE_ERROR = 2  #: exit code: settings, models.toml or an address can't be used
NO_REDIS = 3  #: exit code: the worker can't begin without Redis
HELP = """Serve Turnloom's gRPC API (serve, the default), or make datasets of imported sources (worker). Settings are
environment variables, which docs/configuration.md lists; an option here takes the place of one, for serve.
`python -m services.preprocess tokens --help` is about bearer tokens."""
EXIT_CODES = """Exit codes: 0 stopped by a signal, 1 a library is missing, 2 a setting, models.toml or an address can't
be used, 3 the worker can't reach Redis."""


def main(arguments: list[str]) -> int:
    """Run the named command and return the exit code."""
    try:
        if arguments[:1] == ["tokens"]:
            return _tokens(arguments[1:])
        options = _parser().parse_args(arguments)
        settings = _with_flags(read_settings(os.environ), options)
        log_to_stderr(settings.log_level)
        if options.command == "worker":
            return _work(settings)
        return _serve(settings, options.port_file)
    except BadSetting as error:
        return _say(error, USAGE_ERROR)


def _tokens(arguments: list[str]) -> int:
    # Imported here, since the worker needs no tokens.
    from services.preprocess.api.auth.token_commands import main as manage  # noqa: PLC0415

    return manage(arguments)


def _serve(settings: ApiSettings, port_file: Path | None) -> int:
    # Imported here: the worker is forked for each job, and its parent must not hold gRPC.
    if settings.processes > 1:
        from services.preprocess.api.processes import serve_together  # noqa: PLC0415

        return serve_together(settings, port_file)
    from services.preprocess.api.process import serve  # noqa: PLC0415

    return serve(settings, port_file)


def _work(settings: ApiSettings) -> int:
    lacking = [name for name in OF_TASKS if missing(name)]
    if lacking:
        return _say(f"{lacking[0]} is not installed; run pip install -e '.[preprocess-worker]'", NOT_INSTALLED)
    # Imported here: the server needs no worker, and libraries read their settings when imported.
    from services.preprocess.datasets.environment import set_environment  # noqa: PLC0415

    set_environment()
    from services.preprocess.datasets.worker.process import work  # noqa: PLC0415

    try:
        return work(settings)
    except StoreError as error:
        return _say(error, NO_REDIS)


def _say(error: Exception | str, code: int) -> int:
    """Print the error for the person who started the process, and return the exit code."""
    sys.stderr.write(f"services.preprocess: {error}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m services.preprocess",
        description=HELP,
        epilog=EXIT_CODES,
    )
    parser.add_argument("command", nargs="?", choices=("serve", "worker"), default="serve", help="what to run")
    parser.add_argument("--address", type=_address, help="HOST:PORT of gRPC; port 0: a free one")
    parser.add_argument("--port-file", type=Path, help="file that gets one JSON line with the bound address")
    parser.add_argument("--models", type=Path, help="models.toml: which models are served")
    parser.add_argument("--metrics-port", type=int, help="port of /metrics; 0: none, -1: a free one")
    parser.add_argument("--processes", type=_processes, help="how many serve the API together on one port")
    parser.add_argument("--reflection", action="store_true", help="answer gRPC reflection")
    return parser


def _address(text: str) -> str:
    try:
        return address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} can't be used; give HOST:PORT") from error


def _processes(text: str) -> int:
    try:
        return parse_processes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} can't be used; give a number from 1 to 64") from error


def _with_flags(settings: ApiSettings, options: argparse.Namespace) -> ApiSettings:
    """Return the settings overridden by the command-line flags."""
    if options.address is not None:
        settings = replace(settings, address=options.address)
    if options.models is not None:
        settings = replace(settings, models=options.models)
    if options.metrics_port is not None:
        settings = replace(settings, metrics_port=options.metrics_port)
    if options.processes is not None:
        settings = replace(settings, processes=options.processes)
    return replace(settings, reflection=settings.reflection or options.reflection)


if __name__ == "__main__":
    with needs("pip install -e '.[preprocess]'", __name__):
        sys.exit(main(sys.argv[1:]))
