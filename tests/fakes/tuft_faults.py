"""Faults that a test orders, and the count of calls that triggers them. Knows no HTTP and no model."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

FAULTS = {
    "http_500": "the call is answered 500",
    "http_429": "the call is answered 429",
    "conflict_409": "the operation fails with a sequence conflict",
    "fail_422": "the operation fails with a server error",
    "oom": "the operation fails with torch.OutOfMemoryError where it has more than `above_tokens` padded tokens"
    " (real ones where the server packs)",
    "starting": "the acceleration status says that the model is still loading",
    "nan": "log probabilities and loss are NaN",
    "dropped": "the operation runs, but its result never comes",
    "slow": "the operation takes `ms` longer, or until faults are cleared; so does what is queued behind it",
    "late": "the call is taken up `ms` later, or when faults are cleared; calls of others go on",
    "refuse": "all connections break and none is accepted for `seconds`",
    "restart_rollback": "restart with persistence: every run is back at its last checkpoint",
    "restart_keep": "restart in which nothing was lost",
    "restart_lost": "restart without persistence: everything is unknown",
    "crash": "the process kills itself",
}
TIMES = ("before", "during", "after")  #: during: with files of a checkpoint half written


class BadFault(ValueError):
    """A fault that does not exist."""


@dataclass(slots=True)
class Fault:
    """One order."""

    kind: str  #: kind of call, or *
    fault: str  #: key of FAULTS
    at: int = 1  #: from the n-th call of that kind on, counted from now
    times: int | None = None  #: how often; None = for ever
    when: str = "before"  #: before, during or after the call; for refuse, restarts and crash
    ms: float = 0.0
    seconds: float = 0.0
    above_tokens: int = 0
    seen: int = field(default=0, init=False)
    hits: int = field(default=0, init=False)
    cleared: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.fault not in FAULTS:
            raise BadFault(f"fault: there is no {self.fault!r}; choose one of {', '.join(FAULTS)}")
        if self.when not in TIMES:
            raise BadFault(f"when: there is no {self.when!r}; choose one of {', '.join(TIMES)}")

    def strikes(self, kind: str) -> bool:
        """Counts a call, and says whether it is one to fail."""
        if self.kind not in (kind, "*"):
            return False
        self.seen += 1
        if self.seen < self.at or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


class Faults:
    """All orders of a server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.orders: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Takes an order."""
        with self._lock:
            self.orders.append(fault)

    def clear(self, fault: str = "") -> None:
        """Forgets all orders, or those of one fault."""
        with self._lock:
            for order in [order for order in self.orders if fault in ("", order.fault)]:
                order.cleared.set()
                self.orders.remove(order)

    def of_call(self, kind: str) -> dict[str, Fault]:
        """What shall go wrong with this call: fault by its name."""
        with self._lock:
            return {fault.fault: fault for fault in self.orders if fault.strikes(kind)}
