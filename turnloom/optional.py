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
    except ImportError as error:
        absent = error if isinstance(error, ModuleNotFoundError) else error.__cause__  # what `needs` further in said
        if not isinstance(absent, ModuleNotFoundError) or absent.name is None or absent.name.partition(".")[0] in OWN:
            raise
        sentence = f"{absent.name} is not installed; run {install}"
        if module == "__main__":
            sys.exit(sentence)
        # `python -m turnloom.masks.prepare` shows an error of its package in one line, if the package is what it names.
        raise ImportError(sentence, name=module) from absent
