"""Serve replies of a base model and of saved LoRA adapters, for a host whose TuFT server trains only.

python services/sampler/__main__.py --model FOLDER --model-name NAME --checkpoints FOLDER --port-file FILE

Runs in TuFT's environment (torch, transformers, peft), in a process of its own and beside training. It has one thread,
a lower priority, and a bound on its memory. TURNLOOM_TUFT_API_KEY is the key that callers must send.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from pathlib import Path
from types import ModuleType

if not __package__:  # by path, from an interpreter that has no turnloom: only this package becomes importable
    sys.path.pop(0)
    services = ModuleType("services")
    services.__path__ = [str(Path(__file__).resolve().parents[1])]
    sys.modules["services"] = services

NICE = 5  #: training goes first
NEEDED = ("torch", "transformers", "peft")
MEMORY_MB = 2048  #: 370 are used with the tiny model
HELP = """Serve replies of a base model and of saved LoRA adapters, for a host whose TuFT server trains only. Run it by
the Python of TuFT's environment. Callers send the key in TURNLOOM_TUFT_API_KEY; docs/configuration.md lists the
environment variables of those who call it."""
EXIT_CODES = """Exit codes: 1 a library, the key or the model is missing, or the port is taken; 2 wrong options. It
serves until a signal ends it."""


def main() -> None:
    """Load the model, then serve until a signal."""
    parser = argparse.ArgumentParser(prog="python -m services.sampler", description=HELP, epilog=EXIT_CODES)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--model-name", required=True, help="TuFT's name of it")
    parser.add_argument("--checkpoints", type=Path, required=True, help="the TuFT server's checkpoint folder")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--port-file", type=Path, help="where to write the port once the model is loaded")
    parser.add_argument(
        "--memory-mb", type=int, default=MEMORY_MB, help=f"bound on this process's memory, MB; default: {MEMORY_MB}"
    )
    options = parser.parse_args()
    key = os.environ.get("TURNLOOM_TUFT_API_KEY", "")
    if not key:
        sys.exit("TURNLOOM_TUFT_API_KEY: is not set; give the key that callers send")
    os.environ["HF_HUB_OFFLINE"] = "1"  # the model is a local folder
    os.nice(NICE)
    bytes_most = options.memory_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_most, bytes_most))

    try:
        from services.sampler.engine import Engine  # noqa: PLC0415  (torch, below the limits that were just set)
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        sys.exit(f"services.sampler: {error.name} is not installed in this Python; run it by TuFT's")
    from services.sampler.server import make_server  # noqa: PLC0415

    if not (options.model / "config.json").is_file():
        sys.exit(f"--model: {options.model} holds no config.json; give the folder of the base model")
    engine = Engine(options.model, options.checkpoints)
    try:
        server = make_server(engine, options.model_name, key, options.host, options.port)
    except OSError as error:
        sys.exit(
            f"--port: can't listen on {options.host}:{options.port} ({error.strerror or error}); "
            "end the process that has it, or give another port"
        )
    if options.port_file is not None:
        partial = options.port_file.with_suffix(".part")
        partial.write_text(f"{server.server_port}\n", encoding="ascii")
        partial.replace(options.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
