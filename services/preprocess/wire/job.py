"""Jobs, steps, events, checkpoints and hosts as clients see them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from services.preprocess.domain.said import Said
from services.preprocess.wire.dataset import error, timestamp
from services.preprocess.wire.enums import EnumTable
from services.preprocess.wire.hyperparameters import hyperparameters_message
from services.store.blobs.evaluations import RowLosses
from services.store.pool.placing import Load, Waiting, why_waiting
from services.store.records import (
    CheckpointRecord,
    EventRecord,
    HostRecord,
    JobRecord,
    JobState,
    MixSums,
    StartFrom,
    StepRecord,
)
from turnloom.v1 import training_pb2 as pb

STATE: Final = EnumTable(pb.JobState.DESCRIPTOR, "JOB_STATE", JobState)


def job(record: JobRecord) -> pb.Job:
    """Return the job as it is now."""
    spec = record.spec
    return pb.Job(
        id=record.id,
        model=spec.model,
        training_dataset=spec.training[0].dataset,
        test_dataset=spec.test_dataset,
        hyperparameters=hyperparameters_message(spec.hyperparameters),
        state=STATE.to_wire[record.state],  # type: ignore[arg-type]  # mypy-protobuf types enum values apart from int
        progress=progress(record, time.time()),
        error=error(record.error),
        metadata=spec.metadata,
        owner=spec.owner,
        host=record.host,
        attempt=record.attempt,
        start_from=start_from(spec.start_from),
        sweep=spec.sweep,
        create_time=timestamp(record.create_time),
        start_time=timestamp(record.start_time),
        finish_time=timestamp(record.finish_time),
        best_checkpoint=record.best_checkpoint,
        last_checkpoint=record.last_checkpoint,
        adapter_uri=record.adapter_uri,
        adapter_sha256=record.adapter_sha256,
        cut=pb.CutReport(
            cut_rows=record.cut.cut_rows, cut_tokens=record.cut.cut_tokens, emptied_rows=record.cut.emptied_rows
        ),
        halving=halving(record),
        priority=spec.priority,
        stored_step=record.stored_step if record.stored_checkpoint else None,
        sample_prompts=spec.replies.prompts if spec.replies else 0,
        sample_every=spec.replies.every if spec.replies else 0,
        sampled_step=record.sampled_step,
        mix=[pb.MixPart(dataset=part.dataset, weight=part.weight) for part in spec.mix],
    )


def halving(record: JobRecord) -> pb.Halving | None:
    """Return the job's part in successive halving; None: it has none, or ResumeJob took it out."""
    if not record.rungs:
        return None
    waits = record.rung if record.state in (JobState.PAUSING, JobState.PAUSED) else 0
    standing = record.standing
    shown = pb.Halving(waiting_step=waits)
    if standing is not None:
        shown.compared_step, shown.stopped = standing.step, not standing.kept
        shown.rank, shown.compared = standing.rank, standing.compared
        shown.test_nll, shown.reason = standing.test_nll, standing.reason
    if waits:
        shown.reason = f"Waits for the other cells of its sweep at step {waits}, where they are compared."
    return shown


def progress(record: JobRecord, now: float) -> pb.Progress:
    """Return the job's progress; `estimated_finish` only while it runs at a known rate.

    The estimate: tokens per step of the effective series, times the steps left, over the rate of the last steps.
    """
    done = record.effective
    finish = 0.0
    if record.state is JobState.RUNNING and record.tokens_per_second > 0 and done.steps:
        left = max(record.planned_steps - record.step, 0) * done.tokens / done.steps
        finish = now + left / record.tokens_per_second
    return pb.Progress(
        step=record.step,
        planned_steps=record.planned_steps,
        epoch=record.epoch,
        last_train_nll=record.last_train_nll,
        mean_train_nll=record.mean_train_nll,
        test_nll=record.test_nll,
        best_test_nll=record.best_test_nll,
        tokens=done.tokens,
        trained_tokens=done.loss_tokens,
        tokens_per_second=record.tokens_per_second,
        estimated_finish=timestamp(finish),
        test_bits_per_byte=record.test_bits_per_byte,
        training_seconds=record.training_seconds(now),
        cost=record.cost(now),
        currency=record.currency,
        mix=mix_sums(record.effective_mix),
    )


def mix_sums(sums: Sequence[MixSums]) -> list[pb.MixSums]:
    """Return what was trained of each dataset of a mixture."""
    return [
        pb.MixSums(conversations=one.conversations, tokens=one.tokens, nll_sum=one.nll, weight_sum=one.weight)
        for one in sums
    ]


