"""The kinds of tasks: plan, shard, merge; of a large source also scan and choose."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from services.preprocess.datasets.sources.choosing import choose
from services.preprocess.datasets.sources.dispatch import CHOOSE, MERGE, PLAN, SCAN
from services.preprocess.datasets.sources.lease import Lease, NotWanted
from services.preprocess.datasets.sources.made_rows import ROWS, plan_rows, take_rows
from services.preprocess.datasets.sources.merging import BadRowFound, merge
from services.preprocess.datasets.sources.models import model_of, options_of
from services.preprocess.datasets.sources.pieces import Shard
from services.preprocess.datasets.sources.planning import ScanPlan, plan, plan_scans, shown
from services.preprocess.datasets.sources.scanning import Part, ScanFile, scan
from services.preprocess.datasets.sources.selecting import choice_of
from services.preprocess.datasets.sources.shards import Making, ShardResult, make_shard
from services.preprocess.datasets.sources.sizes import SizeLimit, refuse_larger
from services.preprocess.datasets.sources.task_context import TaskContext
from services.preprocess.domain.bad_rows import BadRows
from services.preprocess.domain.error_codes import code_of
from services.preprocess.domain.source_errors import SourceEmpty, SourceError
from services.preprocess.models.registry import BadModels
from services.store.blobs.files import remove
from services.store.codec import decode, encode
from services.store.dataset_work import ClaimedTask
from services.store.errors import StoreFull
from services.store.records import DatasetRecord, DatasetSource, ErrorRecord, IssueRecord, LeftOutRecord
from services.store.retries import retry_redis
from turnloom.errors import TurnloomError
from turnloom.masks.domain.errors import InvalidOption, ModelNotUsable, TemplateError
from turnloom.reading.chat_formats import Format
from turnloom.reading.file_names import mixed_splits
from turnloom.reading.filters import RowFilter

NO_COLUMNS: Final[Mapping[str, str]] = {}
NOTHING: Final = LeftOutRecord()
Task: TypeAlias = Callable[[TaskContext, DatasetRecord, ClaimedTask, Lease], None]


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Argument of a shard's task."""

    format: str
    columns: Mapping[str, str]
    shard: Shard


@dataclass(frozen=True, slots=True)
class ScanTask:
    """Argument of the task that looks at a part of the source."""

    format: str
    columns: Mapping[str, str]
    buckets: int
    part: Part


@dataclass(frozen=True, slots=True)
class ChooseTask:
    """Argument of the task that puts together what all parts gave."""

    format: str
    columns: Mapping[str, str]
    parts: int


@dataclass(frozen=True, slots=True)
class MergeTask:
    """Argument of the last task."""

    format: str
    columns: Mapping[str, str]
    left_out: LeftOutRecord = NOTHING  #: absent from a task that an earlier version set aside


def plan_source(parts: TaskContext, record: DatasetRecord, _claimed: ClaimedTask, lease: Lease) -> None:
    """Find the source, cut it, and begin its shards."""
    assert record.source is not None
    folder = f"{parts.folder(record.id)}/staged"
    try:
        if record.source.format == ROWS:
            _begin_shards(parts, record, lease, plan_rows(record, parts.settings.source_roots, lease))
            return
        with lease.breaking():
            arguments = (record.source, parts.settings.source_roots, folder, limit_of(parts), lease)
            scans = plan_scans(*arguments)
            made = plan(*arguments) if scans is None else None
    except NotWanted:
        if parts.ended(record.id):  # what was staged meanwhile has no owner
            remove(parts.folder(record.id))
        raise
    if scans is not None:
        _begin_scans(parts, record, lease, scans)
    elif made is not None:
        _begin_shards(parts, record, lease, made.shards, made.shape.name, made.shape.columns, made.left_out)


def _begin_scans(parts: TaskContext, record: DatasetRecord, lease: Lease, scans: ScanPlan) -> None:
    """Queue a task for each part, and set aside what the choice among their rows will need."""
    shape = scans.shape
    following = {
        f"{SCAN}-{number}": encode(ScanTask(shape.name, shape.columns, scans.buckets, part))
        for number, part in enumerate(scans.parts)
    }
    parts.work.note(record.id, CHOOSE, encode(ChooseTask(shape.name, shape.columns, len(following))))
    parts.work.done(record.id, lease.task, lease.holder, following=following)


def scan_part(parts: TaskContext, record: DatasetRecord, claimed: ClaimedTask, lease: Lease) -> None:
    """Look at one part; the last of them begins the choice."""
    assert record.source is not None
    task = decode(ScanTask, claimed.argument)
    shape = Format(task.format, task.columns)
    url = _scan_file(parts, record, lease.task)
    try:
        with lease.breaking():
            scan(task.part, shape, choice_of(record.source), task.buckets, url, lease)
    except NotWanted:
        if parts.ended(record.id):
            remove(parts.folder(record.id))
        raise
    parts.work.done(record.id, lease.task, lease.holder, following={CHOOSE: ""}, last_of=f"{SCAN}-")


def choose_rows(parts: TaskContext, record: DatasetRecord, claimed: ClaimedTask, lease: Lease) -> None:
    """Cut the source into shards by what its parts gave, and begin them."""
    assert record.source is not None
    task = decode(ChooseTask, claimed.argument)
    scans = [ScanFile(_scan_file(parts, record, f"{SCAN}-{number}")) for number in range(task.parts)]
    shards, left_out = choose(record.source, scans, lease)
    refuse_larger(sum(shard.wanted for shard in shards), 0, limit_of(parts))
    _begin_shards(parts, record, lease, shards, task.format, task.columns, left_out)


