"""What holds for every test."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Generator, Iterator

import pytest
from xdist.remote import Producer

from tests.support import schedule
from tests.support.pace import any_pace

pytest_plugins = [
    "tests.support.api_fixtures",
    "tests.support.redis_fixtures",
    "tests.support.kill_fixtures",
    "tests.support.rest_fixtures",
    "tests.support.sampling_fixtures",
    "tests.support.source_fixtures",
    "tests.support.stack_fixtures",
    "tests.support.tuft_fixtures",
]

any_pace()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without looking for garbage, which thousands of tests that all stay make slow, here and later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: schedule.place(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> schedule.ByFile | None:
    """With --dist loadfile: take files in the order of collection, not those with the most tests first."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    return schedule.ByFile(config, log)


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_not_ignored() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and every child process would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signal_handlers_are_left_as_found() -> Iterator[None]:
    """RQ's workers and our own processes install handlers; a test that runs one in this process must not keep them."""
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in found.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def log_levels_are_left_as_found() -> Iterator[None]:
    """RQ's workers and our own processes set levels; one left at CRITICAL would hide the lines a later test reads."""
    loggers = [logging.getLogger(name) for name in ("turnloom", "services", "rq", "rq.worker", "rq.job")]
    found = [(logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (level, propagate) in zip(loggers, found, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
