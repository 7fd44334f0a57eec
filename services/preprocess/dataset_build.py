"""A dataset from conversations as they come: rows to the file, totals to the record. Knows no protobuf and no Redis.

Memory is bounded: nothing but counts, the first remarks and one chunk is held.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from services.preprocess.examples import Preprocessed, TokenizedExample
from services.preprocess.statistics import Histogram as Lengths
from services.preprocess.statistics import Statistics
from services.store.dataset_files import DatasetWriter, Row, Written
from services.store.records import DatasetRecord, DatasetState, Histogram, IssueRecord, WarningRecord

REMARKS = 50  #: issues and warnings that a record keeps


def row(conversation: int, example: TokenizedExample) -> Row:
    """One example as the file holds it."""
    return Row(
        conversation=conversation,
        part=example.part,
        token_ids=example.token_ids,
        run_lengths=np.array([length for length, _ in example.weight_runs], dtype=np.uint32),
        run_values=np.array([weight for _, weight in example.weight_runs], dtype=np.float32),
        target_bytes=example.target_bytes,
    )


@dataclass(slots=True)
class DatasetBuild:
    """What is known of a dataset while its rows are written."""

    writer: DatasetWriter
    seen: int = 0  #: conversations, bad ones included
    skipped: int = 0
    issues: list[IssueRecord] = field(default_factory=list)
    warnings: list[WarningRecord] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)

    def add(self, results: Sequence[Preprocessed | IssueRecord]) -> None:
        """Write the rows of the good ones and remember what is wrong with the others."""
        for result in results:
            index = self.seen
            self.seen += 1
            if isinstance(result, IssueRecord):
                self.skipped += 1
                if len(self.issues) < REMARKS:
                    self.issues.append(result)
                continue
            for example in result.examples:
                self.writer.append(row(index, example))
            self.statistics.add(result)
            room = REMARKS - len(self.warnings)
            self.warnings += [WarningRecord(index, sentence) for sentence in result.warnings[:room]]

    def record(self, begun: DatasetRecord, written: Written) -> DatasetRecord:
        """The record of the finished dataset."""
        summary = self.statistics.summary()
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
            truncated_examples=summary.truncated_examples,
            skipped_conversations=self.skipped,
            issues=tuple(self.issues),
            warnings=tuple(self.warnings),
            length_histogram=histogram(summary.lengths),
            loss_token_histogram=histogram(summary.loss_lengths),
            ready_time=time.time(),
        )


def histogram(lengths: Lengths) -> Histogram:
    """Statistics' histogram as the record keeps it."""
    return Histogram(upper_bounds=tuple(lengths.edges), counts=tuple(lengths.counts))
