"""The results of all shards put together to one dataset, which is the same however they were made. Knows no source."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice

from services.preprocess.dataset_build import REMARKS
from services.preprocess.sources.errors import BadRow, SourceEmpty
from services.preprocess.sources.lease import Lease
from services.preprocess.sources.shards import ShardResult
from services.store.dataset_files import DatasetReader, DatasetWriter
from services.store.records import DatasetRecord, DatasetState, Histogram, IssueRecord, WarningRecord


class BadRowFound(BadRow):
    """The first row that can't be used, of a dataset that was to be made whole."""

    def __init__(self, issue: IssueRecord) -> None:
        super().__init__(issue.message, hint="Repair the row, or leave bad rows out (skip).")
        self.issue = issue


def merge(
    begun: DatasetRecord,
    results: Sequence[ShardResult],
    warnings: Sequence[WarningRecord],
    store_url: str,
    lease: Lease,
) -> DatasetRecord:
    """The record of the finished dataset, whose file is in the store.

    Args:
        begun: the record as it is while the dataset is made.
        results: of all shards in order.
        warnings: of the whole source; they come before those of its rows.
        store_url: where datasets lie.
        lease: of this task.

    Raises:
        BadRowFound: the first bad row of the first shard that has one.
        SourceEmpty: no row gave an example.
        NotWanted, StoreError.
    """
    bad = next((result.bad for result in results if result.bad), None)
    if bad is not None:
        raise BadRowFound(bad)
    read = sum(result.read for result in results)
    skipped = sum(result.skipped for result in results)
    issues = tuple(islice(chain.from_iterable(result.issues for result in results), REMARKS))
    if read == skipped:
        first = f", the first: {issues[0].message}" if issues else ""
        raise SourceEmpty(f"All {read} rows are bad{first}", hint="Look at the format and the columns.")
    with DatasetWriter(store_url, begun.options_json) as writer:
        for result in results:
            lease.check()
            if result.uri:
                with DatasetReader(result.uri) as reader:
                    for row in reader.rows():
                        writer.append(row)
        lease.check()
        written = writer.commit()
    remarks = islice(chain(warnings, *(result.warnings for result in results)), REMARKS)
    return replace(
        begun,
        state=DatasetState.READY,
        sha256=written.sha256,
        uri=written.uri,
        conversations=written.conversations,
        examples=written.rows,
        tokens=written.tokens,
        loss_tokens=written.loss_tokens,
        weight_sum=written.weight_sum,
        target_bytes=written.target_bytes,
        truncated_examples=sum(result.truncated_examples for result in results),
        skipped_conversations=skipped,
        issues=issues,
        warnings=tuple(remarks),
        length_histogram=_sum([result.lengths for result in results]),
        loss_token_histogram=_sum([result.loss_lengths for result in results]),
        ready_time=time.time(),
        conversations_read=read,
        shards=len(results),
        shards_done=len(results),
    )


def _sum(histograms: Sequence[Histogram]) -> Histogram:
    """Histograms of equal bounds added up."""
    columns = zip(*(histogram.counts for histogram in histograms), strict=True)
    return Histogram(histograms[0].upper_bounds, tuple(sum(counts) for counts in columns))
