"""Choose the host to sample from, or report why there is none."""

from __future__ import annotations

from collections.abc import Sequence

from services.preprocess.domain.refusals import HostBusy, SampleFailed, SamplingDisabled
from services.store.errors import NoHost
from services.store.records import HELD, HostRecord, JobRecord
from services.store.store import Store


def sampling_host(store: Store, job: JobRecord) -> HostRecord:
    """Return the host that trained the job, since its server has the files.

    While that host sends no heartbeat, return another one of the model.

    Raises:
        NoHost: none is live, or none has a worker.
        SamplingDisabled: its server trains only.
        SampleFailed: its server does not answer.
        HostBusy: as many jobs are held there as it has workers, so none would answer in time.
    """
    model = job.spec.tuft_model
    found = _candidates(store.hosts.live(), job.host, model)
    if not found:
        raise NoHost(f"no live host serves model {model}, so nobody can answer; start a trainer worker there")
    sampling = [host for host in found if host.samples(model)]
    if not sampling:
        raise SamplingDisabled(found[0].name, model, job.id)
    manned = [host for host in sampling if host.workers]
    if not manned:
        raise NoHost(f"no worker runs on host {sampling[0].name}; start python -m services.trainer there")
    up = [host for host in manned if host.backend_up]
    if not up:
        raise SampleFailed(manned[0].name, "its TuFT server does not answer", "See that server's log.")
    held = store.jobs.in_states(HELD)
    trained = {host.name: [other.id for other in held if other.host == host.name] for host in up}
    free = [host for host in up if len(trained[host.name]) < host.workers]
    if not free:
        raise HostBusy(up[0].name, trained[up[0].name])
    return min(free, key=lambda host: (host.queued_jobs, host.name))


def _candidates(live: Sequence[HostRecord], home: str, model: str) -> list[HostRecord]:
    own = [host for host in live if host.name == home]
    return own or [host for host in live if any(served.name == model for served in host.models)]
