"""The engine as a step of a datatrove pipeline: documents of conversations in, Parquet files of rows out.

    first = {"a.jsonl": 0, "b.jsonl": 1200}                       # position of each file's first line
    def chat(reader, data, path, line):                           # a document of a line
        return {"text": path, "id": f"{path}/{line}", "metadata": {**data, "index": first[path] + line}}

    if __name__ == "__main__":                                    # the tasks run in processes that import the file
        rows = RowColumns(Masker(load_model("Qwen3-0.6B"), Options(date="2026-01-31")))
        LocalPipelineExecutor([JsonlReader("chats", adapter=chat), WriteRows(rows, "rows")], tasks=2).run()
        rows.describe("rows")

Needs datatrove[io] and pyarrow. `turnloom dataset register rows` makes the files a dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby, islice
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from turnloom.foreign.columns import BESIDE
from turnloom.masks.columns import RowColumns

BATCH: Final = 256  #: documents masked at once


class WriteRows(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """Writes the rows of each source file to a Parquet file of its own, and passes the documents on."""

    name = "Turnloom rows"
    type = "WRITER"

    def __init__(self, rows: RowColumns, folder: Path | str) -> None:
        """Choose where rows go.

        Args:
            rows: model, options, and which keys of a document's metadata hold messages and position.
            folder: local folder that all tasks write to.
        """
        super().__init__()
        self._rows = rows
        self._folder = Path(folder)

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Write the rows of a task's documents. A file gets its name once it is whole.

        Raises:
            BadConversation, InvalidOption: the task has failed; datatrove runs it again when it is started again.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for number, (_, documents) in enumerate(groupby(data, key=lambda one: one.metadata.get("file_path"))):
            path = self._folder / f"{rank:05d}-{number:05d}.parquet"
            part = path.with_suffix(".part")
            with ExitStack() as opened:
                writer = None
                while batch := list(islice(documents, BATCH)):
                    with self.track_time("batch"):
                        made = self._masked(batch)
                        writer = writer or opened.enter_context(pq.ParquetWriter(part, made.schema))
                        writer.write_table(made)
                    self.stat_update("rows", value=made.num_rows, unit="batch")
                    yield from batch
            part.replace(path)

    def _masked(self, documents: Sequence[Document]) -> pa.Table:
        beside = {name for one in documents for name in one.metadata if name == "tools" or name in BESIDE}
        names = (self._rows.messages, self._rows.index, *sorted(beside))
        return self._rows.table({name: [one.metadata.get(name) for one in documents] for name in names})
