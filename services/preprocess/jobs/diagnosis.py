"""The API's part of `turnloom doctor`: its own checks, then by ticket those of its workers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Final

import redis

from services.preprocess.domain.doctor_check import Check, from_answer
from services.preprocess.models.registry import Registry
from services.quoting import cut
from services.store import keys
from services.store.blobs.deadlines import answers_within
from services.store.blobs.files import below, remove, try_store, whole_file
from services.store.errors import NotFound, RedisForbids, StoreError
from services.store.queueing import workers
from services.store.queueing.queues import PREPROCESS_QUEUE, queue_name
from services.store.records import HostRecord
from services.store.store import Store
from turnloom.plural import counted

HOST_DEADLINE: Final = 50.0  #: seconds a host has for its checks; the RPC has 60
STORE_DEADLINE: Final = 5.0  #: seconds that a request to the object store may take
HOST_FUNCTION: Final = "services.trainer.host.diagnose.run"
WORKER_DEADLINE: Final = 20.0  #: seconds that a preprocess worker has
WORKER_FUNCTION: Final = "services.preprocess.datasets.worker.tasks.diagnose"
SILENT: Final = 60.0  #: seconds without a heartbeat after which a host is suspect
SKEW: Final = 5.0  #: seconds that two clocks may differ


def diagnose(store: Store, store_url: str, registry: Registry, host: str) -> list[Check]:
    """Run all checks in order; `host` narrows the hosts' part to one.

    Raises:
        NotFound: the named host is not known.
    """
    hosts = sorted(store.hosts.list(), key=lambda record: record.name)
    if host:
        hosts = [record for record in hosts if record.name == host]
        if not hosts:
            raise NotFound(f"There is no host {cut(host)!r}; ListHosts names those that were heard of.")
    with _probe(store_url) as (probe, stored):
        checks = [
            _models(registry),
            *redis_role(store),
            *_redis(store),
            stored,
            _supervisor(store),
            *_heartbeats(hosts),
            *_identities(store, hosts),
        ]
        manned = [record for record in hosts if record.workers]
        with ThreadPoolExecutor(len(manned) + 1) as pool:
            worker = pool.submit(_preprocess_worker, store, registry)
            found = list(pool.map(lambda record: _asked(store, record.name, probe), manned))
        checks += worker.result()
        checks += [check for answered in found for check in answered]
    checks += [_unmanned(record.name) for record in hosts if not record.workers]
    return checks


def _models(registry: Registry) -> Check:
    loaded = [entry.name for entry, _ in registry.served()]
    missing = [name for name in registry.entries if name not in loaded]
    if missing:
        hint = "The API's log says why; Preprocess with that model names the reason too."
        return Check("models_loaded", "failed", f"Not loaded: {', '.join(missing)}.", hint)
    return Check("models_loaded", "ok", f"Loaded: {', '.join(loaded)}.")


def redis_role(store: Store) -> Iterator[Check]:
    """Check that Redis takes writes: a replica does not, and a failover turns a primary into one."""
    try:
        role = str(store.redis.info("replication").get("role", ""))
    except (RedisForbids, redis.ResponseError):
        return
    if role == "master":
        yield Check("redis_role", "ok", "Redis takes writes.")
    elif role:
        hint = "Point TURNLOOM_REDIS_URL at the primary, or end the replication there (REPLICAOF NO ONE)."
        yield Check("redis_role", "failed", f"Redis is read-only: its role is {role}.", hint)


def _redis(store: Store) -> Iterator[Check]:
    """Check the Redis settings that keep jobs from being lost, and the clock that measures leases."""
    policy = _setting(store, "maxmemory-policy")
    if policy == "noeviction":
        yield Check("redis_policy", "ok", "Redis evicts nothing.")
    elif policy is None:
        yield Check(
            "redis_policy",
            "skipped",
            "Redis does not show its configuration.",
            "Allow CONFIG GET, or check it by hand.",
        )
    else:
        hint = "Set maxmemory-policy noeviction; any other policy may throw jobs away."
        yield Check("redis_policy", "failed", f"maxmemory-policy is {policy}.", hint)
    aof = _setting(store, "appendonly")
    if aof == "yes":
        yield Check("redis_aof", "ok", "Redis writes its append-only file.")
    elif aof is None:
        yield Check(
            "redis_aof", "skipped", "Redis does not show its configuration.", "Allow CONFIG GET, or check it by hand."
        )
    else:
        hint = "Set appendonly yes and appendfsync everysec, or a restart of Redis loses jobs."
        yield Check("redis_aof", "warning", f"appendonly is {aof}.", hint)
    seconds, microseconds = store.redis.time()
    skew = abs(seconds + microseconds / 1e6 - time.time())
    if skew <= SKEW:
        yield Check("redis_clock", "ok", f"The clocks of Redis and the API differ by {skew:.1f} s.")
    else:
        yield Check("redis_clock", "warning", f"The clocks of Redis and the API differ by {skew:.0f} s.", "Set up NTP.")


def _setting(store: Store, name: str) -> str | None:
    """Return a value of Redis's configuration, or None where it is hidden, as with managed servers."""
    try:
        found = store.redis.config_get(name)
    except (RedisForbids, redis.ResponseError):  # an ACL, or a managed server without the command
        return None
    return str(found[name]) if name in found else None


