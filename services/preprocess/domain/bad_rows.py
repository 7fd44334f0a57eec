"""The choice of what happens to conversations that can't be preprocessed."""

from __future__ import annotations

from enum import Enum

from services.preprocess.domain.error_codes import is_too_long
from turnloom.masks.domain.errors import PreprocessError


class BadRows(Enum):
    """What a dataset's creator chose."""

    FAIL = "fail"  #: the first ends the dataset
    SKIP = "skip"  #: they are left out and reported
    SKIP_TOO_LONG = "skip_too_long"  #: those that are too long are, any other ends the dataset

    def leaves_out(self, error: PreprocessError) -> bool:
        """Return whether a conversation with this error is left out."""
        return self is BadRows.SKIP or (self is BadRows.SKIP_TOO_LONG and is_too_long(error))
