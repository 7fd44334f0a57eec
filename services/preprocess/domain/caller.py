"""The caller of a call, what the token may do, and whose objects it may see or change."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.preprocess.domain.refusals import NotPermitted


class Scope(StrEnum):
    """A permission of a token."""

    READ = "read"  #: sees everything, changes nothing
    SUBMIT = "submit"  #: makes things, and sees and changes what it made
    ADMIN = "admin"  #: everything


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of an RPC."""

    name: str  #: of the token, and owner of what it makes; empty on a server without tokens
    scopes: frozenset[Scope]

    @property
    def only(self) -> str | None:
        """Return whose objects a list shows; None: everyone's."""
        return None if self.scopes & {Scope.READ, Scope.ADMIN} else self.name

    def check_look(self, what: str, owner: str) -> None:
        """Refuse to show an object of another owner.

        Args:
            what: for the sentence, like "Job 'job-1'".
            owner: name of the token that made it.

        Raises:
            NotPermitted
        """
        if self.only not in (None, owner):
            raise NotPermitted(
                f"{what} was made with another token; with the scope submit alone, token {self.name!r} sees only what "
                "it made. Use a token with the scope read."
            )

    def check_change(self, what: str, owner: str) -> None:
        """Refuse to change an object of another owner.

        Raises:
            NotPermitted
        """
        if Scope.ADMIN not in self.scopes and owner != self.name:
            raise NotPermitted(
                f"{what} was made with another token; token {self.name!r} changes only what it made. "
                "Use the token that made it, or one with the scope admin."
            )


#: The caller of a server without tokens.
ANYBODY: Final = Caller("", frozenset(Scope))
#: Who makes the running call. Set by the guard in the context that gRPC runs the handler in; unset where no guard
#: stands, so that a hole is an error and not an open door.
CALLER: Final[ContextVar[Caller]] = ContextVar("caller")
