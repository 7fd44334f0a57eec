"""Datasets, where their rows come from, and what was left out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from services.store.records.training import ErrorRecord


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by size; bucket i counts values < upper_bounds[i] that no earlier bucket counted, the last is open."""

    upper_bounds: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()


class DatasetState(Enum):
    """Where a dataset stands."""

    CREATING = "creating"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class IssueRecord:
    """An error in one conversation."""

    conversation_index: int
    code: str
    message: str
    field: str = ""
    message_index: int | None = None
    conversation_id: str = ""


@dataclass(frozen=True, slots=True)
class WarningRecord:
    """A remark on one conversation."""

    conversation_index: int
    message: str
    more: int = 0  #: further conversations that it holds for, where it is kept only once


@dataclass(frozen=True, slots=True)
class RowFilterRecord:
    """Filter on a source's rows; all conditions have to hold."""

    where: tuple[str, ...] = ()  #: conditions on columns
    min_messages: int = 0  #: 0, here and below: any number
    max_messages: int = 0
    min_characters: int = 0  #: code points of the content of all messages
    max_characters: int = 0


@dataclass(frozen=True, slots=True)
class LeftOutRecord:
    """What of a source was left out, and what was found of the rest."""

    filtered: int = 0  #: rows that the filter does not want
    duplicates: int = 0  #: conversations that came before
    overlapping: int = 0  #: conversations of the test part that are in the training part too; they stay
    unreadable: int = 0  #: rows that the sender of a stream could not read
    unused_columns: tuple[str, ...] = ()  #: that hold something and that nobody reads; at most 64
    outside_links: tuple[str, ...] = ()  #: files of a source that are links out of the roots; at most 50
    mixed_splits: tuple[str, ...] = ()  #: a file of a training and one of a held-out split that both are in it
    repeated_files: tuple[str, ...] = ()  #: links to files that are read under another path, and not again; at most 50


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """A named source of conversations, or what the sender of a stream said of its files."""

    uri: str
    split: str = ""
    revision: str = ""
    config: str = ""
    format: str = ""
    column_mapping: Mapping[str, str] = field(default_factory=dict)
    limit: int = 0
    deduplicate: str = ""  #: "exact", "normalized"; empty: keep all
    test_fraction: float = 0.0  #: part that is held out, >= 0 and < 1; 0: no split
    split_seed: int = 0
    take_test: bool = False  #: take what is held out, not the rest
    skip_bad: bool = False  #: leave bad rows out and report them, instead of failing
    skip_too_long: bool = False  #: likewise, but only those that max_length leaves nothing to train
    filter: RowFilterRecord = field(default_factory=RowFilterRecord)
    overlap_split: str = ""  #: another split of a hub dataset, in which this dataset's conversations are looked for
    streaming: bool = True  #: read a hub dataset as it comes, instead of downloading all of it first


@dataclass(frozen=True, slots=True)
class DatasetRecord:
    """One dataset."""

    id: str  #: "ds-" and 12 characters
    options_json: str  #: canonical JSON of the preprocess options, defaults and date filled in; part of the address
    state: DatasetState = DatasetState.CREATING
    display_name: str = ""
    model: str = ""  #: name of the model in the options
    sha256: str = ""  #: content address; empty before READY
    uri: str = ""  #: Arrow file in the store; empty before READY
    conversations: int = 0
    examples: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    weight_sum: float = 0.0
    target_bytes: int = 0
    truncated_examples: int = 0
    unchecked_examples: int = 0  #: whose ids were not compared with the text
    skipped_conversations: int = 0
    too_long_conversations: int = 0  #: of these
    issues: tuple[IssueRecord, ...] = ()  #: at most 50
    warnings: tuple[WarningRecord, ...] = ()  #: at most 50
    error: ErrorRecord | None = None
    owner: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    create_time: float = 0.0
    ready_time: float = 0.0
    template_sha256: str = ""
    tokenizer_sha256: str = ""
    length_histogram: Histogram = field(default_factory=Histogram)
    loss_token_histogram: Histogram = field(default_factory=Histogram)
    source: DatasetSource | None = None
    conversations_read: int = 0
    shards: int = 0
    shards_done: int = 0
    left_out: LeftOutRecord = field(default_factory=LeftOutRecord)
