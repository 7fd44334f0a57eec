"""python -m services.trainer [worker | leave | probe-host | supervisor | exporter]: reads settings, starts one of them.

What a command does not need is not imported: the worker is forked for every job and must stay clean.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from turnloom.optional import needs

with needs("pip install -e '.[trainer]'", __name__):
    from services.store.logs import log_to_stderr
    from services.trainer.settings import CompanionSettings, Settings, companion_from_environment, from_environment
    from services.variables import BadSetting

WRONG_SETTINGS = 2  #: exit status
HELP = """Train jobs on a GPU host (worker, the default), or run what watches over jobs and hosts. Settings are
environment variables, which docs/configuration.md lists; docs/deployment.md says what runs where. worker takes jobs for
the TuFT server of this host. leave has the workers of this container save their jobs and end, and waits for it.
probe-host looks at this host and its TuFT server once. supervisor queues jobs of lost workers again, archives ended
ones and removes what is too old. exporter serves metrics to Prometheus."""
EXIT_CODES = """Exit codes: 0 done, or stopped by a signal; 1 a library is missing, or leave or probe-host failed;
2 a setting can't be used, there is no GPU, or another machine has the host's name, another process the port."""
GPU_CHECK_SECONDS = 30
LAST_WORDS_SECONDS = 30.0  #: after its end in which the worker of a job still reports what it released


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the settings, run the named command, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.trainer", description=HELP, epilog=EXIT_CODES)
    parser.add_argument("command", nargs="?", default="worker", choices=sorted(COMMANDS), help="what to run")
    parser.add_argument("--allow-cpu", action="store_true", help="worker: work without an NVIDIA GPU")
    parser.add_argument("--burst", action="store_true", help="worker: end when the queue is empty")
    options = parser.parse_args(arguments)
    if options.allow_cpu:
        os.environ["TURNLOOM_ALLOW_CPU"] = "1"  # the horse and the probe read it there
    try:
        return COMMANDS[options.command](options)
    except BadSetting as error:
        print(error, file=sys.stderr)  # noqa: T201  (one sentence for whoever started it)
        return WRONG_SETTINGS


def worker(options: argparse.Namespace) -> int:
    """Run the RQ worker of this host."""
    settings = _settings()
    if not settings.allow_cpu and not _has_gpu():
        raise BadSetting("no NVIDIA GPU was found on this host; start the worker with --allow-cpu to work without one")
    importlib.import_module("services.trainer.worker").run(settings, burst=options.burst)
    return 0


def leave(_options: argparse.Namespace) -> int:
    """Have the workers of this container save and leave."""
    return 0 if importlib.import_module("services.trainer.host.leaving").run(_settings()) else 1


def probe_host(_options: argparse.Namespace) -> int:
    """Look at the host once."""
    return 0 if importlib.import_module("services.trainer.host.probe_host").run(_settings()) else 1


def supervisor(_options: argparse.Namespace) -> int:
    """Run the supervisor: leases, requeueing, archiving, retention."""
    settings = _companion()
    module = importlib.import_module("services.trainer.supervision.supervisor")
    module.run(
        module.SupervisorSettings(
            redis_url=settings.redis_url,
            store_url=settings.store_url,
            lease_ttl=settings.lease_ttl,
            interval=settings.interval,
            ticket_grace=settings.ticket_grace,
            host_lost=settings.host_lost,
            quota_running=settings.quota_running,
            retention=settings.retention,
            retention_done=settings.retention_done,
            archive_after=LAST_WORDS_SECONDS,
            file_grace=settings.file_grace,
        )
    )
    return 0


def exporter(_options: argparse.Namespace) -> int:
    """Serve Prometheus metrics read from Redis."""
    settings = _companion()
    module = importlib.import_module("services.trainer.supervision.exporter")
    module.run(module.ExporterSettings(settings.redis_url, settings.exporter_host, settings.exporter_port))
    return 0


def _companion() -> CompanionSettings:
    settings = companion_from_environment(os.environ)
    log_to_stderr(settings.log_level, rq_level="WARNING")
    return settings


def _settings() -> Settings:
    settings = from_environment(os.environ)
    log_to_stderr(settings.log_level, rq_level="WARNING")
    return settings


def _has_gpu() -> bool:
    """Return whether the host has a GPU. A child asks NVML: in this process it would be forked into every horse."""
    script = "import sys; from services.trainer.host.gpu import find; sys.exit(0 if find().gpus else 1)"
    return subprocess.run([sys.executable, "-c", script], timeout=GPU_CHECK_SECONDS, check=False).returncode == 0


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "worker": worker,
    "leave": leave,
    "probe-host": probe_host,
    "supervisor": supervisor,
    "exporter": exporter,
}

if __name__ == "__main__":
    with needs("pip install -e '.[trainer]'", __name__):
        sys.exit(main())
