"""Writes docs/graveyard.md: `python -m tests.graveyard`."""

from __future__ import annotations

from tests.graveyard.page import PAGE, page

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
