"""Writes docs/graveyard.md: `python -m tests.graveyard`."""

from __future__ import annotations

import argparse

from tests.graveyard.page import PAGE, page

if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m tests.graveyard", description="Write docs/graveyard.md from the tries of this package."
    ).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
