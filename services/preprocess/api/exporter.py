"""Serve metrics over HTTP: those of this process, or those of several processes as one. Imports no gRPC."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from services.preprocess.settings import ApiSettings
from services.variables import BadSetting

#: Variable by which prometheus_client learns where processes put what they count; read when it is imported.
SHARED_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
#: Figures of processes that don't add up; the least counts.
_LEAST: Final = frozenset({"process_start_time_seconds", "process_max_fds"})
_CPU: Final = "process_cpu_seconds"


def serve_metrics(registry: CollectorRegistry, address: str, port: int) -> tuple[WSGIServer, int]:
    """Serve /metrics from a thread and return the server, to shut down, and its port.

    Port 0 asks for a free one.

    Raises:
        OSError: the address is taken.
    """
    server, _ = start_http_server(port, address, registry=registry)
    return server, server.server_port


def exported_port(registry: CollectorRegistry, settings: ApiSettings) -> int:
    """Serve metrics where the settings say so and return the port, 0 where they say nowhere.

    Raises:
        BadSetting: the port is taken.
    """
    if not settings.metrics_port:
        return 0
    try:
        return serve_metrics(registry, settings.metrics_address, max(settings.metrics_port, 0))[1]
    except OSError as error:
        place = f"{settings.metrics_address}:{settings.metrics_port}"
        raise BadSetting(f"TURNLOOM_METRICS_PORT: can't listen on {place} ({error.strerror}); give -1.") from error


def metrics_of(folder: Path, processes: Callable[[], Iterable[int]]) -> CollectorRegistry:
    """Return the metrics of several processes, summed.

    Args:
        folder: where they put what they count.
        processes: ids of those that run now.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(folder))  # type: ignore[no-untyped-call]  # the library has no types there
    registry.register(_Together(processes))
    return registry


def forget_process(process: int, folder: Path) -> None:
    """Drop the gauges of a process that died; what it counted stays counted."""
    mark_process_dead(process, str(folder))  # type: ignore[no-untyped-call]  # the library has no types there


class _Together(Collector):
    """Memory, CPU and files of this process and its own, as if they were one."""

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        """Sum the figures of every process; CPU of those that ended stays counted."""
        found: dict[str, Metric] = {}
        for process in ("self", *self._processes()):
            for metric in ProcessCollector(pid=partial(str, process), registry=None).collect():
                known = found.setdefault(metric.name, metric)
                if known is not metric and metric.samples:
                    one, other = known.samples[0], metric.samples[0]
                    value = min(one.value, other.value) if metric.name in _LEAST else one.value + other.value
                    known.samples[0] = one._replace(value=value)
        if cpu := found.get(_CPU):
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            sample = cpu.samples[0]
            cpu.samples[0] = sample._replace(value=sample.value + ended.ru_utime + ended.ru_stime)
        return found.values()
