"""Choose the cells of a sweep that go on at a rung, and run the supervisor's round over waiting cells.

Successive halving (Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization",
AISTATS 2016) is synchronous here. Every cell waits, PAUSED, at the rung until no other one can still arrive. Then those
with the lowest test NLL at that very step go on. The evaluations are those of the ledger; nothing is asked of a
trainer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from services.store.errors import NoHost, NotFound
from services.store.records import TERMINAL, JobRecord, JobState, Rung, Standing
from services.store.store import Store

log = logging.getLogger("turnloom.supervisor")

#: States from which a cell still gets to a rung by itself.
MOVING = frozenset({JobState.VALIDATING, JobState.QUEUED, JobState.RUNNING})


@dataclass(frozen=True, slots=True)
class Arrival:
    """A cell that waits at a rung."""

    job: str
    test_nll: float  #: at the rung's step, nats per unit of weight


def compare(arrivals: Sequence[Arrival], known: Sequence[Standing], rung: Rung) -> list[Standing]:
    """Rank the cells that wait at a rung; of equal test NLLs the earlier one of `arrivals` is better.

    Args:
        arrivals: cells that wait, in the order of the sweep's cells.
        known: cells compared at this rung before. They keep what they got. A later cell (its owner had paused it, say)
            goes on if it would have been among the kept.
        rung: the step, and how many go on.

    Returns:
        One standing per arrival, in the same order.
    """
    nlls = sorted([*(one.test_nll for one in arrivals), *(one.test_nll for one in known)])
    first = {one.job: place for place, one in enumerate(sorted(arrivals, key=lambda one: one.test_nll))}
    standings = []
    for one in arrivals:
        before = sum(other.test_nll <= one.test_nll for other in known)
        rank = first[one.job] + before + 1
        kept = rank <= rung.kept
        place = f"rank {rank} of {len(nlls)}, test NLL {one.test_nll:.4f}"
        limit = nlls[min(rung.kept, len(nlls)) - 1]
        reason = (
            f"Goes on after the comparison at step {rung.step}: {place}."
            if kept
            else f"Stopped by successive halving at step {rung.step}: {place}; {_kept(rung.kept)} {limit:.4f} or less."
        )
        standings.append(Standing(one.job, rung.step, one.test_nll, rank, len(nlls), kept, reason))
    return standings


def _kept(count: int) -> str:
    return "the one that goes on has" if count == 1 else f"the {count} that go on have"


def is_coming(job: JobRecord, step: int) -> bool:
    """Return whether a cell will still arrive at a rung by itself. A cell that its owner paused delays no other."""
    if step not in job.rungs or job.passed_rung >= step:
        return False
    return (job.state in MOVING and job.step < step) or (job.state is JobState.PAUSING and job.rung == step)


def is_waiting(job: JobRecord) -> bool:
    """Return whether a cell stands at a rung."""
    return job.state is JobState.PAUSED and job.rung > 0


def settle_rungs(store: Store) -> None:
    """Compare the cells of every rung at which no other cell can still arrive. May be repeated at any point.

    A cell that waits for a lost host does not hold up cells that could train. It is compared when it arrives.

    Args:
        store: where the decisions are written; each is one atomic step that looks again first.
    """
    for sweep_id in dict.fromkeys(job.spec.sweep for job in store.jobs.at_rungs() if is_waiting(job)):
        cells = _unfinished_cells(store, sweep_id)
        for step in sorted({job.rung for job in cells if is_waiting(job)}):
            waiting = [job for job in cells if is_waiting(job) and job.rung == step]
            coming = [job for job in cells if is_coming(job, step)]
            if not coming or _are_stranded(store, coming, waiting):
                _settle(store, sweep_id, step, waiting)


def _are_stranded(store: Store, coming: Sequence[JobRecord], waiting: Sequence[JobRecord]) -> bool:
    """Return whether all coming cells wait for lost hosts while one at the rung could train on a live one."""
    if not all(job.host_lost for job in coming):
        return False
    live = {host.name for host in store.hosts.live()}
    return all(job.host not in live for job in coming) and any(_host(store, job) in {*live, ""} for job in waiting)


def _unfinished_cells(store: Store, sweep_id: str) -> list[JobRecord]:
    try:
        names = store.sweeps.get(sweep_id).jobs
    except NotFound:
        log.error("sweep %s is not there; its cells wait at their rungs until they are resumed", sweep_id)
        return []
    return [job for job in store.jobs.get_many(names) if job.state not in TERMINAL]


def _settle(store: Store, sweep_id: str, step: int, waiting: Sequence[JobRecord]) -> None:
    try:
        sweep = store.sweeps.get(sweep_id)
        rung = next(one for one in sweep.rungs if one.step == step)
    except (NotFound, StopIteration):
        log.error("sweep %s has no rung at step %d; its cells wait there until they are resumed", sweep_id, step)
        return
    places = {job: place for place, job in enumerate(sweep.jobs)}
    jobs = {job.id: job for job in sorted(waiting, key=lambda job: places.get(job.id, len(places)))}
    nlls = {name: store.ledger.test_nll(name, step) for name in jobs}
    known = store.halvings.standings(sweep_id, step)
    new = compare([Arrival(name, nll) for name, nll in nlls.items() if nll is not None], known, rung)
    hosts = {one.job: _host(store, jobs[one.job]) for one in new if one.kept}
    if not store.halvings.settle(sweep_id, step, known, new, hosts):
        return  # a cell was cancelled or resumed meanwhile: the next round sees it
    kept = [one for one in new if one.kept]
    log.info("sweep %s at step %d: %d of %d cells go on", sweep_id, step, len(kept), len(new))
    for one in kept:
        if hosts[one.job]:
            store.tickets.enqueue(store.jobs.get(one.job))


def _host(store: Store, job: JobRecord) -> str:
    """Return where a cell goes on.

    With a stored checkpoint and a live host that is the pool (empty), else its own host.
    """
    try:
        if store.ledger.checkpoint(job.id).stored:
            store.hosts.place(job.spec.tuft_model, job.spec.hyperparameters.lora_rank, job.spec.host)
            return ""
    except (NoHost, NotFound) as error:
        log.info("job %s stays on host %s: %s", job.id, job.host, error)
    return job.host
