"""The API process from start to end: models, metrics, server, sandbox; SIGTERM drains."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from services.preprocess.api.announce import announce
from services.preprocess.api.exporter import exported_port
from services.preprocess.api.metrics import ApiMetrics, make_metrics
from services.preprocess.api.server import ApiServer
from services.preprocess.models.registry import Registry, load_entry, read_models
from services.preprocess.settings import ApiSettings
from turnloom.masks.domain.gc_pause import settle_collector
from turnloom.masks.domain.memory import one_heap
from turnloom.masks.sandbox.pool import Sandbox

LOG = logging.getLogger("turnloom.api")
#: Between looks for a signal, which does not wake this thread where another one of the process received it.
SIGNAL_SECONDS: Final = 0.5
#: That a thread may keep the interpreter while another asks for it: a short call takes it some ten times.
SWITCH_SECONDS: Final = 0.001


def serve(settings: ApiSettings, port_file: Path | None) -> int:
    """Serve until SIGTERM or SIGINT, then drain."""
    metrics = make_metrics()
    exported = exported_port(metrics.registry, settings)
    return _serve(settings, metrics, lambda address: announce(address, exported, port_file), shared=False)


def serve_shared(settings: ApiSettings, told: Connection) -> int:
    """Serve as one of several processes on a port, until SIGTERM, SIGINT or the end of its parent.

    Args:
        settings: without metrics; the parent exports them.
        told: gets True once it listens.
    """
    return _serve(settings, make_metrics(), lambda _: told.send(True), shared=True)


def _serve(settings: ApiSettings, metrics: ApiMetrics, listening: Callable[[str], None], *, shared: bool) -> int:
    one_heap()
    sys.setswitchinterval(SWITCH_SECONDS)
    entries = read_models(settings.models)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    parent = multiprocessing.parent_process()
    with closing(Sandbox()) as sandbox:
        registry = Registry(entries, settings.model_cache, partial(load_entry, sandbox=sandbox))
        server = ApiServer(settings, registry, metrics, shared=shared, loaded=settle_collector)
        with server as address:
            listening(address)
            while not stop.wait(SIGNAL_SECONDS) and (parent is None or parent.is_alive()):
                pass
    if server.busy:
        # Python would wait for these threads, although no caller waits for their answers any more.
        LOG.warning("calls that did not end are left", extra={"calls": server.busy})
        logging.shutdown()
        os._exit(0)
    return 0
