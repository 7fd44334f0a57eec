"""Write rows of steps as a Parquet file. Needs pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from turnloom.results.files import Cell
from turnloom.whole_file import whole_file


def write_parquet(path: Path, table: Sequence[dict[str, Cell]]) -> None:
    """Write one row group; None is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        pq.write_table(pa.Table.from_pylist(list(table)), part)
