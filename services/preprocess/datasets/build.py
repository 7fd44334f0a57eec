"""Build a dataset from conversations as they arrive: rows to the file, totals to the record.

Memory is bounded: only counts, the first remarks and one chunk are held.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.preprocess.domain.error_codes import TOO_LONG
from services.store.records import DatasetRecord, DatasetState, Histogram, IssueRecord, LeftOutRecord, WarningRecord
from services.store.shards.dataset_files import Written
from services.store.shards.dataset_rows import Runs
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.length_statistics import Histogram as Lengths
from turnloom.masks.domain.length_statistics import Statistics

#: How warnings begin that are the same for many conversations: kept once, at the first, and counted.
ONCE = ("the key ", "tools: ", "the template prints the date")
REMARKS = 50  #: issues and warnings that a record keeps


class RowWriter(Protocol):
    """Anything that takes the rows: DatasetWriter or ShardWriter of services.store."""

    def add(self, conversation: int, part: int, token_ids: NDArray[np.int32], runs: Runs, target_bytes: int) -> None:
        """Add a row."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals over the conversations of a dataset or a shard, beside their rows."""

    skipped: int = 0  #: bad conversations that were left out
    too_long: int = 0  #: of these, those that max_length leaves nothing to train
    truncated_examples: int = 0
    unchecked_examples: int = 0
    issues: tuple[IssueRecord, ...] = ()  #: the first REMARKS
    warnings: tuple[WarningRecord, ...] = ()  #: likewise
    lengths: Histogram = field(default_factory=Histogram)
    loss_lengths: Histogram = field(default_factory=Histogram)

    @classmethod
    def of_all(cls, parts: Sequence[Totals]) -> Totals:
        """Return the totals of all shards of one dataset, given in order."""
        return cls(
            skipped=sum(part.skipped for part in parts),
            too_long=sum(part.too_long for part in parts),
            truncated_examples=sum(part.truncated_examples for part in parts),
            unchecked_examples=sum(part.unchecked_examples for part in parts),
            issues=tuple(islice(chain.from_iterable(part.issues for part in parts), REMARKS)),
            warnings=_warnings_of_all(parts),
            lengths=_sum([part.lengths for part in parts]),
            loss_lengths=_sum([part.loss_lengths for part in parts]),
        )


@dataclass(slots=True)
class DatasetBuild:
    """The running totals of a dataset while its rows are written."""

    writer: RowWriter
    seen: int = 0  #: conversations, bad ones included: the number of the next
    skipped: int = 0
    too_long: int = 0
    issues: list[IssueRecord] = field(default_factory=list)
    warnings: list[WarningRecord] = field(default_factory=list)
    said: dict[str, WarningRecord] = field(default_factory=dict)  #: warnings that are said once
    statistics: Statistics = field(default_factory=Statistics)

    def add(self, results: Sequence[PreprocessedConversation | IssueRecord]) -> None:
        """Write the rows of the good conversations, and remember what is wrong with the others."""
        for result in results:
            index = self.seen
            self.seen += 1
            if isinstance(result, IssueRecord):
                self.skipped += 1
                self.too_long += result.code == TOO_LONG
                if len(self.issues) < REMARKS:
                    self.issues.append(result)
                continue
            for example in result.examples:
                self.writer.add(index, example.part, example.token_ids, example.weight_runs, example.target_bytes)
            self.statistics.add(result)
            self._warn(index, result.warnings)

    def _warn(self, index: int, sentences: Sequence[str]) -> None:
        for sentence in sentences:
            if sentence.startswith(ONCE):
                if sentence in self.said or len(self.said) < REMARKS:
                    _say_once(self.said, WarningRecord(index, sentence))
            elif len(self.warnings) < REMARKS:
                self.warnings.append(WarningRecord(index, sentence))

    def totals(self) -> Totals:
        """Return the totals so far."""
        summary = self.statistics.summary()
        return Totals(
            skipped=self.skipped,
            too_long=self.too_long,
            truncated_examples=summary.truncated_examples,
            unchecked_examples=summary.unchecked_examples,
            issues=tuple(self.issues[:REMARKS]),
            warnings=(*self.said.values(), *self.warnings)[:REMARKS],
            lengths=histogram(summary.lengths),
            loss_lengths=histogram(summary.loss_lengths),
        )


def finished(begun: DatasetRecord, written: Written, totals: Totals, left_out: LeftOutRecord) -> DatasetRecord:
    """Return the record of a finished dataset, whoever built it.

    Args:
        begun: the record as it was while the dataset was made.
        written: its manifest and shards in the store.
        totals: of all its conversations.
        left_out: what a choice among the rows of its source left out.
    """
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
        truncated_examples=totals.truncated_examples,
        unchecked_examples=totals.unchecked_examples,
        skipped_conversations=totals.skipped,
        too_long_conversations=totals.too_long,
        issues=totals.issues,
        warnings=totals.warnings,
        length_histogram=totals.lengths,
        loss_token_histogram=totals.loss_lengths,
        left_out=left_out,
        ready_time=time.time(),
    )


def histogram(lengths: Lengths) -> Histogram:
    """Return the statistics' histogram as the record keeps it."""
    return Histogram(upper_bounds=tuple(lengths.edges), counts=tuple(lengths.counts))


def _say_once(said: dict[str, WarningRecord], warning: WarningRecord) -> None:
    """Keep a warning at the first conversation that it came from, and count the others."""
    known = said.get(warning.message)
    said[warning.message] = replace(known, more=known.more + 1 + warning.more) if known else warning


def _warnings_of_all(parts: Sequence[Totals]) -> tuple[WarningRecord, ...]:
    """Return the first REMARKS warnings; those that are the same for many conversations come first, and once."""
    found = list(chain.from_iterable(part.warnings for part in parts))
    once: dict[str, WarningRecord] = {}
    for warning in found:
        if warning.message.startswith(ONCE):
            _say_once(once, warning)
    others = (warning for warning in found if not warning.message.startswith(ONCE))
    return tuple(islice(chain(once.values(), others), REMARKS))


def _sum(histograms: Sequence[Histogram]) -> Histogram:
    """Add up histograms of equal bounds; a shard that was not made has none."""
    made = [histogram for histogram in histograms if histogram.counts]
    columns = zip(*(histogram.counts for histogram in made), strict=True)
    return Histogram(made[0].upper_bounds, tuple(sum(counts) for counts in columns)) if made else Histogram()
