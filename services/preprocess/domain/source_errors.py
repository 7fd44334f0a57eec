"""Errors of a dataset's source: one sentence each, with what to do.

SourceError
├── SourceNotAllowed    outside the source roots
├── SourceNotFound      nothing is there
├── SourceNotReadable   it is there and can't be read
├── SourceEmpty         it holds no conversation
├── SourceTooLarge      it holds more than a dataset may
├── SourceNotKnown      its columns are of no known format, or its files of no known kind
├── HubUnreachable      the hub did not answer in time
├── HubRefused          the hub has no such dataset, revision, split or configuration, or wants a token
├── ModelDiffers        this worker's model is not the one that the dataset was asked for with
└── BadRow              a row can't be used and the source was to be taken whole
"""

from __future__ import annotations

import re


class SourceError(Exception):
    """A dataset can't be made of its source; `str()` is the sentence for people."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint  #: what to do; may be empty

    @property
    def code(self) -> str:
        """Return the UPPER_SNAKE_CASE name of the class."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).upper()


class SourceNotAllowed(SourceError):
    """The server reads paths and URLs below its roots only."""


class SourceNotFound(SourceError):
    """No such file, folder or match exists."""


class SourceNotReadable(SourceError):
    """A file is damaged, or reading it failed."""


class SourceEmpty(SourceError):
    """The source holds nothing to make a dataset of."""


class SourceTooLarge(SourceError):
    """The source is over a limit of this server."""


class SourceNotKnown(SourceError):
    """What the source holds can't be taken for conversations."""


class HubUnreachable(SourceError):
    """The hub did not answer in time."""


class HubRefused(SourceError):
    """The hub answered, and does not give the data."""


class ModelDiffers(SourceError):
    """Two workers, or the API and a worker, have different models under one name."""


class BadRow(SourceError):
    """A row can't be used."""
