"""Jobs, their steps, evaluations, checkpoints and events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class JobState(Enum):
    """Where a job stands."""

    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


#: The only ways a job may go. FAILED and CANCELLED are left by ResumeJob alone; SUCCEEDED is final.
EDGES: Mapping[JobState, frozenset[JobState]] = {
    JobState.VALIDATING: frozenset({JobState.QUEUED, JobState.FAILED}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.PAUSING, JobState.CANCELLING, JobState.SUCCEEDED, JobState.FAILED}
    ),
    JobState.PAUSING: frozenset({JobState.PAUSED}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}

TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
#: States in which a worker holds the job and renews its lease.
HELD = frozenset({JobState.RUNNING, JobState.PAUSING, JobState.CANCELLING})


class Schedule(Enum):
    """How the learning rate moves."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class WeightNormalization(Enum):
    """Divisor of a step's weighted loss before it is sent; reported NLL is never affected."""

    NONE = "none"
    PER_EXAMPLE = "per_example"
    PER_BATCH = "per_batch"


class Control(Enum):
    """Request to the loop, returned by every step commit. All but NONE: save a checkpoint, then leave."""

    NONE = "none"
    PAUSE = "pause"
    CANCEL = "cancel"
    PREEMPT = "preempt"


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """Training parameters of a job; the defaults are the documented ones."""

    lora_rank: int = 32  #: >= 1
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True
    learning_rate: float = 1e-4  #: peak, > 0
    schedule: Schedule = Schedule.CONSTANT
    warmup_steps: int = 0
    epochs: int = 1  #: >= 1; without effect where max_steps is set
    max_steps: int | None = None  #: >= 1; None: as epochs say
    batch_size: int = 16  #: conversations per step
    max_length: int | None = None  #: tokens per row; None: the dataset's own
    seed: int = 0  #: of the order of conversations
    eval_every: int = 50  #: steps; 0: only at step 0 and at the end
    checkpoint_every: int = 50  #: steps; 0: only at step 0 and at the end
    checkpoint_every_seconds: int = 300
    pipeline_depth: int = 2  #: 1 to 8
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0  #: 0: no clipping
    weight_normalization: WeightNormalization = WeightNormalization.NONE
    max_tokens_per_call: int = 0  #: padded tokens, on a server that packs real ones; 0: found by growing
    early_stopping_patience: int = 0  #: evaluations; 0: never
    early_stopping_min_delta: float = 0.0  #: nats per unit of weight
    keep_checkpoints: int = 2  #: beside the best and the last


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """The reason of a failure."""

    code: str  #: UPPER_SNAKE_CASE
    message: str  #: one sentence
    param: str = ""  #: the field or setting to blame
    hint: str = ""  #: what to do


@dataclass(frozen=True, slots=True)
class StartFrom:
    """Where a job begins instead of at a fresh adapter."""

    job: str
    checkpoint: str = ""  #: id; empty: the last one
    weights_only: bool = False


@dataclass(frozen=True, slots=True)
class ReplySpec:
    """Replies of a job while it trains; its prompts lie in the object store (blobs/replies.py)."""

    prompts: int  #: how many, >= 1
    every: int = 0  #: steps between them; 0: only at the end
    max_tokens: int = 128  #: of a reply, its stop token included


@dataclass(frozen=True, slots=True)
class MixPart:
    """One dataset of a mixture."""

    dataset: str  #: id
    weight: float  #: relative to those of the others, > 0


@dataclass(frozen=True, slots=True)
class MixSums:
    """Totals of what was trained of one dataset of a mixture, in one step or several."""

    conversations: int = 0
    tokens: int = 0
    nll: float = 0.0  #: nats
    weight: float = 0.0  #: 0: nothing of it was trained


@dataclass(frozen=True, slots=True)
class CutReport:
    """Rows changed by a job's own max_length."""

    cut_rows: int = 0
    cut_tokens: int = 0
    emptied_rows: int = 0


