"""The API process from start to end: models, metrics, server, sandbox; SIGTERM drains."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

from services.preprocess.api.metrics import make_metrics, serve_metrics
from services.preprocess.api.server import AddressTaken, ApiServer
from services.preprocess.models.registry import Registry, load_entry, read_models
from services.preprocess.settings import ApiSettings
from turnloom.masks.domain.memory import one_heap
from turnloom.masks.sandbox.pool import Sandbox

LOG = logging.getLogger("turnloom.api")
#: Between looks for a signal, which does not wake this thread where another one of the process received it.
SIGNAL_SECONDS: Final = 0.5
#: That a thread may keep the interpreter while another asks for it: a short call takes it some ten times.
SWITCH_SECONDS: Final = 0.001


def serve(settings: ApiSettings, port_file: Path | None) -> int:
    """Serve until SIGTERM or SIGINT, then drain."""
    one_heap()
    sys.setswitchinterval(SWITCH_SECONDS)
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
        server = ApiServer(settings, registry, metrics)
        with server as address:
            _announce(address, exported, port_file)
            while not stop.wait(SIGNAL_SECONDS):
                pass
    if server.busy:
        # Python would wait for these threads, although no caller waits for their answers any more.
        LOG.warning("calls that did not end are left", extra={"calls": server.busy})
        logging.shutdown()
        os._exit(0)
    return 0


def _announce(address: str, metrics_port: int, port_file: Path | None) -> None:
    """Announce the bound port to whoever asked for port 0."""
    line = json.dumps({"address": address, "metrics_port": metrics_port, "pid": os.getpid()})
    print(line, flush=True)  # noqa: T201  # this is the command's output
    if port_file is not None:
        _write_whole(port_file, line + "\n")


def _write_whole(path: Path, text: str) -> None:
    """Write a file atomically: a reader sees the whole line or no file."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
    Path(file.name).replace(path)
