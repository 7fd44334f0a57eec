"""One JSON object per log line on stderr. Never log conversation text.

An exception may quote whatever it failed on. So its words are never written, only its class and where it came from.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

#: What every LogRecord has; anything else was given as `extra` and is a field of the line.
_PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: Loggers whose messages are written by us, and RQ's, which never hold text.
OURS: Final = ("turnloom", "services", "rq")
LOG = logging.getLogger("turnloom.process")
#: What this process works on; a field of every line.
_about: dict[str, str | int] = {}


class JsonLines(logging.Formatter):
    """Formats time, level, logger, message, current work, extra fields, and an exception's origin."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line without line breaks."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_about,
        }
        fields.update({name: value for name, value in vars(record).items() if name not in _PLAIN})
        if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
            fields["raised"] = list(raised(record.exc_info[1]))
        return json.dumps(fields, ensure_ascii=False, default=lambda value: type(value).__name__)


def raised(error: BaseException) -> Iterator[dict[str, object]]:
    """Yield an exception and its causes, the last first: class and frames, without their words."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        frames = traceback.extract_tb(one.__traceback__)
        name = f"{type(one).__module__}.{type(one).__qualname__}".removeprefix("builtins.")
        yield {"error": name, "at": [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]}
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _message(record: logging.LogRecord) -> str:
    """Return the message, without an exception's words: a library that reports one tends to include them."""
    if record.exc_info and record.name.partition(".")[0] not in OURS:
        return f"an exception in {record.name} ({record.funcName}:{record.lineno})"
    return record.getMessage()


def about(job: str, attempt: int) -> None:
    """Tag every later log line with this; a horse works on one job and calls it once."""
    _about.update(job=job, attempt=attempt)


def log_to_stderr(level: str, rq_level: str = "INFO") -> None:
    """Send all records of this process, uncaught exceptions included, to stderr as JSON lines.

    Libraries are heard from warnings on: their debug lines hold what they were given.

    Args:
        level: of our own lines, as logging names it; any case.
        rq_level: of RQ's, unless `level` is higher.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    levels = logging.getLevelNamesMapping()
    chosen = levels[level.upper()]
    for name in OURS:
        logging.getLogger(name).setLevel(max(chosen, levels[rq_level]) if name == "rq" else chosen)
    logging.raiseExceptions = False  # reports of failed writes would quote the exception
    sys.excepthook = _uncaught
    threading.excepthook = _ended


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    LOG.critical("the process ends", exc_info=(kind, error, trace))


def _ended(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and arguments.exc_type is not SystemExit:
        LOG.critical("a thread ended", exc_info=(arguments.exc_type, arguments.exc_value, arguments.exc_traceback))
