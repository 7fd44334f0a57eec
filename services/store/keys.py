"""Every key name in Redis, once. docs/redis.md has the table with contents and lifetimes.

Lua scripts build the names of a job's keys from the same prefix (lua/common.lua). This needs one Redis, not a cluster.
"""

from __future__ import annotations

SCHEMA = "tl:schema"

JOBS = "tl:run:jobs"  # zset: job id by creation, microseconds
ACTIVE = "tl:run:active"  # set: jobs that aren't at a terminal state
PAUSED = "tl:run:paused"  # zset: PAUSED jobs by when they paused, seconds
RUNGS = "tl:run:rungs"  # zset: jobs that stand PAUSED at a rung of their sweep by creation, microseconds
FINISHED = "tl:run:finished"  # zset: jobs at a terminal state by finish time, seconds
UNARCHIVED = "tl:run:unarchived"  # set: jobs at a terminal state whose ledger isn't archived yet
WAITING = "tl:run:waiting"  # hash: queued job without a host to what it wants, JSON
PLACED = "tl:run:placed"  # hash: job that has a host, queued or held, to "host owner"
QUOTA = "tl:run:quota"  # string: jobs of one owner on hosts at most, as the supervisor has it; 0: any number
SERVED = "tl:run:served"  # hash: owner to when a job of theirs last got a host, seconds
INDEXED = "tl:run:indexed"  # string: jobs of earlier versions are in the indexes
HOSTS = "tl:run:hosts"  # zset: host by last heartbeat, seconds
LEFT_OBJECTS = "tl:run:left-objects"  # zset: deleted job whose files may still be in the store, by when, seconds
LEFT_STATES = "tl:run:left-states"  # zset: TuFT's path of a state to remove on its host, by when it was left, s
COUNTERS = "tl:run:counters"  # hash: worker counters of the exporter
SUPERVISOR = "tl:run:supervisor"  # string: the lease of the one supervisor

DATASETS = "tl:api:datasets"  # zset: dataset id by creation, microseconds
MAKING = "tl:api:making"  # set: datasets from a source whose work isn't closed
UNWANTED = "tl:api:unwanted"  # zset: "sha256 uri" of files that no dataset names, by when the last was deleted, seconds
OWNED = "tl:api:owned"  # string: what of earlier versions is in the indexes; 1: owners, 2: datasets' states as well
SWEEPS = "tl:api:sweeps"  # zset: sweep id by creation, microseconds


def job(job_id: str) -> str:
    """Return the key of a hash: the job's record."""
    return f"tl:run:job:{job_id}"


def state(name: str) -> str:
    """Return the key of a zset: jobs in a state by creation, microseconds."""
    return f"tl:run:state:{name}"


def owner(name: str) -> str:
    """Return the key of a zset: jobs of an owner by creation, microseconds."""
    return f"tl:run:owner:{name}"


def queue(owner_name: str) -> str:
    """Return the key of a set: jobs of an owner that are VALIDATING or QUEUED."""
    return f"tl:run:queue:{owner_name}"


def label(key: str, value: str) -> str:
    """Return the key of a zset: jobs with a label by creation, microseconds."""
    return f"tl:run:label:{len(key)}:{key}:{value}"


def stream(job_id: str) -> str:
    """Return the key of a stream: events, steps, notices and checkpoints of a job, in order."""
    return f"tl:run:stream:{job_id}"


def tests(job_id: str) -> str:
    """Return the key of a hash: step to the evaluation after it."""
    return f"tl:run:tests:{job_id}"


def series(job_id: str) -> str:
    """Return the key of a list: the effective series; item k stands for step k."""
    return f"tl:run:series:{job_id}"


def checkpoints(job_id: str) -> str:
    """Return the key of a hash: checkpoint id to record."""
    return f"tl:run:checkpoints:{job_id}"


def lineage(job_id: str) -> str:
    """Return the key of a zset: checkpoint ids of the effective run by step."""
    return f"tl:run:lineage:{job_id}"


def lease(job_id: str) -> str:
    """Return the key of a string with a lifetime: the attempt that holds the job."""
    return f"tl:run:lease:{job_id}"


def halving(sweep_id: str) -> str:
    """Return the key of a hash: step of a rung to the standings of the cells compared there."""
    return f"tl:run:halving:{sweep_id}"


def host(name: str) -> str:
    """Return the key of a string with a lifetime: a host's record."""
    return f"tl:run:host:{name}"


def alive(host_name: str) -> str:
    """Return the key of a string with a lifetime: a worker of the host was there."""
    return f"tl:run:alive:{host_name}"


def identity(host_name: str) -> str:
    """Return the key of a string with a lifetime: the machine that has the host's name."""
    return f"tl:run:identity:{host_name}"


def refused(host_name: str) -> str:
    """Return the key of a string with a lifetime: another machine that asked for the host's name."""
    return f"tl:run:refused:{host_name}"


def uses(used_id: str) -> str:
    """Return the key of a set: unfinished jobs that use a dataset, or begin from another job."""
    return f"tl:run:uses:{used_id}"


def request(kind: str, owner: str, request_id: str) -> str:
    """Return the key of a hash: what a request_id made, and the hash of its content."""
    return f"tl:api:request:{kind}:{len(owner)}:{owner}:{request_id}"


def dataset(dataset_id: str) -> str:
    """Return the key of a hash: a dataset's record."""
    return f"tl:api:dataset:{dataset_id}"


def shards(dataset_id: str) -> str:
    """Return the key of a hash: shard index to result, while a dataset is made."""
    return f"tl:api:shards:{dataset_id}"


def work(dataset_id: str) -> str:
    """Return the key of a hash: tasks of a dataset that is being made: argument, holder, attempts, ticket, progress."""
    return f"tl:api:work:{dataset_id}"


def work_due(dataset_id: str) -> str:
    """Return the key of a zset: tasks that aren't done, by when they count as lost."""
    return f"tl:api:work-due:{dataset_id}"


def content(sha256: str) -> str:
    """Return the key of a set: datasets with the same content."""
    return f"tl:api:content:{sha256}"


def owned(kind: str, owner_name: str) -> str:
    """Return the key of a zset: datasets or sweeps of an owner by creation, microseconds."""
    return f"tl:api:owned:{kind}:{owner_name}"


def dataset_state(name: str) -> str:
    """Return the key of a zset: datasets in a state by creation, microseconds."""
    return f"tl:api:state:{name}"


def sweep(sweep_id: str) -> str:
    """Return the key of a hash: a sweep's record."""
    return f"tl:api:sweep:{sweep_id}"


def sweep_jobs(sweep_id: str) -> str:
    """Return the key of a list: the jobs of a sweep, in order of its cells."""
    return f"tl:api:sweep-jobs:{sweep_id}"
