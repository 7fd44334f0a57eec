"""Start TuFT: `launch` on a GPU host, `launch-cpu` without one. Runs in TuFT's environment, by name or by path.

python -m services.tuft launch --config gpu.yaml --port 10610            (options of `tuft launch`)
python -m services.tuft launch-cpu --config cpu.yaml --port 10610 [--parent PID] [--pid-file FILE]
"""

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
    print(__doc__, file=sys.stderr)  # noqa: T201
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