def _scan_file(parts: TaskContext, record: DatasetRecord, task: str) -> str:
    return f"{parts.folder(record.id)}/{task}"


def _begin_shards(
    parts: TaskContext,
    record: DatasetRecord,
    lease: Lease,
    found: Sequence[Shard],
    name: str = ROWS,
    columns: Mapping[str, str] = NO_COLUMNS,
    left_out: LeftOutRecord = NOTHING,
) -> None:
    """Queue all shards, and set aside what the merge will need."""
    if not found:
        raise SourceEmpty(f"{record.source and record.source.uri} holds no row.", hint="Look at the files.")
    mixed = mixed_splits(dict.fromkeys(piece.place for shard in found for piece in shard.pieces))
    left_out = replace(left_out, mixed_splits=mixed)
    shards = {str(n): encode(ShardTask(name, columns, shard)) for n, shard in enumerate(found)}
    parts.work.note(record.id, MERGE, encode(MergeTask(name, columns, left_out)))
    parts.datasets.progress(record.id, conversations_read=0, shards=len(shards))
    parts.work.done(record.id, lease.task, lease.holder, following=shards)


def shard(parts: TaskContext, record: DatasetRecord, claimed: ClaimedTask, lease: Lease) -> None:
    """Make one shard; the last of them begins the merge."""
    task = decode(ShardTask, claimed.argument)
    # Of this attempt alone: another may have given the dataset its shard, whose file must be kept.
    folder = f"{parts.shards_folder(record.id)}/{lease.task}-{secrets.token_hex(4)}"
    try:
        result = _made(parts, record, task, folder, lease)
    except NotWanted:
        if not lease.behind_bad_shard:
            raise
        result = ShardResult()  # its rows will not be read, but all shards have to be there
    lease.renew()
    index = int(lease.task)
    try:
        done = retry_redis(lambda: parts.datasets.shard_done(record.id, index, encode(result)), 60.0)
    except BaseException:
        remove(folder)  # the dataset may have ended, and its folder be gone already
        raise
    following = {MERGE: ""} if done == parts.datasets.get(record.id).shards else {}
    parts.work.done(record.id, lease.task, lease.holder, bad_shard=index if result.bad else None, following=following)


def _made(parts: TaskContext, record: DatasetRecord, task: ShardTask, folder: str, lease: Lease) -> ShardResult:
    assert record.source is not None
    lease.check()
    with model_of(record, parts.settings) as model:
        if task.format == ROWS:
            return take_rows(task.shard, folder, record.options_json, model.vocab_size, limit_of(parts), lease)
        making = Making(
            shape=Format(task.format, task.columns),
            options=options_of(record),
            options_json=record.options_json,
            model=model,
            bad_rows=_bad_rows(record.source),
            size=limit_of(parts),
            filtered_by=tuple(RowFilter(record.source.filter.where).columns),
        )
        return make_shard(making, task.shard, folder, lease)


def _bad_rows(source: DatasetSource) -> BadRows:
    if source.skip_bad:
        return BadRows.SKIP
    return BadRows.SKIP_TOO_LONG if source.skip_too_long else BadRows.FAIL


def merge_shards(parts: TaskContext, record: DatasetRecord, claimed: ClaimedTask, lease: Lease) -> None:
    """Put all shards together and make the dataset READY."""
    task = decode(MergeTask, claimed.argument)
    assert record.source is not None
    results = [decode(ShardResult, text) for text in parts.datasets.shards(record.id).values()]
    if task.format == ROWS:
        begun = record
    else:
        begun = replace(record, source=shown(record.source, Format(task.format, task.columns)))
    known = parts.datasets.has_content
    made = merge(begun, results, task.left_out, parts.settings.store_url, limit_of(parts), lease, known)
    retry_redis(lambda: parts.datasets.ready(made), 60.0)
    parts.tidy(record.id)


def limit_of(parts: TaskContext) -> SizeLimit:
    """Return the size limit of a dataset."""
    return SizeLimit(parts.settings.max_dataset_conversations, parts.settings.max_dataset_bytes)


#: Tasks by name up to its first "-"; every other name is the number of a shard.
TASKS: Final[Mapping[str, Task]] = {
    PLAN: plan_source,
    SCAN: scan_part,
    CHOOSE: choose_rows,
    MERGE: merge_shards,
}


def failure(error: Exception) -> ErrorRecord | None:
    """Return why the dataset fails, or None where a retry may help."""
    if isinstance(error, SourceError):
        return ErrorRecord(error.code, str(error), hint=error.hint)
    if isinstance(error, InvalidOption | ModelNotUsable | TemplateError):
        return ErrorRecord(code_of(error).upper(), str(error), param="options")
    if isinstance(error, StoreFull):
        return ErrorRecord("STORE_FULL", str(error), hint="Make room there, then make the dataset again.")
    if isinstance(error, BadModels):
        return ErrorRecord("BAD_MODELS", str(error), hint="Repair models.toml of the preprocess worker.")
    if isinstance(error, TurnloomError):
        return ErrorRecord("INVALID_INPUT", error.message, hint=error.hint)
    return None


def issues_of(error: Exception) -> Sequence[IssueRecord]:
    """Return the offending row's issue, where a row is to blame."""
    return (error.issue,) if isinstance(error, BadRowFound) else ()
