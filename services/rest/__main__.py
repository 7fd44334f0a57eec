"""Command line of the OpenAI-compatible HTTP service. The only place that reads the environment."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path

from turnloom.optional import needs

with needs("pip install -e '.[rest]'", __name__):
    import uvicorn

    from services.rest.app import make_app
    from services.rest.file_store import FileStore
    from services.rest.gateway import Gateway
    from services.rest.notices import Notices
    from services.rest.notifier import Notifier
    from services.rest.problems import Problem
    from services.rest.settings import RestSettings, read_settings
    from services.variables import BadSetting, address, parsed

USAGE_ERROR = 2  #: exit code: settings or the address can't be used
HELP = """Serve OpenAI's fine-tuning API over HTTP in front of Turnloom's gRPC API (serve, the default), or tell
webhooks of jobs that ended (notify). Settings are environment variables, which docs/configuration.md lists;
docs/openai.md lists the routes."""
EXIT_CODES = "Exit codes: 0 stopped by a signal, 1 a library is missing, 2 a setting or the address can't be used."


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.rest", description=HELP, epilog=EXIT_CODES)
    parser.add_argument("command", nargs="?", choices=("serve", "notify"), default="serve", help="what to run")
    parser.add_argument("--address", help="HOST:PORT of HTTP instead of TURNLOOM_REST_ADDRESS; port 0: a free one")
    parser.add_argument("--port-file", type=Path, help="file that gets one JSON line with the bound address")
    options = parser.parse_args(arguments)
    try:
        settings = read_settings(os.environ)
        if options.address:
            settings = replace(settings, address=parsed("--address", options.address, address, "HOST:PORT"))
        return _notify(settings) if options.command == "notify" else _serve(settings, options.port_file)
    except (BadSetting, Problem) as error:
        sys.stderr.write(f"services.rest: {error}\n")
        return USAGE_ERROR


def _notify(settings: RestSettings) -> int:
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    gateway = Gateway(settings.api, settings.api_tls)
    turnloom, notices = gateway.of(settings.notify_token), Notices(FileStore(settings.files_url))
    sys.stderr.write(f"services.rest: tells of jobs at {settings.api}\n")
    Notifier(settings, turnloom, notices).run(ended)
    gateway.close()
    return 0


def _serve(settings: RestSettings, port_file: Path | None) -> int:
    host, _, port = settings.address.rpartition(":")
    host = host.strip("[]")
    try:
        listening = socket.create_server(
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    except OSError as error:
        raise BadSetting(
            f"TURNLOOM_REST_ADDRESS: can't listen on {settings.address} ({error.strerror or error}); "
            "end the process that has it, or give another address"
        ) from error
    config = uvicorn.Config(
        make_app(settings),
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=20,
        timeout_keep_alive=75,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        server_header=False,
    )
    bound = f"{settings.address.rpartition(':')[0]}:{listening.getsockname()[1]}"
    if port_file is not None:
        part = port_file.with_name(f"{port_file.name}.part")
        part.write_text(json.dumps({"address": bound}) + "\n", encoding="utf-8")
        part.replace(port_file)
    sys.stderr.write(f"services.rest: listens at {bound}, asks {settings.api}\n")
    with listening:
        uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    with needs("pip install -e '.[rest]'", __name__):
        sys.exit(main(sys.argv[1:]))
