"""Records of the store, as frozen values with unit and shape: a module for each noun, imported from here.

Field names and meanings are those of proto/turnloom/v1; `codec` writes and reads them as JSON.
"""

from __future__ import annotations

from services.store.records.datasets import (
    DatasetRecord,
    DatasetSource,
    DatasetState,
    Histogram,
    IssueRecord,
    LeftOutRecord,
    RowFilterRecord,
    WarningRecord,
)
from services.store.records.hosts import (
    GpuRecord,
    HostRecord,
    ServedModelRecord,
)
from services.store.records.sweeps import (
    Rung,
    SweepAxis,
    SweepRecord,
)
from services.store.records.training import (
    EDGES,
    HELD,
    TERMINAL,
    CheckpointRecord,
    Control,
    CutReport,
    ErrorRecord,
    EventRecord,
    Hyperparameters,
    JobNotice,
    JobRecord,
    JobSpec,
    JobState,
    MixPart,
    MixSums,
    ReplySpec,
    Schedule,
    Standing,
    StartFrom,
    StepRecord,
    Sums,
    WeightNormalization,
)

#: Raised by one when stored values change their meaning; docs/redis.md lists what each version holds.
SCHEMA_VERSION = 1

__all__ = [
    "EDGES",
    "HELD",
    "SCHEMA_VERSION",
    "TERMINAL",
    "CheckpointRecord",
    "Control",
    "CutReport",
    "DatasetRecord",
    "DatasetSource",
    "DatasetState",
    "ErrorRecord",
    "EventRecord",
    "GpuRecord",
    "Histogram",
    "HostRecord",
    "Hyperparameters",
    "IssueRecord",
    "JobNotice",
    "JobRecord",
    "JobSpec",
    "JobState",
    "LeftOutRecord",
    "MixPart",
    "MixSums",
    "ReplySpec",
    "RowFilterRecord",
    "Rung",
    "Schedule",
    "ServedModelRecord",
    "Standing",
    "StartFrom",
    "StepRecord",
    "Sums",
    "SweepAxis",
    "SweepRecord",
    "WarningRecord",
    "WeightNormalization",
]
