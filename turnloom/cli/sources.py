"""Which argument of `dataset create` is a file of this machine, and which a dataset of the hub. Knows no server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from turnloom.cli.session import pairs

#: owner/name; a single word is taken for a file, for that is what people mistype.
HUB_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES: Final = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".txt")


def is_hub_name(argument: Path) -> bool:
    """Whether it names a hub dataset: it looks like owner/name, and there is nothing of that name here."""
    text = argument.as_posix()
    return (
        HUB_NAME.fullmatch(text) is not None
        and not text.lower().endswith(FILES)
        and not argument.exists()
        and not argument.parent.exists()
    )


def columns(texts: list[str] | None) -> dict[str, str]:
    """PART=COLUMN options.

    Raises:
        InvalidInput: one has no "=".
    """
    return pairs(texts or (), "--column")
