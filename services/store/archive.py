"""Archive the ledger of a finished job as a Parquet file in the store.

One row per committed step in order of commits, superseded ones included: `effective` marks the series that counts.
Events lie beside the steps in the file's metadata, as a JSON list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields

import pyarrow as pa
import pyarrow.parquet as pq

from services.store.archived import ENTRIES
from services.store.blobs.files import below, whole_file
from services.store.codec import plain
from services.store.events import Events, RawEntry
from services.store.ledger import Ledger
from services.store.records import EventRecord, JobRecord, StepRecord
from services.store.steps import decode_step

_TYPES = {"int": pa.int64(), "float": pa.float64()}
_ROWS_PER_GROUP = 5000


def _schema() -> pa.Schema:
    columns = [pa.field("effective", pa.bool_()), pa.field("record", pa.string()), pa.field("entry", pa.string())]
    for item in fields(StepRecord):
        kind = _TYPES.get(str(item.type).split(" ")[0])
        if kind is not None:
            columns.append(pa.field(item.name, kind))
    return pa.schema(columns)


def archive_ledger(ledger: Ledger, events: Events, job: JobRecord, store_url: str) -> str:
    """Write `<store>/ledgers/<job>.parquet` and return its URL. Holds one group of steps and all else in memory.

    The column `record` is the exact text of the ledger and `entry` its place in the stream. The others repeat its
    numbers for readers of Parquet.
    """
    uri = below(store_url, "ledgers", f"{job.id}.parquet")
    effective = {(record.step, record.attempt) for record in _effective(ledger, job)}
    others = [(entry.id, entry.kind, entry.text) for entry in events.raw(job.id) if entry.kind != "step"]
    told = [entry.value for entry in events.everything(job.id) if isinstance(entry.value, EventRecord)]
    metadata = {"turnloom.events": json.dumps(plain(told)), ENTRIES: json.dumps(others)}
    schema = _schema().with_metadata(metadata)
    with whole_file(uri) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        group: list[RawEntry] = []
        for entry in events.raw(job.id):
            if entry.kind != "step":
                continue
            group.append(entry)
            if len(group) == _ROWS_PER_GROUP:
                writer.write_table(_table(group, effective, schema))
                group = []
        if group:
            writer.write_table(_table(group, effective, schema))
    return uri


def _effective(ledger: Ledger, job: JobRecord) -> Iterator[StepRecord]:
    initial = ledger.initial(job.id)
    if initial is not None:
        yield initial
    for start in range(1, job.step + 1, _ROWS_PER_GROUP):
        yield from ledger.steps(job.id, start, _ROWS_PER_GROUP)


def _table(entries: list[RawEntry], effective: set[tuple[int, int]], schema: pa.Schema) -> pa.Table:
    records = [decode_step(entry.text) for entry in entries]
    columns: dict[str, list[object]] = {
        "effective": [(record.step, record.attempt) in effective for record in records],
        "record": [entry.text for entry in entries],
        "entry": [entry.id for entry in entries],
    }
    for name in schema.names[3:]:
        columns[name] = [getattr(record, name) for record in records]
    return pa.table(columns, schema=schema)
