"""Command line of the preprocess services: the API, and its worker. The only place that reads the environment."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from services.preprocess.logs import log_to_stderr
from services.preprocess.metrics import make_metrics, serve_metrics
from services.preprocess.registry import BadModels, Registry, load_entry, read_models
from services.preprocess.sandbox import Sandbox
from services.preprocess.server import AddressTaken, ApiServer
from services.preprocess.settings import ApiSettings, BadSetting, parse_address, read_settings

USAGE_ERROR = 2  #: exit code: settings, models.toml or an address can't be used


def main(arguments: list[str]) -> int:
    """Run what the command line names; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = _with_flags(read_settings(os.environ), options)
        log_to_stderr(settings.log_level)
        if options.command == "worker":
            return _work(settings)
        return serve(settings, options.port_file)
    except (BadSetting, BadModels, AddressTaken) as error:
        print(f"services.preprocess: {error}", file=sys.stderr)  # noqa: T201  # the one sentence for the person who starts it
        return USAGE_ERROR


def serve(settings: ApiSettings, port_file: Path | None) -> int:
    """Serve until SIGTERM or SIGINT, then drain."""
    entries = read_models(settings.models)
    metrics = make_metrics()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    exported = 0
    if settings.metrics_port:
        try:
            _, exported = serve_metrics(metrics, settings.metrics_address, max(settings.metrics_port, 0))
        except OSError as error:
            place = f"{settings.metrics_address}:{settings.metrics_port}"
            raise AddressTaken(f"TURNLOOM_METRICS_PORT: {place} can't be listened on ({error.strerror}).") from error
    with closing(Sandbox()) as sandbox:
        registry = Registry(entries, settings.model_cache, partial(load_entry, sandbox=sandbox))
        with ApiServer(settings, registry, metrics) as address:
            _announce(address, exported, port_file)
            stop.wait()
    return 0


def _announce(address: str, metrics_port: int, port_file: Path | None) -> None:
    """Tell whoever asked for port 0 what was bound."""
    line = json.dumps({"address": address, "metrics_port": metrics_port, "pid": os.getpid()})
    print(line, flush=True)  # noqa: T201  # this is the command's output
    if port_file is not None:
        _write_whole(port_file, line + "\n")


def _work(settings: ApiSettings) -> int:
    # Imported here: the worker's process needs rq and no gRPC server, the server's needs no rq worker.
    from services.preprocess.worker import work  # noqa: PLC0415

    return work(settings)


def _write_whole(path: Path, text: str) -> None:
    """A reader sees the whole line or no file."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.preprocess", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("serve", "worker"), default="serve")
    parser.add_argument("--address", type=_address, help="HOST:PORT of gRPC; port 0: a free one")
    parser.add_argument("--port-file", type=Path, help="file that gets one JSON line with the bound address")
    parser.add_argument("--models", type=Path, help="models.toml")
    parser.add_argument("--metrics-port", type=int, help="port of /metrics; 0: none, -1: a free one")
    parser.add_argument("--reflection", action="store_true", help="answer gRPC reflection")
    return parser


def _address(text: str) -> str:
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT") from error


def _with_flags(settings: ApiSettings, options: argparse.Namespace) -> ApiSettings:
    """Flags win over the environment."""
    if options.address is not None:
        settings = replace(settings, address=options.address)
    if options.models is not None:
        settings = replace(settings, models=options.models)
    if options.metrics_port is not None:
        settings = replace(settings, metrics_port=options.metrics_port)
    return replace(settings, reflection=settings.reflection or options.reflection)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
