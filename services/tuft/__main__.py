"""Start TuFT: `launch` on a GPU host, `launch-cpu` without one. Runs in TuFT's environment, by name or by path."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Final

if not __package__:  # by path, from an interpreter that has no turnloom: only this package becomes importable
    sys.path.pop(0)
    services = ModuleType("services")
    services.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["services"] = services

NEEDED: Final = ("tuft", "ray", "psutil")  #: of TuFT's environment
WHERE: Final = "run it by the one of scripts/install_tuft_cpu.sh, or on a GPU host in the image turnloom/tuft-gpu"
HELP: Final = """usage: python -m services.tuft [-h] {launch,launch-cpu} ...

Start TuFT: launch on a GPU host, with Turnloom's accelerated model; launch-cpu without a GPU. Run it by the Python of
TuFT's environment. docs/configuration.md lists the environment variables, docs/deployment.md the settings of a host.

python -m services.tuft launch --config gpu.yaml --port 10610            (options of `tuft launch`)
python -m services.tuft launch-cpu --config cpu.yaml --port 10610 [--parent PID] [--pid-file FILE]

Exit codes: 0 stopped by a signal, 1 a library or setting is missing or wrong, 2 wrong arguments; others are TuFT's.
"""


def main(arguments: list[str]) -> int:
    """Run the named command; outside TuFT's environment say so."""
    try:
        return run(arguments)
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        sys.exit(f"services.tuft: {error.name} is not installed in this Python; {WHERE}")


def run(arguments: list[str]) -> int:
    """Run the named command."""
    if arguments[:1] == ["launch"]:
        from services.tuft.launch import launch  # noqa: PLC0415  (the other command's keeper stays small)

        launch(arguments[1:])
        return 0
    if arguments[:1] == ["launch-cpu"]:
        from services.tuft.launch_cpu import launch_cpu  # noqa: PLC0415

        return launch_cpu(arguments[1:])
    if arguments[:1] in (["--help"], ["-h"]):
        sys.stdout.write(HELP)
        return 0
    sys.stderr.write(HELP)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