@dataclass(frozen=True, slots=True)
class JobSpec:
    """The request for a job; never changes."""

    model: str  #: name as ListModels has it
    tuft_model: str  #: TuFT's name of it
    training_dataset: str  #: dataset id; empty for a mixture, so that a worker that knows none does not train on a part
    test_dataset: str = ""  #: dataset id; empty: no evaluation
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    metadata: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""  #: name of the creating token
    host: str = ""  #: host that was asked for; empty: any that can
    priority: int = 0  #: higher ones get a host first
    start_from: StartFrom | None = None
    replies: ReplySpec | None = None  #: None: it is not sampled while it trains
    sweep: str = ""  #: sweep id
    rungs: tuple[int, ...] = ()  #: steps after which it waits for the sweep's other cells; empty: it never does
    mix: tuple[MixPart, ...] = ()  #: the datasets that it trains on; empty: training_dataset alone

    @property
    def training(self) -> tuple[MixPart, ...]:
        """Return the datasets that it trains on, with their weights."""
        return self.mix or (MixPart(self.training_dataset, 1.0),)


@dataclass(frozen=True, slots=True)
class Standing:
    """A cell at a rung of successive halving."""

    job: str
    step: int  #: of the rung
    test_nll: float  #: there, nats per unit of weight
    rank: int  #: 1 for the lowest test NLL
    compared: int  #: cells that were compared
    kept: bool  #: it goes on
    reason: str  #: one sentence


@dataclass(frozen=True, slots=True)
class Sums:
    """Totals over steps: of the effective series, or of all work done, replayed steps included."""

    steps: int = 0
    nll: float = 0.0  #: nats
    weight: float = 0.0
    tokens: int = 0
    loss_tokens: int = 0
    rows: int = 0
    conversations: int = 0
    target_bytes: int = 0
    test_nll: float = 0.0  #: nats, over all evaluations
    test_weight: float = 0.0
    test_target_bytes: int = 0


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job as it is now."""

    id: str  #: "job-" and 12 characters
    spec: JobSpec
    state: JobState
    attempt: int = 0  #: of the last claim; 0: none yet. The next ticket carries attempt + 1
    host: str = ""  #: where it has a ticket or runs; empty while it waits for a host
    host_lost: bool = False  #: it is QUEUED there and waits for that host, which is silent
    worker: str = ""  #: the process that holds it
    move_to: str = ""  #: host that it was asked to move to, "*" for any other; empty: it stays
    control: Control = Control.NONE
    error: ErrorRecord | None = None
    planned_steps: int = 0
    step: int = 0  #: last step of the effective series
    epoch: int = 0  #: of that step, from 1
    start_step: int = 0  #: step of the checkpoint that the current attempt began from
    failed_attempts: int = 0  #: attempts in a row that ended without a new committed step
    learning_rate: float = 0.0  #: of the last step
    last_train_nll: float | None = None  #: nats per unit of weight, last step
    test_nll: float | None = None  #: last evaluation
    test_step: int = 0  #: step of that evaluation
    sampled_step: int = 0  #: last step whose replies were told; 0: none
    test_bits_per_byte: float | None = None
    best_test_nll: float | None = None  #: lowest of the effective series
    best_test_step: int = 0
    tokens_per_second: float = 0.0  #: over up to 20 last steps of this attempt; 0: not known yet
    effective: Sums = field(default_factory=Sums)
    work: Sums = field(default_factory=Sums)
    effective_mix: tuple[MixSums, ...] = ()  #: of the effective series by dataset, as spec.mix; empty before step 1
    work_mix: tuple[MixSums, ...] = ()  #: the same of all work done
    cut: CutReport = field(default_factory=CutReport)
    rungs: tuple[int, ...] = ()  #: spec.rungs while it takes part in successive halving; empty once it was taken out
    rung: int = 0  #: step of the rung where it waits, or is about to, for the sweep's other cells; 0: it does not
    passed_rung: int = 0  #: last rung that it was compared at
    standing: Standing | None = None  #: there
    best_checkpoint: str = ""  #: id
    last_checkpoint: str = ""  #: id; the next attempt begins from it
    stored_checkpoint: str = ""  #: id of the newest copied to the store; another host would go on from it
    stored_step: int = 0  #: its step
    stored_lag: float | None = None  #: seconds from its save to its arrival in the store
    adapter_uri: str = ""
    adapter_sha256: str = ""
    archive_uri: str = ""  #: Parquet ledger, once archived
    held_seconds: float = 0.0  #: that workers held it, up to the last time it was given back
    held_since: float = 0.0  #: when the worker that holds it took it; 0: none does
    held_cost: float = 0.0  #: of held_seconds, in `currency`; hours at a price in another are not in it
    hour_price: float | None = None  #: of an hour in which the last worker held it; None: not known
    currency: str = ""  #: "EUR", "USD", ...; empty: no worker named a price
    create_time: float = 0.0  #: seconds since 1970, as all times
    queue_time: float = 0.0  #: last time it became QUEUED
    start_time: float = 0.0  #: first claim; 0: none
    finish_time: float = 0.0  #: 0: not at a terminal state
    last_step_time: float = 0.0
    last_checkpoint_time: float = 0.0

    def training_seconds(self, now: float) -> float:
        """Return how long workers have held the job, seconds; on a GPU host this is time of its GPU."""
        return self.held_seconds + (max(0.0, now - self.held_since) if self.held_since else 0.0)

    def cost(self, now: float) -> float | None:
        """Return the cost of that time, in `currency`; None: no worker named a price."""
        if not self.currency:
            return None
        return self.held_cost + (self.training_seconds(now) - self.held_seconds) * (self.hour_price or 0.0) / 3600

    @property
    def mean_train_nll(self) -> float | None:
        """Return the token-weighted mean of the effective series, nats per unit of weight; None before step 1."""
        return self.effective.nll / self.effective.weight if self.effective.weight > 0 else None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """Result of one optimizer step. Step 0, the evaluation before step 1, sets only step, attempt, time and test."""

    step: int
    attempt: int
    epoch: int = 0  #: from 1
    conversations: int = 0
    rows: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    target_bytes: int = 0  #: UTF-8 bytes of the trained text
    nll_sum: float = 0.0  #: nats, sum of -logprob * weight, unnormalized weights
    weight_sum: float = 0.0  #: > 0 for step >= 1
    objective: float = 0.0  #: what was minimized
    learning_rate: float = 0.0
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    gpu_utilization: float | None = None  #: percent
    gpu_memory_bytes: int | None = None
    time: float = 0.0  #: seconds since 1970
    test_nll_sum: float | None = None  #: nats over the test dataset
    test_weight_sum: float | None = None
    test_target_bytes: int | None = None
    calls: int = 0  #: forward_backward calls that the step was cut into; 0: not recorded
    accelerated: bool | None = None  #: whether the accelerated model trained it; None: not recorded
    mix: tuple[MixSums, ...] = ()  #: by dataset, as the job's mix; empty: it has none

    def __post_init__(self) -> None:
        """Refuse numbers that aren't finite, which would poison every sum."""
        for name in ("nll_sum", "weight_sum", "objective", "learning_rate", "time", "test_nll_sum", "test_weight_sum"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"step {self.step}: {name} is {value}, only finite numbers enter the ledger")
        if self.step >= 1 and self.weight_sum <= 0:
            raise ValueError(f"step {self.step}: weight_sum is {self.weight_sum}; send a number above 0")
        if (self.test_nll_sum is None) != (self.test_weight_sum is None):
            raise ValueError(f"step {self.step}: test_nll_sum and test_weight_sum come together")


