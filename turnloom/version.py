"""The version of this code, also where it runs without being installed, as in the containers."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.2.0"  #: the same as in pyproject.toml; a test compares them
