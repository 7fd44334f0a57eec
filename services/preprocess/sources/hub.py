"""Datasets of the Hugging Face hub, or of any server that speaks its protocol, row by row. Knows no conversation.

HF_ENDPOINT names another server, HF_TOKEN opens private datasets, HF_HUB_OFFLINE reads only what was downloaded before.
Code that a dataset brings along is never run.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.preprocess.sources.rows import RawRow
from services.store.records import DatasetSource


def rows(name: str, source: DatasetSource) -> Iterator[RawRow]:
    """Rows of one split, in order."""
    raise NotImplementedError(name)
    yield RawRow(source.uri)
