"""Every exception that can leave a training has its way out."""

from __future__ import annotations

from typing import cast

import pytest

from services.store import errors as store_errors
from services.store.errors import Fenced, NotFound, StoreError, StoreFull, StoreUnavailable
from services.store.records import Control, ErrorRecord
from services.trainer import errors as trainer_errors
from services.trainer.endings import ENDINGS, Endings, Leave
from services.trainer.errors import CallOutOfMemory, Code, NonFiniteLoss, ProbeMismatch, backend_error
from services.trainer.journal import LedgerGap, RedisLost


class Told:
    """Notes which way out was taken, with the error of the job."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def _free_unsaved(self) -> None:
        self.told.append("free unsaved runs")

    def leave(self, asked: Control) -> None:
        self.told.append(f"leave {asked.value}")

    def fail(self, error: ErrorRecord) -> None:
        self.told.append(f"fail {error.code}")

    def release(self, reason: str, message: str, error: ErrorRecord | None = None) -> None:
        self.told.append(f"release {reason} {error.code if error else '-'}")


def way_out(error: Exception) -> list[str]:
    told = Told()
    Endings.end(cast(Endings, told), error)
    return told.told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Leave(Control.PAUSE), ["leave pause"]),
        (Fenced("another"), ["free unsaved runs"]),
        (RedisLost("away"), []),
        (LedgerGap("gap"), ["release ledger_gap -"]),
        (NonFiniteLoss("nan"), ["fail NON_FINITE_LOSS"]),
        (ProbeMismatch("differs"), ["fail PROBE_MISMATCH"]),
        (StoreUnavailable("away"), ["fail STORE_FAILED"]),
        (StoreFull("full"), ["fail STORE_FAILED"]),
        (NotFound("no dataset"), ["release store_error STORE_FAILED"]),
        (RuntimeError("what"), ["release unforeseen UNKNOWN"]),
    ],
)
def test_an_exception_takes_its_way_out(error: Exception, told: list[str]) -> None:
    assert way_out(error) == told


def test_what_the_server_did_goes_to_the_methods_that_know_the_server() -> None:
    lost = backend_error(Code.SERVER_RESTARTED, "gone")
    assert ENDINGS[type(lost)] is Endings.backend_failed
    assert ENDINGS[CallOutOfMemory] is Endings.out_of_memory


def test_no_error_of_ours_is_unforeseen() -> None:
    for module in (store_errors, trainer_errors):
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, Exception) and kind.__module__ == module.__name__:
                nearest = next(one for one in kind.__mro__ if one in ENDINGS)
                assert nearest is not Exception, kind


def test_the_docstring_draws_every_class() -> None:
    drawn = (store_errors.__doc__ or "").split()
    kinds = [kind for kind in vars(store_errors).values() if isinstance(kind, type) and issubclass(kind, StoreError)]
    assert [kind.__name__ for kind in kinds if kind.__name__ not in drawn] == []
