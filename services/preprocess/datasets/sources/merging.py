"""Merge the results of all shards into one dataset, which is the same however the shards were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.preprocess.datasets.build import Totals, finished
from services.preprocess.datasets.sources.lease import Lease
from services.preprocess.datasets.sources.shards import ShardResult
from services.preprocess.datasets.sources.sizes import SizeLimit, refuse_larger
from services.preprocess.domain.source_errors import BadRow, SourceEmpty
from services.store.records import DatasetRecord, IssueRecord, LeftOutRecord
from services.store.shards.dataset_files import Known, join
from services.store.shards.manifest import shards_folder
from turnloom.foreign.columns import MOST_UNUSED


class BadRowFound(BadRow):
    """The first unusable row of a dataset that was to be made whole."""

    def __init__(self, issue: IssueRecord) -> None:
        super().__init__(issue.message, hint="Repair the row, or leave bad rows out (skip).")
        self.issue = issue


def merge(
    begun: DatasetRecord,
    results: Sequence[ShardResult],
    left_out: LeftOutRecord,
    store_url: str,
    limit: SizeLimit,
    lease: Lease,
    known: Known,
) -> DatasetRecord:
    """Return the record of the finished dataset, whose manifest is in the store.

    Args:
        begun: the record as it is while the dataset is made.
        results: of all shards in order.
        left_out: of the whole source.
        store_url: where datasets lie.
        limit: of the dataset's size.
        lease: of this task.
        known: whether a dataset of an address is READY already.

    Raises:
        BadRowFound: the first bad row of the first shard that has one.
        SourceEmpty: no row gave an example.
        SourceTooLarge, NotWanted, StoreError.
    """
    bad = next((result.bad for result in results if result.bad), None)
    if bad is not None:
        raise BadRowFound(bad)
    read = sum(result.read for result in results)
    refuse_larger(read, sum(result.size for result in results), limit)
    totals = Totals.of_all([result.totals for result in results])
    if read == totals.skipped:
        first = f", the first: {totals.issues[0].message}" if totals.issues else ""
        raise SourceEmpty(f"No row of {read} can be read{first}", hint="Look at the format and the columns.")
    files = [result.file for result in results if result.file is not None]
    written = join(store_url, begun.options_json, files, shards_folder(store_url, begun.id), lease.check, known)
    made = replace(begun, conversations_read=read, shards=len(results), shards_done=len(results))
    unused = dict.fromkeys(name for result in results for name in result.unused_columns)
    return finished(made, written, totals, replace(left_out, unused_columns=tuple(unused)[:MOST_UNUSED]))
