"""One server at a time for the contract: the fake, then the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.contract.driving import close_sessions
from tests.fakes.fake_tuft import FakeTuft
from turnloom.embedded.tuft_server import TuftServer

os.environ["TINKER_TELEMETRY"] = "0"  # the SDK would post the API key to the server on errors


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.tuft)])
def server(request: pytest.FixtureRequest) -> FakeTuft | TuftServer:
    """A server with persistence that answers."""
    found: FakeTuft | TuftServer = request.getfixturevalue(f"{request.param}_tuft")
    return found


TUFT = pytest.mark.tuft


@pytest.fixture(params=["fake", "packing", pytest.param("real", marks=TUFT), pytest.param("accelerated", marks=TUFT)])
def any_server(request: pytest.FixtureRequest) -> FakeTuft | TuftServer:
    """As server, and both as one that is accelerated and packs rows."""
    found: FakeTuft | TuftServer = request.getfixturevalue(f"{request.param}_tuft")
    return found


@pytest.fixture(autouse=True)
def sessions_end_with_their_test() -> Iterator[None]:
    yield
    close_sessions()
