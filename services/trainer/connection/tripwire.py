"""Detect that a server's process has ended, even when another one answers in its place.

A TuFT server that restarts with persistence answers an idle client as before, but rolled back to its last checkpoint.
No TCP connection outlives the process at its other end. This one opens when the client is made, and is pinged so that
it is not closed for being idle. It must still stand when a result is believed.
"""

from __future__ import annotations

import http.client
import select
import socket
import threading
import urllib.parse
from collections.abc import Callable

PING_EVERY = 1.0  #: seconds; uvicorn closes idle connections after 5


class Tripwire:
    """One connection to a server's health check. `fallen` says why it fell, or is None while it stands."""

    def __init__(self, url: str, silence: float) -> None:
        """Connect to the server.

        Args:
            url: of the server, without path.
            silence: seconds without an answer after which the server counts as gone.

        Raises:
            OSError: the address refuses the connection.
        """
        parts = urllib.parse.urlsplit(url)
        kind: Callable[..., http.client.HTTPConnection]
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=silence)
        self._path = f"{parts.path.rstrip('/')}/api/v1/healthz"
        self._connection.connect()
        self._connection.auto_open = 0  # a reopened connection would hide the end of the first
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.fallen: str | None = None
        self._thread = threading.Thread(target=self._watch, name="tripwire", daemon=True)
        self._thread.start()

    def stands(self) -> bool:
        """Return whether the process first connected to is still at the other end: now, not as of the last ping."""
        with self._lock:
            if self.fallen is None and self._connection.sock is not None:
                readable, _, _ = select.select([self._connection.sock], [], [], 0)
                if readable:  # nothing was asked, so this can only be the end of the stream
                    self.fallen = "the server closed the connection"
            return self.fallen is None

    def close(self) -> None:
        """Close the connection."""
        self._stop.set()
        sock: socket.socket | None = self._connection.sock
        if sock is not None:
            sock.close()

    def _watch(self) -> None:
        while not self._stop.wait(PING_EVERY):
            with self._lock:
                if self.fallen is not None:
                    return
                try:
                    self._connection.request("GET", self._path)
                    self._connection.getresponse().read()
                except TimeoutError:
                    self.fallen = "the server's health check does not answer"
                except (OSError, http.client.HTTPException, ValueError) as error:
                    self.fallen = f"the connection to the server broke ({type(error).__name__}: {error})"
