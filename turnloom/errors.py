"""Errors that a user of Turnloom can meet, one class for each way to react.

Who inherits from whom::

    TurnloomError
    ├── InvalidInput          a file, option or value that was refused before anything was sent
    ├── ServerUnreachable     nothing answers at the address
    ├── DeadlineExceeded      it answers too slowly
    ├── DamagedDownload       the bytes that came are not those that were promised
    ├── StackError            the embedded stack can't start, or one of its parts ended
    └── Refused               the server answered, and said no
        ├── InvalidArgument       a field of the request
        ├── NotFound              no such job, dataset, model, checkpoint
        ├── AlreadyExists         a request_id that was used with other content
        ├── FailedPrecondition    not in this state
        ├── OutOfRange            older than what is kept
        ├── NotAllowed            no token, a wrong one, or one without this scope
        ├── ResourceExhausted     too large, or too many
        ├── Unavailable           loading, draining, or Redis is down
        ├── Unimplemented         a part of the contract that this server does not have yet
        └── ServerFault           a fault of the server; it gave an id to look for in its log
"""

# the tree reads better without "Error" on every branch

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from turnloom.characters import whole


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that the server refused."""

    field: str  #: path, for example "conversations[3].messages[0].role"
    message: str  #: one sentence
    reason: str = ""  #: lower_snake_case name of the rule, where the server gives one


class TurnloomError(Exception):
    """One sentence that says what is wrong and where, with a hint that says what to do."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        field: str = "",
        code: str = "",
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        self.message = whole(message)
        super().__init__(self.message)
        self.hint = whole(hint)  #: what to do; may be empty
        self.field = field  #: the first field or option to blame; may be empty
        self.code = code  #: the server's UPPER_SNAKE_CASE or the status; may be empty
        self.violations = tuple(violations)  #: every field that was refused, at most 50
        #: seconds until the same call may pass, as the server says; 0: at once, but with less; None: it says nothing
        self.retry_after = retry_after


class InvalidInput(TurnloomError):
    """A file, an option or a value that was refused before anything was sent."""


class ServerUnreachable(TurnloomError):
    """Nothing answers at the address."""


class DeadlineExceeded(TurnloomError):
    """The server did not answer in time."""


class DamagedDownload(TurnloomError):
    """The bytes that came are not those that the server promised."""


class StackError(TurnloomError):
    """The embedded stack can't start, or one of its parts ended."""


class Refused(TurnloomError):
    """The server answered, and said no."""


class InvalidArgument(Refused):
    """A field of the request is wrong."""


class NotFound(Refused):
    """There is no such job, dataset, model or checkpoint."""


class AlreadyExists(Refused):
    """The request_id was used before with other content."""


class FailedPrecondition(Refused):
    """Not possible in the present state."""


class OutOfRange(Refused):
    """Asked for something older than what is kept."""


class NotAllowed(Refused):
    """No token, a wrong one, or one without this scope."""


class ResourceExhausted(Refused):
    """Too large, or too many."""


class Unavailable(Refused):
    """The server is loading, draining, or its Redis is down."""


class Unimplemented(Refused):
    """A part of the contract that this server does not have yet."""


class ServerFault(Refused):
    """A fault of the server itself."""


def why(error: BaseException, *, place: bool = False) -> str:
    """Return what an error of Python says to people: without the system's number for it, and with more than a key.

    Args:
        error: any.
        place: begin with the file that the error names, where the sentence names none.
    """
    if isinstance(error, OSError):
        reason = getattr(error, "reason", None)  # of urllib's: the error that it met, or a word
        if isinstance(reason, OSError):
            return why(reason)
        said = error.strerror or str(reason or error) or type(error).__name__
        return f"{error.filename}: {said}" if place and error.filename else said
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]}"
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error))  # httpx repeats a system's error as text
