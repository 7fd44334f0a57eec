"""Exit codes, and which error leads to which; docs/cli.md has the same table."""

from __future__ import annotations

from enum import IntEnum

from turnloom import errors


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    JOB_FAILED = 1  #: the job ended FAILED or CANCELLED, or a check of `doctor` failed
    BAD_INPUT = 2  #: command line, file or option; nothing was made
    UNREACHABLE = 3  #: no server, no answer in time, or a server that can't work now
    REFUSED = 4  #: not found, not allowed, not in this state, too large
    FAULT = 5  #: a fault of the server, a damaged download, or an embedded stack that fell over
    INTERRUPTED = 130  #: Ctrl-C; a job that was submitted goes on


#: The first class that fits, from special to general.
CODES: dict[type[errors.TurnloomError], Exit] = {
    errors.InvalidInput: Exit.BAD_INPUT,
    errors.InvalidArgument: Exit.BAD_INPUT,
    errors.ServerUnreachable: Exit.UNREACHABLE,
    errors.DeadlineExceeded: Exit.UNREACHABLE,
    errors.Unavailable: Exit.UNREACHABLE,
    errors.ServerFault: Exit.FAULT,
    errors.DamagedDownload: Exit.FAULT,
    errors.StackError: Exit.FAULT,
    errors.Refused: Exit.REFUSED,
}


def exit_code(error: errors.TurnloomError) -> Exit:
    """Return the code that a command exits with after this error."""
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), Exit.FAULT)
