"""Check for optional libraries without importing them, and say in one sentence how to get one that is not there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

OWN: Final = ("turnloom", "services")  #: of which nothing is optional


def missing(module: str) -> bool:
    """Return whether a library is not installed."""
    try:
        return importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # its parent package is missing
        return True


@contextmanager
def needs(install: str, module: str) -> Iterator[None]:
    """Name what to install where an import inside fails.

    Args:
        install: the command that brings the library.
        module: `__name__` of the caller; a program (`__main__`) ends with status 1 and the sentence on standard error.

    Raises:
        ImportError: a library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OWN:
            raise
        sentence = f"{error.name} is not installed; run {install}"
        if module == "__main__":
            sys.exit(sentence)
        # `python -m turnloom.masks.prepare` shows an error of its package in one line, if the package is what it names.
        raise ImportError(sentence, name=module) from error
