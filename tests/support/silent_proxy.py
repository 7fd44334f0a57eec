"""A proxy on loopback that can fall silent: it then takes what it is sent, passes nothing on and answers nothing."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from types import TracebackType
from typing import Self

LOOK = 0.05  #: seconds between two looks of a quiet connection at whether the proxy is closed


class SilentProxy:
    """Context manager; passes connections on to `port` of this machine until `silent` is set."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._closed = threading.Event()
        self.silent = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closed.set()
        self._server.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        self._server.settimeout(LOOK)
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError, OSError):
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._to), timeout=60)
                for pair in ((near, far), (far, near)):
                    self._threads.append(threading.Thread(target=self._pass_on, args=pair, daemon=True))
                    self._threads[-1].start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with source, target:
            while not self._closed.is_set():
                try:
                    # No time-out on the sockets: one in the middle of sending would lose the rest.
                    if not select.select([source], [], [], LOOK)[0]:
                        continue
                    data = source.recv(65536)
                    if not data:
                        return
                    if not self.silent.is_set():
                        target.sendall(data)
                except (OSError, ValueError):  # ValueError: the thread of the other direction closed it
                    return
