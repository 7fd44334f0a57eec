"""Check what a dataset's state allows."""

from __future__ import annotations

from services.preprocess.domain.refusals import WrongState
from services.store.records import DatasetRecord, DatasetState


def ready(record: DatasetRecord) -> DatasetRecord:
    """Return the record, if its rows are there.

    Raises:
        WrongState: CREATING, FAILED or CANCELLED.
    """
    if record.state is not DatasetState.READY:
        why = f" ({record.error.message})" if record.error else ""
        raise WrongState(f"Dataset {record.id!r} is {record.state.name}{why}; use a dataset that is READY.")
    return record
