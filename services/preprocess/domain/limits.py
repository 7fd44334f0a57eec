"""Size limits of the API, and checks against them. GetServerInfo publishes those that clients need."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from services.preprocess.domain.refusals import InvalidRequest, TooLarge, Violation
from turnloom.display.visible import controls
from turnloom.masks.sandbox import pool as sandbox

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024  #: of one gRPC message, both directions
MAX_BATCH: Final = 512  #: conversations in one request or chunk
MAX_CONVERSATION_BYTES: Final = 4 * 1024 * 1024  #: as a message; to mask one takes 60 times as much memory
MAX_LENGTH: Final = 131_072  #: tokens per example
MAX_EXAMPLES_PER_CONVERSATION: Final = 1_024
CHUNK_BYTES: Final = 1024 * 1024  #: of one message of a download
CLIENT_TEMPLATE_SECONDS: Final = sandbox.Limits().seconds  #: after which a client's own template is stopped
MAX_CHAT_TEMPLATE_BYTES: Final = 256 * 1024
MAX_REQUEST_ID_BYTES: Final = 128
MAX_DISPLAY_NAME_BYTES: Final = 128
MAX_CONVERSATION_ID_BYTES: Final = 256
MAX_LABELS: Final = 32
MAX_LABEL_BYTES: Final = 256
MAX_PAGE: Final = 1_000
DEFAULT_PAGE: Final = 100
MAX_STEP: Final = 2**32 - 1  #: that a message holds
_STEP: Final = re.compile(r"[0-9]{1,10}")


class DatasetSize:
    """The growing size of a dataset while it arrives."""

    def __init__(self, max_conversations: int, max_bytes: int) -> None:
        """Start with nothing. max_bytes: of the messages that bring the conversations."""
        self.most_conversations = max_conversations
        self._most_bytes = max_bytes
        self._conversations, self._bytes = 0, 0

    def add(self, conversations: int, size: int, field: str) -> None:
        """Count one chunk of `size` bytes.

        Raises:
            TooLarge: it is one too many.
        """
        self._conversations += conversations
        self._bytes += size
        if self._conversations > self.most_conversations:
            raise TooLarge(
                field, f"brings more conversations than a dataset takes; send {self.most_conversations} at most."
            )
        if self._bytes > self._most_bytes:
            raise TooLarge(field, f"brings more bytes than a dataset takes; send {self._most_bytes} at most.")


class Violations:
    """Collects every violation of a request, so that the caller learns of all of them at once."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    def add(self, field: str, description: str) -> None:
        """Add one violation."""
        self._found.append(Violation(field, description))

    def __bool__(self) -> bool:
        return bool(self._found)

    def refuse(self) -> None:
        """Raise InvalidRequest if there is any violation."""
        if self._found:
            raise InvalidRequest(self._found)


def check_bytes(text: str, field: str, limit: int, violations: Violations) -> None:
    """Refuse text of more than `limit` bytes of UTF-8."""
    size = len(text.encode())
    if size > limit:
        violations.add(field, f"has {size} bytes; send {limit} at most.")


def check_name(text: str, field: str, limit: int, violations: Violations) -> None:
    """Refuse a name that is too long or holds control characters, since terminals and dashboards show it."""
    check_bytes(text, field, limit, violations)
    if found := controls(text):
        violations.add(field, f"holds control characters ({', '.join(found[:5])}); take them out.")


def check_labels(labels: Mapping[str, str], field: str, violations: Violations) -> None:
    """Refuse too many or too long labels; an empty key is refused too."""
    if len(labels) > MAX_LABELS:
        violations.add(field, f"has {len(labels)} labels; send {MAX_LABELS} at most.")
    for key, value in list(labels.items())[:MAX_LABELS]:
        if not key:
            violations.add(field, "has a label with an empty key; name it.")
        check_name(key, f"{field}[{key[:32]!r}] (key)", MAX_LABEL_BYTES, violations)
        check_bytes(value, f"{field}[{key[:32]!r}]", MAX_LABEL_BYTES, violations)


def page_size(asked: int, maximum: int = MAX_PAGE, default: int = DEFAULT_PAGE) -> int:
    """Return the page size: 0 is the default; more than the maximum is refused rather than silently cut."""
    if asked > maximum:
        raise InvalidRequest([Violation("page_size", f"is {asked}; ask for {maximum} at most.")])
    return asked or default


def page_token(position: str) -> str:
    """Return a position in opaque form; empty stays empty."""
    return base64.urlsafe_b64encode(position.encode()).decode() if position else ""


def page_position(token: str) -> str:
    """Return the position in a token that page_token made.

    Raises:
        InvalidRequest: the token is not one of ours.
    """
    try:
        return base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _not_ours() from error


def page_step(token: str) -> int:
    """Return the step in a token that page_token made; 0: it is empty.

    Raises:
        InvalidRequest: the token is not one of ours.
    """
    position = page_position(token)
    if not position:
        return 0
    if not _STEP.fullmatch(position) or int(position) > MAX_STEP:
        raise _not_ours()
    return int(position)


def _not_ours() -> InvalidRequest:
    return InvalidRequest(
        [Violation("page_token", "is not a token of this server; give one that it sent, or leave it empty.")]
    )
