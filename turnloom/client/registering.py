"""Read the description that another engine wrote of its rows (turnloom.masks.columns)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from turnloom.errors import InvalidInput, why

if TYPE_CHECKING:
    from turnloom.wire.options import PreprocessFields

DESCRIPTION: Final = "turnloom.json"


def read_description(uri: str) -> Mapping[str, object]:
    """Read the description in a local folder, or at a URL (with fsspec).

    Raises:
        InvalidInput: it is missing or not a description.
    """
    place = f"{uri.rstrip('/')}/{DESCRIPTION}"
    try:
        text = _bytes_at(place) if "://" in uri else Path(place).read_bytes()
        told = json.loads(text)
        if not isinstance(told, dict) or not isinstance(told.get("options"), dict) or "model" not in told:
            raise ValueError("it has no model and options")
    except (OSError, ValueError, ImportError) as error:
        raise InvalidInput(f"{place} can't be read: {why(error)}.", hint="RowColumns.describe writes it.") from error
    return told


def _bytes_at(url: str) -> bytes:
    try:
        import fsspec  # noqa: PLC0415  # optional at the client

        with fsspec.open(url, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise
    except Exception as error:  # a store's client raises errors of its own: botocore's are no OSError
        raise InvalidInput(
            f"{url} can't be read: {why(error)}.".replace("..", "."),
            hint="The client reads the description: check the URL, and that its package and credentials are here too.",
        ) from error


def fields_of(told: Mapping[str, object]) -> PreprocessFields:
    """Return the options in the form that create_from_source takes."""
    options = dict(cast("Mapping[str, object]", told["options"]))
    return cast("PreprocessFields", {name: value for name, value in options.items() if value not in (None, {})})
