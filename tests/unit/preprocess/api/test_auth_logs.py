"""A log line says which exception came from where, and never a word of it."""

from __future__ import annotations

import json
import logging
import sys
import threading

import pytest

from services.store import logs
from services.store.logs import JsonLines, about, log_to_stderr

MARK = "my own private words"


def fail() -> None:
    try:
        {}[MARK]
    except KeyError as error:
        raise ValueError(f"could not read {MARK}") from error


def record(name: str, message: str, *arguments: object) -> logging.LogRecord:
    try:
        fail()
    except ValueError:
        return logging.LogRecord(name, logging.ERROR, __file__, 1, message, arguments, sys.exc_info(), "function")
    raise AssertionError


def test_an_exception_and_its_cause_are_told_by_class_and_place_without_their_words() -> None:
    line = JsonLines().format(record("turnloom.api", "unforeseen error"))
    assert MARK not in line
    found = json.loads(line)
    assert [entry["error"] for entry in found["raised"]] == ["ValueError", "KeyError"]
    assert found["raised"][1]["at"][-1].endswith(" in fail")
    assert found["message"] == "unforeseen error"


def test_a_library_that_puts_the_exception_into_its_message_is_not_repeated() -> None:
    line = JsonLines().format(record("grpc._server", f"Exception calling application: {MARK}"))
    assert MARK not in line
    assert json.loads(line)["message"] == "an exception in grpc._server (function:1)"


def test_every_line_says_the_job_and_attempt_that_its_process_works_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_about", {})
    about("job-1", 2)
    found = json.loads(JsonLines().format(record("services.trainer.job", "unforeseen")))
    assert (found["job"], found["attempt"]) == ("job-1", 2)


def test_an_extra_that_is_an_object_is_told_by_its_class() -> None:
    one = logging.makeLogRecord({"name": "turnloom.api", "msg": "x", "thing": ValueError(MARK)})
    assert json.loads(JsonLines().format(one))["thing"] == "ValueError"


def test_debug_lines_of_libraries_and_uncaught_exceptions_carry_no_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), {name: logging.getLogger(name).level for name in ("turnloom", "rq")})
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    try:
        log_to_stderr("debug")
        logging.getLogger("httpx").debug(MARK)
        logging.getLogger("rq.worker").debug(MARK)
        logging.getLogger("turnloom.api").debug("said")
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join(10)
        try:
            fail()
        except ValueError:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        root.setLevel(before[0])
        root.handlers[:] = before[1]
        for name, level in before[2].items():
            logging.getLogger(name).setLevel(level)
    written = capsys.readouterr().err
    assert MARK not in written
    lines = [json.loads(line) for line in written.splitlines()]
    # An SDK session that an earlier test left in this process may complain of its server's end meanwhile.
    assert [line["message"] for line in lines if not line["logger"].startswith("tinker")] == [
        "said",
        "a thread ended",
        "the process ends",
    ]
