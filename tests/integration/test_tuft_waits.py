"""Calls to TuFT that whoever waits has to leave: what ends the wait arrives as it is, not as a fault of the server."""

from __future__ import annotations

import threading

import pytest

from services.store.records import Control
from services.trainer.endings import Leave
from services.trainer.tuft import connect
from tests.fakes.fake_tuft import FakeTuft
from tests.support.trainer_parts import SMALL, conversations, settings_of


def test_a_request_to_leave_ends_the_wait_for_a_call(fake_tuft: FakeTuft) -> None:
    wanted = threading.Event()

    def interrupted() -> None:
        if wanted.is_set():
            raise Leave(Control.PREEMPT)

    backend = connect(settings_of(fake_tuft), SMALL, interrupted)
    fake_tuft.fault("forward", "slow", ms=60_000)
    under_way = backend.forward(conversations(2))
    wanted.set()
    with pytest.raises(Leave, match=f"^{Control.PREEMPT.value}$"):
        under_way.result()
    fake_tuft.clear_faults()
    backend.close()
