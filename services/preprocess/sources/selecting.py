"""Which rows of a source are wanted: no duplicates, one part of a split. One pass, 16 bytes a row. Knows no file.

The choice is made once, before the shards begin, so that no worker has to know of another's rows.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from services.preprocess.refusals import MalformedConversation
from services.preprocess.sources.converting import document_of
from services.preprocess.sources.dedup import DIGEST, digest, first_of_each
from services.preprocess.sources.errors import SourceEmpty
from services.preprocess.sources.lease import Lease
from services.preprocess.sources.pieces import Shard
from services.preprocess.sources.shards import wanted
from services.preprocess.sources.splitting import held_out
from services.store.records import DatasetSource, WarningRecord
from turnloom.formats import Format
from turnloom.rows import RawRow


def select(
    source: DatasetSource, shards: Sequence[Shard], shape: Format, lease: Lease
) -> tuple[tuple[Shard, ...], tuple[WarningRecord, ...]]:
    """The shards with the rows that are wanted, and remarks on the others.

    Raises:
        SourceEmpty: there are too few rows for two parts.
        NotWanted, SourceNotReadable.
    """
    if not (source.deduplicate or source.test_fraction):
        return tuple(shards), ()
    digests = _digests(shards, shape, source.deduplicate or "exact", lease)
    first = first_of_each(digests)
    keep = first.copy() if source.deduplicate else np.ones(len(digests), dtype=np.bool_)
    remarks = []
    left_out = np.flatnonzero(~keep)
    if len(left_out):
        share = f"{len(left_out)} of {len(digests)} conversations"
        sentence = f"{share} came before ({source.deduplicate}) and are left out."
        remarks.append(WarningRecord(int(left_out[0]), sentence))
    if source.test_fraction:
        keep, remark = _part(source, digests, keep)
        remarks += remark
    return tuple(_taking(shard, keep) for shard in shards), tuple(remarks)


def _digests(shards: Sequence[Shard], shape: Format, form: str, lease: Lease) -> NDArray[np.bytes_]:
    """Shape (rows,). A row that can't be read equals no other, so that it is reported."""
    found = bytearray()
    for shard in shards:
        lease.check()
        for index, row in wanted(shard):
            found += _digest(index, row, shape, form)
    return np.frombuffer(bytes(found), dtype=f"S{DIGEST}")


def _digest(index: int, row: RawRow, shape: Format, form: str) -> bytes:
    try:
        return digest(document_of(row, shape), form)
    except MalformedConversation:
        return index.to_bytes(DIGEST, "big")


def _part(
    source: DatasetSource, digests: NDArray[np.bytes_], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], list[WarningRecord]]:
    """One side of the split, and how many test conversations are in the training part too."""
    chosen = np.flatnonzero(keep)
    if len(chosen) < 2:
        raise SourceEmpty(f"{len(chosen)} conversation can't be split into train and test.", "Give at least two.")
    test = np.zeros(len(keep), dtype=np.bool_)
    test[chosen[held_out(len(chosen), source.test_fraction, source.split_seed)]] = True
    train = keep & ~test
    both = np.flatnonzero(test)[np.isin(digests[test], digests[train])]
    remarks = []
    if len(both):
        sentence = f"{len(both)} of {int(test.sum())} test conversations are in the training part too; deduplicate."
        remarks.append(WarningRecord(int(both[0]), sentence))
    return (test if source.take_test else train), remarks


def _taking(shard: Shard, keep: NDArray[np.bool_]) -> Shard:
    bits = np.packbits(keep[shard.index : shard.index + shard.count])
    return replace(shard, take=base64.b64encode(bits.tobytes()).decode())
