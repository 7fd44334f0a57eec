"""Turn values of libraries into plain ones: pandas' arrays and nulls, texts and numbers of classes, mappings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isnan
from typing import Final

#: Types of JSON's values but lists and objects.
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
#: Types of pandas' values for null beside NaN, by name, so that pandas need not be there.
_MISSING: Final = frozenset({"NAType", "NaTType"})


def without_arrays(row: Mapping[str, object]) -> Mapping[str, object]:
    """Return a row of plain lists, dictionaries, texts and numbers, at every depth; most are as given.

    Columns that pandas has no value for are null. Arrays are told by their method `tolist`, so that numpy need not be
    there. A text of another class, such as an enumeration, is its characters, and a key that is no text is what JSON
    writes: templates print these otherwise.
    """
    if any(map(_is_missing, row.values())):
        row = {name: None if _is_missing(value) else value for name, value in row.items()}
    try:
        if all(map(_is_plain, row.values())):
            return row
        return {name: _plain(value) for name, value in row.items()}
    except RecursionError:  # too deep for all that read it: they say where
        return row


def _is_plain(value: object) -> bool:
    if type(value) is dict:
        for key, held in value.items():  # a generator takes twice as long
            if type(key) is not str or not (type(held) is str or _is_plain(held)):
                return False
        return True
    return all(map(_is_plain, value)) if type(value) is list else type(value) in _SCALARS


def _is_missing(value: object) -> bool:
    return (isinstance(value, float) and isnan(value)) or type(value).__name__ in _MISSING


def _plain(value: object) -> object:
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        value = to_list()
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _key(key: object) -> object:
    """Return a key as JSON writes it, where it can."""
    if isinstance(key, str):
        return str.__str__(key)
    return json.dumps(key) if isinstance(key, int | float | None) else key
