"""Display names that are made of file names and URLs, which may be longer than the contract takes, and not clean."""

from __future__ import annotations

from typing import Final

from turnloom.display.visible import visible

MAX_BYTES: Final = 128  #: of a display name in UTF-8, as the server has it
_CUT: Final = "..."


def display_name(text: str, ending: str = "") -> str:
    """Return a name for people that every server takes, for one that nobody wrote as such.

    Args:
        text: file name, path or URL; control characters and bytes that are no UTF-8 are shown by their escapes.
        ending: kept at the end whatever is cut.

    Returns:
        At most 128 bytes in UTF-8, beginning and end of a longer text.
    """
    shown = visible(text.encode("utf-8", "backslashreplace").decode()).replace("\n", "\\n").replace("\t", "\\t")
    room = MAX_BYTES - len(ending.encode())
    if len(shown.encode()) > room:
        half = (room - len(_CUT)) // 2
        encoded = shown.encode()
        first, last = encoded[:half].decode(errors="ignore"), encoded[-half:].decode(errors="ignore")
        shown = f"{first}{_CUT}{last}"
    return shown + ending