@dataclass(frozen=True, slots=True)
class EventRecord:
    """Something that happened in a job."""

    id: str  #: "milliseconds-sequence", sorts by time within the job
    time: float
    level: str  #: "info", "warning", "error"
    type: str  #: UPPER_SNAKE_CASE
    message: str  #: one sentence
    attempt: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobNotice:
    """The job itself changed to this."""

    state: JobState
    attempt: int
    host: str


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """A saved state of exactly `step` steps, with everything needed to resume from it and to prove it."""

    id: str  #: "<job>-a<attempt>-s<step>": also its name at TuFT
    path: str  #: TuFT's path of it (tinker://...)
    step: int
    attempt: int
    epoch: int = 1  #: data cursor: epoch of the next batch
    position: int = 0  #: data cursor: conversations of that epoch already trained
    probe_nll: float = 0.0  #: nats per unit of weight over the probe rows
    probe_rows: int = 0  #: rows in the probe
    test_nll: float | None = None  #: where evaluated at this step
    stored: bool = False  #: copied to the store
    uri: str = ""  #: folder in the store
    sha256: str = ""  #: of the files in the store
    sampler_path: str = ""  #: TuFT's path of the weights for sampling, where saved
    time: float = 0.0
    max_tokens_per_call: int = 0  #: budget of tokens that had proved good; 0: unknown
    superseded: bool = False  #: a later attempt began before it: it isn't part of the effective run
    packed: bool = False  #: that budget counts real tokens, for the server packed them; else padded ones
