"""A short process that probes this host and its TuFT, writes the host record, and removes what jobs left here."""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from services.store.connection import connect
from services.store.errors import StoreError
from services.store.hosts import ALIVE, Hosts
from services.store.ledger import Ledger
from services.store.records import HostRecord, ServedModelRecord
from services.trainer.errors import BackendError
from services.trainer.host import gpu
from services.trainer.host.left_states import remove_left_states
from services.trainer.sampler import Sampler
from services.trainer.settings import Settings
from services.trainer.tuft_http import TuftHttp

RECORD_TTL = 120.0  #: seconds; several probes fit in it

log = logging.getLogger(__name__)


def look(settings: Settings) -> HostRecord:
    """Return the host's record; if the server does not answer, backend_up is false and there are no models."""
    found = gpu.find()
    server = TuftHttp(settings.tuft_url, settings.tuft_api_key)
    up = server.healthy()
    try:
        models = _sampled_too(server.models(), settings) if up else ()
    except BackendError as error:
        log.warning("TuFT answers its health check but not what it serves: %s", error)
        up, models = False, ()
    return HostRecord(
        name=settings.host,
        gpus=found.gpus,
        driver_version=found.driver_version,
        models=models,
        backend_up=up,
        tuft_url=settings.tuft_url,
        heartbeat_time=time.time(),
        hour_price=settings.hour_price,
        currency="" if settings.hour_price is None else settings.currency,
    )


def _sampled_too(models: tuple[ServedModelRecord, ...], settings: Settings) -> tuple[ServedModelRecord, ...]:
    """Return the models with what the host's own sampler samples; unknown (None) while that does not answer."""
    if not settings.sampler_url:
        return models
    sampled = Sampler(settings.sampler_url, settings.tuft_api_key).model()
    return tuple(
        replace(model, samples=model.name == sampled if sampled else None) if not model.samples else model
        for model in models
    )


def run(settings: Settings) -> bool:
    """Look once, write the record, and remove what is left; return whether the record was written."""
    record = look(settings)
    redis = connect(settings.redis_url)
    hosts = Hosts(redis)
    try:
        if not record.backend_up:
            before = hosts.get(settings.host)  # what a server serves does not change because it restarts
            record = _with_models_of(record, before)
        hosts.put(record, RECORD_TTL, ALIVE)
    except StoreError as error:
        log.warning("the host record was not written: %s", error)
        return False
    try:
        remove_left_states(settings, Ledger(redis))
    except (BackendError, StoreError, OSError) as error:
        log.warning("saved states that no job has any more stay for now: %s", error)
    return True


def _with_models_of(record: HostRecord, before: HostRecord | None) -> HostRecord:
    if before is None:
        return record
    return replace(record, models=before.models, backend_up=False)