@contextmanager
def _probe(store_url: str) -> Iterator[tuple[str, Check]]:
    """Yield the name of a probe file, in the store while the block runs, and the check of writing it.

    The name is empty where the file can't be written. Hosts look for the file: a host with another store trains on
    datasets that it can't find.
    """
    name = f".probe-{secrets.token_hex(16)}"
    try:
        with answers_within(STORE_DEADLINE):
            try_store(store_url)
            with whole_file(below(store_url, name)) as file:
                file.write(b"probe")
    except StoreError as error:
        hint = "Check TURNLOOM_STORE_URL, its key, its permissions and its free space."
        yield "", Check("store_writable", "failed", f"The store can't be used: {error}.", hint)
        return
    try:
        yield name, Check("store_writable", "ok", "The store takes a file, gives it back, lists it and deletes it.")
    finally:
        with suppress(StoreError), answers_within(STORE_DEADLINE):
            remove(below(store_url, name))


def _supervisor(store: Store) -> Check:
    """Check that a supervisor would give the job of a lost worker to another one."""
    if store.redis.exists(keys.SUPERVISOR):
        return Check("supervisor", "ok", "A supervisor is at work.")
    hint = "Start python -m services.trainer supervisor with the same TURNLOOM_REDIS_URL."
    return Check("supervisor", "failed", "No supervisor runs, so the job of a lost worker would not go on.", hint)


def _preprocess_worker(store: Store, registry: Registry) -> list[Check]:
    """Check that a preprocess worker is there, and add what it finds."""
    (present,) = workers.count(store.redis, [PREPROCESS_QUEUE])
    if not present:
        sentence = "No preprocess worker runs, so datasets of hub names, paths and URLs would wait."
        hint = "Start python -m services.preprocess worker; files that a client sends need none."
        return [Check("preprocess_worker", "warning", sentence, hint)]
    said = f"{counted(present, 'worker')} for datasets of hub names, paths and URLs."
    there = Check("preprocess_worker", "ok", said)
    models = {
        entry.name: {"tokenizer_sha256": model.tokenizer_sha256, "template_sha256": model.template_sha256}
        for entry, model in registry.served()
    }
    try:
        answer = _answer(store, PREPROCESS_QUEUE, WORKER_FUNCTION, {"models": models}, WORKER_DEADLINE)
    except StoreError as error:
        hint = "A worker that makes a dataset answers after its part of it; ask again."
        return [
            there,
            Check("worker_checks", "skipped", f"The preprocess worker's own checks did not come: {error}", hint),
        ]
    return [there, *from_answer(answer)]


def _heartbeats(hosts: Iterable[HostRecord]) -> Iterator[Check]:
    found = False
    for record in hosts:
        found = True
        age = time.time() - record.heartbeat_time
        if age > SILENT:
            hint = "See whether its worker runs (python -m services.trainer) and reaches Redis."
            yield Check("host_heartbeat", "failed", f"Not heard of for {age:.0f} s.", hint, record.name)
        elif record.workers == 0:
            yield Check(
                "host_heartbeat",
                "warning",
                "No worker takes jobs there.",
                "Start python -m services.trainer.",
                record.name,
            )
        elif not record.backend_up:
            yield Check(
                "host_heartbeat", "failed", "TuFT does not answer there.", "See TuFT's log on that host.", record.name
            )
        else:
            yield Check(
                "host_heartbeat", "ok", f"Heard of {age:.0f} s ago; workers: {record.workers}.", "", record.name
            )
    if not found:
        hint = "Start python -m services.trainer on a GPU host with the same TURNLOOM_REDIS_URL."
        yield Check("host_heartbeat", "failed", "No host is known, so no job can run.", hint)


def _identities(store: Store, hosts: Iterable[HostRecord]) -> Iterator[Check]:
    """Name machines that asked for the name of a host that another machine has."""
    for record in hosts:
        other = store.hosts.refused(record.name)
        if other is not None:
            ago = f"{counted(max(0, round((time.time() - other.time) / 60)), 'minute')} ago"
            sentence = f"A second machine, {other.machine}, was refused under this name {ago}."
            hint = "Give each GPU host a TURNLOOM_HOST of its own; a host whose folder was lost may begin anew."
            yield Check("host_identity", "failed", sentence, hint, record.name)
        else:
            yield Check("host_identity", "ok", "No other machine works under this name.", "", record.name)


def _unmanned(host: str) -> Check:
    """Return a warning in place of a ticket that no worker would take before the deadline."""
    return Check(
        "host_checks",
        "warning",
        "The host was not asked for its own checks, for no worker is there to answer.",
        "Start python -m services.trainer there, then ask again.",
        host,
    )


def _asked(store: Store, host: str, probe: str) -> list[Check]:
    """Return what the host itself finds.

    A busy worker answers only after its job, which is past any deadline here.
    """
    try:
        answer = _answer(store, queue_name(host), HOST_FUNCTION, {"host": host, "probe": probe}, HOST_DEADLINE)
    except StoreError as error:
        hint = "A worker that trains answers after its job; ask again, or start a second worker on that host."
        return [Check("host_checks", "skipped", f"The host's own checks did not come: {error}", hint, host)]
    return from_answer(answer, host)


def _answer(store: Store, queue: str, function: str, arguments: Mapping[str, object], seconds: float) -> object:
    ticket = store.tickets.call(queue, function, arguments, timeout=seconds)
    return store.tickets.result(ticket, seconds)
