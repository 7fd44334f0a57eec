"""Turn numpy's arrays into lists: pandas reads lists of Parquet as such."""

from __future__ import annotations

from collections.abc import Mapping


def without_arrays(row: Mapping[str, object]) -> Mapping[str, object]:
    """Return a row whose arrays and their numbers are lists and numbers of Python, at every depth; most are as given.

    Arrays are told by their method `tolist`, so that numpy need not be there.
    """
    if not any(hasattr(value, "tolist") for value in row.values()):
        return row
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: object) -> object:
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        value = to_list()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
