"""Turn pandas' values into plain ones: arrays, as which it reads lists of Parquet, and what it has for null."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan
from typing import Final

#: Types of pandas' values for null beside NaN, by name, so that pandas need not be there.
_MISSING: Final = frozenset({"NAType", "NaTType"})


def without_arrays(row: Mapping[str, object]) -> Mapping[str, object]:
    """Return a row whose arrays and their numbers are lists and numbers of Python, at every depth; most are as given.

    Columns that pandas has no value for are null. Arrays are told by their method `tolist`, so that numpy need not be
    there.
    """
    if any(map(_is_missing, row.values())):
        row = {name: None if _is_missing(value) else value for name, value in row.items()}
    if not any(hasattr(value, "tolist") for value in row.values()):
        return row
    return {name: _plain(value) for name, value in row.items()}


def _is_missing(value: object) -> bool:
    return (isinstance(value, float) and isnan(value)) or type(value).__name__ in _MISSING


def _plain(value: object) -> object:
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        value = to_list()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
