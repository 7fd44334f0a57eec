"""A receiver of webhooks on loopback that keeps what comes and answers what the test wants."""
# ruff: noqa: N802  # http.server names the methods

from __future__ import annotations

from typing import ClassVar

from tests.support.loopback import Handler, Loopback


class Receiver(Loopback):
    """`answers` are statuses, the last one again and again; a context manager."""

    def __init__(self, *answers: int) -> None:
        self.answers = list(answers) or [200]
        self.came: list[tuple[dict[str, str], str]] = []  #: headers and body of each request
        super().__init__(_Handler)
        self.url += "/hook"


class _Handler(Handler):
    owner: ClassVar[Receiver]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.owner.came.append(({name.lower(): text for name, text in self.headers.items()}, body))
        answers = self.owner.answers
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        moved = status in (301, 302, 307)
        self.answer(status, **({"Location": f"http://{self.owner.host}/elsewhere"} if moved else {}))
