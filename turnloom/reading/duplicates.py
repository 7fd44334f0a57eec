"""Find equal conversations: exactly, or apart from case, white space and Unicode form."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from turnloom.foreign.json_text import JSON

DIGEST: Final = 16  #: bytes kept of each conversation


def _same(text: str) -> str:
    return text


def _normalized(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


#: How texts are compared, by the name that users give.
FORMS: Final[Mapping[str, Callable[[str], str]]] = {"exact": _same, "normalized": _normalized}


def digest(document: Mapping[str, JSON], form: str) -> bytes:
    """Return DIGEST bytes that are equal for equal messages and tools; the id does not count."""
    kept = {key: _mapped(document.get(key) or None, FORMS[form]) for key in ("messages", "tools")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).digest()[:DIGEST]


def first_of_each(digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Mark the first row of each digest; shape (rows,). 32 bytes a row, 10 million rows in 320 MB."""
    first = np.zeros(len(digests), dtype=np.bool_)
    first[np.unique(digests, return_index=True)[1]] = True
    return first


def _mapped(value: JSON, form: Callable[[str], str]) -> JSON:
    if isinstance(value, str):
        return form(value)
    if isinstance(value, Mapping):
        return {key: _mapped(item, form) for key, item in value.items()}
    return [_mapped(item, form) for item in value] if isinstance(value, list | tuple) else value
