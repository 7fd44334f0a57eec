"""Name an error class as issues and metrics name it."""

from __future__ import annotations

import re
from typing import Final

MAX_VIOLATIONS: Final = 50  #: fields and issues that one answer names


def code_of(error: Exception) -> str:
    """Stable lower_snake_case name of the error's class, as issues and metrics use it."""
    return code_of_class(type(error))


def code_of_class(kind: type[Exception]) -> str:
    """The same, of a class."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