def start_from(value: StartFrom | None) -> pb.StartFrom | None:
    """Return where a job begins; None: at a fresh adapter."""
    if value is None:
        return None
    return pb.StartFrom(job=value.job, checkpoint=value.checkpoint, weights_only=value.weights_only)


def step(record: StepRecord) -> pb.Step:
    """Return what one optimizer step did."""
    return pb.Step(
        step=record.step,
        epoch=record.epoch,
        attempt=record.attempt,
        conversations=record.conversations,
        rows=record.rows,
        tokens=record.tokens,
        loss_tokens=record.loss_tokens,
        target_bytes=record.target_bytes,
        nll_sum=record.nll_sum,
        weight_sum=record.weight_sum,
        objective=record.objective,
        learning_rate=record.learning_rate,
        phase_seconds=record.phase_seconds,
        gpu_utilization=record.gpu_utilization,
        gpu_memory_bytes=record.gpu_memory_bytes,
        time=timestamp(record.time),
        test_nll_sum=record.test_nll_sum,
        test_weight_sum=record.test_weight_sum,
        test_target_bytes=record.test_target_bytes,
        calls=record.calls,
        accelerated=record.accelerated,
        mix=mix_sums(record.mix),
    )


def evaluation(step: int, losses: RowLosses) -> pb.GetEvaluationResponse:
    """Return one evaluation by row; the columns are little-endian on every machine."""
    return pb.GetEvaluationResponse(
        step=step,
        conversation=losses.conversation.astype("<u4").tobytes(),
        nll_sum=losses.nll_sum.astype("<f4").tobytes(),
        weight_sum=losses.weight_sum.astype("<f4").tobytes(),
    )


def event(record: EventRecord) -> pb.Event:
    """Return one event of the job."""
    return pb.Event(
        id=record.id,
        time=timestamp(record.time),
        level=record.level,
        type=record.type,
        message=record.message,
        attempt=record.attempt,
        fields=record.fields,
    )


def reply(said: Said) -> pb.Reply:
    """Return what the adapter said to one prompt."""
    return pb.Reply(
        step=said.step,
        prompt=said.prompt,
        asked=said.asked,
        text=said.text,
        tokens=said.tokens,
        finish_reason=said.finish_reason,
        time=timestamp(said.time),
    )


def checkpoint(record: CheckpointRecord, best: str) -> pb.Checkpoint:
    """Return a saved state; `best` is the id of the job's best one.

    Its paths at TuFT and in the store stay internal.
    """
    return pb.Checkpoint(
        id=record.id,
        step=record.step,
        epoch=record.epoch,
        position=record.position,
        attempt=record.attempt,
        probe_nll=record.probe_nll,
        test_nll=record.test_nll,
        best=record.id == best,
        stored=record.stored,
        sha256=record.sha256,
        time=timestamp(record.time),
    )


def held_job(record: JobRecord, reason: str) -> pb.QueuedJob:
    """Return a job that has a host and waits for a worker of it."""
    return pb.QueuedJob(
        job=record.id,
        owner=record.spec.owner,
        priority=record.spec.priority,
        model=record.spec.tuft_model,
        lora_rank=record.spec.hyperparameters.lora_rank,
        host=record.host,
        queue_time=timestamp(record.queue_time),
        reason=reason,
    )


def queued_job(one: Waiting, position: int, load: Load) -> pb.QueuedJob:
    """Return a job that waits for a host, in this place of the queue, and why."""
    return pb.QueuedJob(
        job=one.job,
        position=position,
        owner=one.owner,
        priority=one.priority,
        model=one.model,
        lora_rank=one.rank,
        host=one.host,
        queue_time=timestamp(one.time),
        reason=why_waiting(one, load),
    )


def host(record: HostRecord) -> pb.Host:
    """Return a GPU host as its probe last saw it."""
    return pb.Host(
        name=record.name,
        gpus=[pb.Gpu(name=gpu.name, uuid=gpu.uuid, memory_bytes=gpu.memory_bytes) for gpu in record.gpus],
        driver_version=record.driver_version,
        models=[
            pb.ServedModel(
                name=model.name,
                max_lora_rank=model.max_lora_rank,
                max_model_len=model.max_model_len,
                accelerated=model.accelerated,
                max_tokens_per_pass=model.max_tokens_per_pass,
                not_accelerated=model.not_accelerated,
                samples=model.samples,
            )
            for model in record.models
        ],
        backend_up=record.backend_up,
        workers=record.workers,
        heartbeat_time=timestamp(record.heartbeat_time),
        queued_jobs=record.queued_jobs,
        hour_price=record.hour_price,
        currency=record.currency,
    )
