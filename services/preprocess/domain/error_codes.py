"""Name an error class as issues and metrics name it."""

from __future__ import annotations

import re
from typing import Final

from turnloom.masks.domain.errors import NothingToTrain, TooLong

MAX_VIOLATIONS: Final = 50  #: fields and issues that one answer names
TOO_LONG: Final = "too_long"  #: code of conversations that a larger max_length would help


def is_too_long(error: Exception) -> bool:
    """Return whether a larger max_length would help: it forbids the cut, or cuts every trained token away."""
    return isinstance(error, TooLong | NothingToTrain) and error.field == "max_length"


def code_of(error: Exception) -> str:
    """Return the stable lower_snake_case name of the error's class, as issues and metrics use it.

    A conversation that max_length cuts to nothing is "too_long", as is one that it forbids to cut.
    """
    if is_too_long(error):
        return TOO_LONG
    return code_of_class(type(error))


def code_of_class(kind: type[Exception]) -> str:
    """Return the stable name of an error class."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
