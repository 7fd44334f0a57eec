"""Read environment variables into settings: one sentence names the variable, what it holds and what it takes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

Value = TypeVar("Value")
LOG_LEVELS: Final = "debug, info, warning or error"


class BadSetting(ValueError):
    """A setting can't be used; the message names it, its value and the accepted values."""


def secret(environment: Mapping[str, str], name: str) -> str:
    """Return the value of `name`, or the text of the file that `name`_FILE names (container secrets); empty: neither.

    Raises:
        BadSetting: both are set, or the file can't be read; the sentence shows no value.
    """
    value, path = environment.get(name, ""), environment.get(f"{name}_FILE", "")
    if not path:
        return value
    if value:
        raise BadSetting(f"{name}: is set, and so is {name}_FILE; set one of them")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is no text"
        raise BadSetting(f"{name}_FILE: {path} can't be read ({said}); name a file that holds the value") from None


def parsed(name: str, text: str, parse: Callable[[str], Value], takes: str, *, hidden: bool = False) -> Value:
    """Parse a variable's text.

    Args:
        name: of the variable.
        text: its value.
        parse: raises ValueError or KeyError for what can't be used.
        takes: what the variable takes, behind "give".
        hidden: the value may hold a password, so it is not shown.

    Raises:
        BadSetting
    """
    try:
        return parse(text)
    except (ValueError, KeyError):
        held = "its value" if hidden else repr(text)
        raise BadSetting(f"{name}: {held} can't be used; give {takes}") from None  # the cause may quote a password


def whole(least: int, most: int = sys.maxsize) -> Callable[[str], int]:
    """Return a parser of whole numbers from `least` to `most`; it raises ValueError for anything else."""

    def parse(text: str) -> int:
        if not least <= int(text) <= most:
            raise ValueError(text)
        return int(text)

    return parse


def number(least: float, most: float = sys.float_info.max) -> Callable[[str], float]:
    """Return a parser of finite numbers from `least` to `most`; it raises ValueError for anything else."""

    def parse(text: str) -> float:
        if not least <= float(text) <= most:
            raise ValueError(text)
        return float(text)

    return parse


def address(text: str) -> str:
    """Return HOST:PORT unchanged.

    Raises:
        ValueError: it is something else.
    """
    host, _, port = text.rpartition(":")
    if not host or not 0 <= int(port) <= 65535:
        raise ValueError(text)
    return text


def log_level(text: str) -> str:
    """Return the name of a level in small letters.

    Raises:
        ValueError: it is none of LOG_LEVELS.
    """
    if text.lower() not in {"debug", "info", "warning", "error"}:
        raise ValueError(text)
    return text.lower()
