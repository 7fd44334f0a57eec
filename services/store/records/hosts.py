"""GPU hosts, as their probes last saw them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuRecord:
    """One GPU."""

    name: str
    uuid: str = ""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ServedModelRecord:
    """A model at TuFT."""

    name: str
    max_lora_rank: int = 0  #: 0: unknown
    max_model_len: int = 0  #: 0: unknown
    samples: bool | None = None  #: whether it writes replies, too; None: unknown
    accelerated: bool | None = None  #: whether the accelerated model trains it; None: unknown, or it is still loading
    max_tokens_per_pass: int = 0  #: real tokens of one pass of the accelerated model, which packs rows; 0: it does not
    not_accelerated: str = ""  #: one sentence why not


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A GPU host as its probe last saw it."""

    name: str
    gpus: tuple[GpuRecord, ...] = ()  #: empty: a CPU host
    driver_version: str = ""
    models: tuple[ServedModelRecord, ...] = ()
    backend_up: bool = False
    tuft_url: str = ""
    workers: int = 0  #: idle and busy ones, filled in from the queue when read; killed ones count for 20 s
    queued_jobs: int = 0  #: filled in from the queue when read
    heartbeat_time: float = 0.0
    hour_price: float | None = None  #: of an hour in which a job is trained there; None: not known
    currency: str = ""  #: of the price; empty: there is none

    def serves(self, model: str, rank: int) -> bool:
        """Return whether its TuFT serves a model at a LoRA rank; an unknown largest rank counts as enough."""
        return any(one.name == model and (one.max_lora_rank == 0 or one.max_lora_rank >= rank) for one in self.models)

    def samples(self, model: str) -> bool:
        """Return whether it samples a model, according to its last probe; unknown counts as yes."""
        return all(one.samples is not False for one in self.models if one.name == model)
