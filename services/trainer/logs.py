"""Logs as JSON lines that carry job and attempt. Never a text of a conversation: nothing here is given one."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

#: Job and attempt of this process; a horse works on one job and sets them once.
_about: dict[str, str | int] = {}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, message, what the process works on, and the traceback of an exception."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_about,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str) -> None:
    """Sends all logs of the process to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("httpx", "httpcore", "tinker", "rq.worker"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def about(job: str, attempt: int) -> None:
    """From now on every line says that it is about this."""
    _about.update(job=job, attempt=attempt)
