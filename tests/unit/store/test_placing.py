"""Who gets a host next: rules over random pools."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from services.store.pool.placing import Choice, Load, Waiting, choose, hosts_for, in_order, why_not_begun, why_waiting
from services.store.records import HostRecord, ServedModelRecord

OWNERS = st.sampled_from(["anna", "ben", "cleo", ""])
HOSTS = st.lists(
    st.builds(
        HostRecord,
        name=st.sampled_from(["h1", "h2", "h3", "h4"]),
        models=st.lists(
            st.builds(ServedModelRecord, name=st.sampled_from(["m1", "m2"]), max_lora_rank=st.sampled_from([0, 8, 32])),
            max_size=2,
        ).map(tuple),
        backend_up=st.booleans(),
        workers=st.integers(0, 3),
    ),
    max_size=4,
    unique_by=lambda host: host.name,
)
POOLS = st.lists(
    st.builds(
        Waiting,
        job=st.integers(0, 10**6).map(lambda number: f"job-{number}"),
        owner=OWNERS,
        priority=st.integers(-1, 1),
        model=st.sampled_from(["m1", "m2"]),
        rank=st.sampled_from([4, 16]),
        host=st.sampled_from(["", "", "", "h1", "h9"]),
        avoid=st.sampled_from(["", "", "h2"]),
        last=st.sampled_from(["", "h1", "h3"]),
        time=st.integers(0, 100).map(float),
        attempt=st.integers(0, 3),
    ),
    max_size=25,
    unique_by=lambda one: one.job,
)
LOADS = st.builds(
    Load,
    hosts=HOSTS,
    by_host=st.dictionaries(st.sampled_from(["h1", "h2"]), st.integers(0, 2)),
    by_owner=st.dictionaries(OWNERS, st.integers(0, 3)),
    served=st.dictionaries(OWNERS, st.integers(0, 100).map(float)),
    quota=st.sampled_from([0, 0, 2]),
)


@given(pool=POOLS, load=LOADS)
def test_no_worker_idles_while_a_job_that_it_could_run_waits_and_none_gets_two(pool: list[Waiting], load: Load) -> None:
    choices = choose(pool, load)
    by_job = {one.job: one for one in pool}
    hosts = {host.name: host for host in load.hosts}
    assert len({choice.job for choice in choices}) == len(choices)
    taken = Counter(choice.host for choice in choices)
    for choice in choices:
        one = by_job[choice.job]
        assert choice.attempt == one.attempt
        assert choice.host in {host.name for host in hosts_for(one, load.hosts)}
        assert hosts[choice.host].backend_up
        assert load.by_host.get(choice.host, 0) + taken[choice.host] <= hosts[choice.host].workers
    counts = Counter(load.by_owner) + Counter(by_job[choice.job].owner for choice in choices)
    if load.quota:
        assert all(counts[one.owner] <= max(load.quota, load.by_owner.get(one.owner, 0)) for one in pool)
    chosen = {choice.job for choice in choices}
    for one in pool:
        if one.job in chosen or (load.quota and counts[one.owner] >= load.quota):
            continue
        for host in hosts_for(one, load.hosts):
            used = load.by_host.get(host.name, 0) + taken[host.name]
            assert not host.backend_up or used >= host.workers, f"{host.name} idles while {one.job} waits"


@given(pool=POOLS, load=LOADS)
def test_the_order_holds_every_job_once_by_priority_and_within_an_owner_by_age(pool: list[Waiting], load: Load) -> None:
    ordered = in_order(pool, load)
    assert sorted(one.job for one in ordered) == sorted(one.job for one in pool)
    assert [one.priority for one in ordered] == sorted((one.priority for one in pool), reverse=True)
    for owner in {one.owner for one in pool}:
        mine = [(-one.priority, one.time, one.job) for one in ordered if one.owner == owner]
        assert mine == sorted(mine)


@given(pool=POOLS)
def test_owners_take_turns(pool: list[Waiting]) -> None:
    alike = [replace(one, priority=0) for one in pool]
    ordered = [one.owner for one in in_order(alike, Load((), {}, {}))]
    left = Counter(one.owner for one in alike)
    given: Counter[str] = Counter()
    for owner in ordered:
        waiting = [other for other in left if left[other]]
        assert given[owner] == min(given[other] for other in waiting), "an owner got one before another who waits"
        given[owner] += 1
        left[owner] -= 1


@given(pool=POOLS, load=LOADS)
def test_a_job_that_waits_is_told_why(pool: list[Waiting], load: Load) -> None:
    chosen = {choice.job for choice in choose(pool, load)}
    for one in pool:
        said = why_waiting(one, load)
        assert said.endswith(".")
        if one.job in chosen:
            assert said.startswith("A worker is free")


def test_a_job_goes_where_its_files_are_if_it_can() -> None:
    model = (ServedModelRecord("m1"),)
    hosts = [HostRecord(name, models=model, backend_up=True, workers=workers) for name, workers in (("a", 3), ("b", 1))]
    one = Waiting("job-1", "anna", 0, "m1", 8, "", "", "b", 0.0, 2)
    assert choose([one], Load(hosts, {}, {})) == [Choice("job-1", 2, "b")]
    assert choose([one], Load(hosts, {"b": 1}, {})) == [Choice("job-1", 2, "a")]


def test_a_job_that_is_sampled_while_it_trains_gets_a_host_that_samples() -> None:
    trains = HostRecord("h1", models=(ServedModelRecord("m1", samples=False),), backend_up=True, workers=2)
    samples = HostRecord("h2", models=(ServedModelRecord("m1", samples=True),), backend_up=True, workers=1)
    unknown = HostRecord("h3", models=(ServedModelRecord("m1"),), backend_up=True, workers=1)
    one = Waiting("job-1", "", 0, "m1", 4, "", "", "h1", 0.0, 0, sampled=True)
    assert [host.name for host in hosts_for(one, [trains, samples, unknown])] == ["h2", "h3"]
    assert choose([one], Load([trains, samples], {}, {})) == [Choice("job-1", 0, "h2")]
    why = why_waiting(one, Load([trains], {}, {}))
    assert why == "It is to be sampled while it trains, and no live host samples m1."
    assert choose([replace(one, sampled=False)], Load([trains, samples], {}, {})) == [Choice("job-1", 0, "h1")]


def test_a_host_without_a_worker_is_not_called_busy() -> None:
    served = (ServedModelRecord("m", 64),)
    manned, left = (HostRecord(name, models=served, backend_up=True, workers=n) for name, n in (("h1", 2), ("h2", 0)))
    one = Waiting("job-1", "anna", 0, "m", 4, "", "", "", 0.0, 0)
    assert why_waiting(one, Load([left], {}, {})) == "No worker runs on h2."
    busy = Load([manned, left], {"h1": 2}, {})
    assert why_waiting(one, busy) == "Every worker is busy: h1 has 2; no worker runs on h2."
    assert why_not_begun("h2", busy) == "It goes on at host h2, where no worker runs."
    assert why_waiting(one, Load([manned], {"h1": 2}, {})) == "Every worker is busy: h1 has 2."
