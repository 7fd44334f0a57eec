"""A lease that at most one process holds."""

from __future__ import annotations

import os
import secrets
import socket

from services.store.connection import StoreRedis
from services.store.scripts import Scripts


class Singleton:
    """The lease; it ends `ttl` seconds after the last `hold`."""

    def __init__(self, client: StoreRedis, key: str, ttl: float) -> None:
        self._scripts = Scripts(client)
        self._key = key
        self._milliseconds = max(1, round(ttl * 1000))
        self.held = False  #: as the last `hold` found it
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    def hold(self) -> bool:
        """Take or renew the lease; False: another process holds it."""
        answer = self._scripts.run("alone", key=self._key, holder=self.name, milliseconds=self._milliseconds)
        self.held = answer[0] == "ok"
        return self.held

    def give_up(self) -> None:
        """Release the lease, so that another process can take it at once."""
        self.held = False
        self._scripts.run("alone", key=self._key, holder=self.name, milliseconds=None)
