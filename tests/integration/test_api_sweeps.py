"""Sweeps over gRPC: checked as a whole, made as a whole, in order of cells."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from services.preprocess.api.auth.bearer_tokens import create as create_token
from services.preprocess.domain.caller import Scope
from services.store.pool.placing import in_order
from services.store.records import JobState, StepRecord
from services.store.store import Store
from services.trainer.supervision.halving import settle_rungs
from tests.support.api_calls import MODEL, Api, Start, make_dataset, refusal
from turnloom.client import TurnloomClient
from turnloom.errors import NotAllowed
from turnloom.v1 import training_pb2 as pb

pytestmark = pytest.mark.usefixtures("gpu_host")
LIMIT = 30  #: seconds that any call here may take
GRID = {"lora_rank": (8, 16), "learning_rate": (1e-4, 1e-3, 1e-2)}


def request_of(dataset: str, axes: dict[str, tuple[float, ...]], **fields: object) -> pb.CreateSweepRequest:
    base = {"hyperparameters": pb.Hyperparameters(batch_size=4), **fields.pop("base", {})}
    return pb.CreateSweepRequest(
        base=pb.CreateJobRequest(model=MODEL, training_dataset=dataset, **base),
        axes=[pb.SweepAxis(hyperparameter=name, values=values) for name, values in axes.items()],
        **fields,
    )


def create(api: Api, asked: pb.CreateSweepRequest) -> pb.CreateSweepResponse:
    return api.jobs.CreateSweep(asked, timeout=LIMIT)


def test_a_sweep_makes_one_queued_job_per_cell_in_row_major_order(api: Api, store: Store) -> None:
    made = create(api, request_of(make_dataset(api).id, GRID, display_name="grid")).sweep
    assert made.id.startswith("sweep-")
    shapes = [(job.hyperparameters.lora_rank, job.hyperparameters.learning_rate) for job in made.jobs]
    assert shapes == [(rank, rate) for rank in GRID["lora_rank"] for rate in GRID["learning_rate"]]
    assert {(job.sweep, job.state, job.host) for job in made.jobs} == {(made.id, pb.JOB_STATE_QUEUED, "")}
    assert all(job.hyperparameters.batch_size == 4 for job in made.jobs)
    waiting = [one.job for one in in_order(store.pool.waiting(), store.pool.load())]
    assert waiting == [job.id for job in made.jobs]
    assert api.jobs.GetSweep(pb.GetSweepRequest(id=made.id), timeout=LIMIT).sweep == made
    (listed,) = api.jobs.ListSweeps(pb.ListSweepsRequest(), timeout=LIMIT).sweeps
    assert (listed.id, listed.display_name, len(listed.jobs)) == (made.id, "grid", 6)
    assert [axis.hyperparameter for axis in listed.axes] == list(GRID)


def test_the_same_request_id_makes_one_sweep_and_other_content_is_refused(api: Api, store: Store) -> None:
    dataset = make_dataset(api).id
    first = create(api, request_of(dataset, GRID, request_id="r"))
    again = create(api, request_of(dataset, GRID, request_id="r"))
    assert (first.deduplicated, again.deduplicated) == (False, True)
    assert [job.id for job in again.sweep.jobs] == [job.id for job in first.sweep.jobs]
    assert len(store.jobs.list().items) == 6
    said = refusal(lambda: create(api, request_of(dataset, {"lora_rank": (8,)}, request_id="r")))
    assert said.code is grpc.StatusCode.ALREADY_EXISTS


def test_a_sweep_that_broke_off_is_finished_by_the_same_request(
    api: Api, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.preprocess.api import sweep_service
    from services.store.errors import RedisUnavailable

    dataset = make_dataset(api).id

    def break_off(*_: object) -> None:
        raise RedisUnavailable("Redis went away")

    with monkeypatch.context() as broken:
        broken.setattr(sweep_service, "_queue", break_off)
        said = refusal(lambda: create(api, request_of(dataset, GRID, request_id="r")))
    assert said.code is grpc.StatusCode.UNAVAILABLE
    assert {job.state for job in store.jobs.list().items} == {JobState.VALIDATING}
    made = create(api, request_of(dataset, GRID, request_id="r"))
    assert made.deduplicated
    assert [job.state for job in made.sweep.jobs] == [pb.JOB_STATE_QUEUED] * 6
    assert len(store.jobs.list().items) == 6


def test_one_cell_that_no_host_can_train_refuses_the_whole_sweep(api: Api, store: Store) -> None:
    said = refusal(lambda: create(api, request_of(make_dataset(api).id, {"lora_rank": (8, 65)})))
    assert (said.code, said.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_HOST")
    assert "LoRA rank 65" in said.message
    assert store.jobs.list().items == []
    assert store.sweeps.list().items == []


@pytest.mark.parametrize(
    ("axes", "fields", "field", "sentence"),
    [
        ({}, {}, "axes", "is empty; give one axis at least, such as lora_rank with 8 and 32."),
        (
            {"lora_rnk": (8,)},
            {},
            "axes[0].hyperparameter",
            "is 'lora_rnk', which is not a numeric hyperparameter; did you mean lora_rank?",
        ),
        ({"lora_rank": ()}, {}, "axes[0].values", "is empty; give lora_rank one value at least."),
        (
            {"lora_rank": (8, 8.5)},
            {},
            "axes[0].values[1]",
            "is 8.5; give lora_rank whole numbers.",
        ),
        (
            {"learning_rate": (0,)},
            {},
            "axes[0].values[0]",
            "is 0; give learning_rate a number above 0 and at most 1.",
        ),
        ({"learning_rate": (float("nan"),)}, {}, "axes[0].values[0]", "is nan; give learning_rate a number above 0"),
        ({"learning_rate": (0.1, 0.1)}, {}, "axes[0].values[1]", "is 0.1 twice; give each value once."),
        (
            {"lora_rank": tuple(range(1, 12)), "seed": tuple(range(10))},
            {},
            "axes",
            "make 110 cells; give fewer values, for 100 cells at most.",
        ),
        ({"batch_size": (4,)}, {}, "axes[0].hyperparameter", "is batch_size, which base sets too; leave it out there."),
        (
            {"epochs": (1, 2)},
            {"base": {"hyperparameters": pb.Hyperparameters(max_steps=3)}},
            "base.hyperparameters.max_steps",
            "is set together with epochs; set one of them.",
        ),
        ({"seed": (1, 2)}, {"successive_halving": True}, "base.test_dataset", "is empty; name one"),
        ({"seed": (1, 2)}, {"halving_eta": 2}, "halving_eta", "is set without successive_halving; set that too."),
        ({"seed": (1, 2)}, {"halving_rungs": [2]}, "halving_rungs", "is set without successive_halving; set that too."),
        (
            {"seed": (1, 2)},
            {"successive_halving": True, "halving_eta": 1},
            "halving_eta",
            "is 1; give 2 or more, since one cell in 2 goes on at most.",
        ),
        (
            {"seed": (1, 2)},
            {"successive_halving": True, "halving_rungs": [4, 4]},
            "halving_rungs[1]",
            "is 4, not above 4; give steps from 1 on, ascending.",
        ),
        (
            {"seed": (1, 2)},
            {"successive_halving": True, "halving_rungs": [0]},
            "halving_rungs[0]",
            "is 0; give steps from 1 on, ascending.",
        ),
        ({"seed": (1,)}, {"base": {"request_id": "x"}}, "base.request_id", "is set; a sweep has a request_id of its"),
    ],
)
def test_a_wrong_grid_is_refused_by_field_and_makes_nothing(
    api: Api, store: Store, axes: dict[str, tuple[float, ...]], fields: dict[str, object], field: str, sentence: str
) -> None:
    said = refusal(lambda: create(api, request_of("ds-x", axes, **fields)))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.fields[field].startswith(sentence)
    assert store.jobs.list().items == []


def test_a_halved_sweep_shows_its_rungs_and_what_became_of_each_cell(api: Api, store: Store) -> None:
    dataset = make_dataset(api).id
    base = {"test_dataset": dataset, "hyperparameters": pb.Hyperparameters(batch_size=4, max_steps=8, eval_every=2)}
    made = create(api, request_of(dataset, {"lora_rank": (2, 4)}, base=base, successive_halving=True)).sweep
    assert [(rung.step, rung.kept) for rung in made.rungs] == [(4, 1)]
    assert all(job.HasField("halving") and job.halving.reason == "" for job in made.jobs)
    for job, nll in zip(made.jobs, (1.0, 2.0), strict=True):
        assert store.jobs.claim(job.id, 1, "w") is not None
        for number in range(1, 5):
            test = {"test_nll_sum": nll, "test_weight_sum": 1.0} if number % 2 == 0 else {}
            store.ledger.commit_step(job.id, StepRecord(number, 1, nll_sum=1.0, weight_sum=1.0, **test))
        store.jobs.finish(job.id, 1, JobState.PAUSED)
    waiting = api.jobs.GetSweep(pb.GetSweepRequest(id=made.id), timeout=LIMIT).sweep.jobs[0]
    assert (waiting.state, waiting.halving.waiting_step) == (pb.JOB_STATE_PAUSED, 4)
    assert waiting.halving.reason == "Waits for the other cells of its sweep at step 4, where they are compared."
    settle_rungs(store)
    best, other = api.jobs.GetSweep(pb.GetSweepRequest(id=made.id), timeout=LIMIT).sweep.jobs
    assert (best.state, best.halving.stopped, best.halving.rank) == (pb.JOB_STATE_QUEUED, False, 1)
    assert (other.state, other.halving.stopped) == (pb.JOB_STATE_CANCELLED, True)
    assert other.halving.reason == (
        "Stopped by successive halving at step 4: rank 2 of 2, test NLL 2.0000; "
        "the one that goes on has 1.0000 or less."
    )
    resumed = api.jobs.ResumeJob(pb.ResumeJobRequest(id=other.id), timeout=LIMIT).job
    assert not resumed.HasField("halving")


@pytest.mark.parametrize(
    ("axes", "fields", "field", "sentence"),
    [
        ({"lora_rank": (2, 4)}, {"halving_rungs": [8]}, "halving_rungs[0]", "is 8; the cells have 8 steps, so a rung"),
        (
            {"lora_rank": (2, 4)},
            {"halving_rungs": [3]},
            "halving_rungs[0]",
            "is 3; cells are evaluated every 2 steps, so that none is known there. Give 2, or another",
        ),
        (
            {"lora_rank": (2, 4)},
            {"halving_rungs": [2, 4]},
            "halving_rungs[1]",
            "is one too many: after the 1 before it a single cell is left of 2.",
        ),
        ({"lora_rank": (2, 4)}, {"halving_eta": 3}, "axes", "make 2 cells, of which one in 3 would go on; give 3"),
        ({"max_steps": (8, 16)}, {}, "axes", "make cells of 8 and of 16 steps; successive halving compares cells"),
        ({"eval_every": (2, 0)}, {}, "base.hyperparameters.eval_every", "is 0; successive halving compares cells at"),
        (
            {"eval_every": (8, 16)},
            {},
            "base.hyperparameters.eval_every",
            "is 16, and the cells have 8 steps: none is evaluated before its end",
        ),
        (
            {"early_stopping_patience": (0, 1)},
            {},
            "base.hyperparameters.early_stopping_patience",
            "is set together with successive_halving; a cell that ends early comes to no rung.",
        ),
    ],
)
def test_a_halving_that_the_cells_do_not_allow_is_refused_by_field(
    api: Api, store: Store, axes: dict[str, tuple[float, ...]], fields: dict[str, object], field: str, sentence: str
) -> None:
    dataset = make_dataset(api).id
    given = {"max_steps": 8, "eval_every": 2}
    hyper = pb.Hyperparameters(**{name: value for name, value in given.items() if name not in axes})
    base = {"test_dataset": dataset, "hyperparameters": hyper}
    said = refusal(lambda: create(api, request_of(dataset, axes, base=base, successive_halving=True, **fields)))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.fields[field].startswith(sentence)
    assert store.jobs.list().items == []


def test_cancelling_a_sweep_ends_what_is_not_at_an_end(api: Api, store: Store) -> None:
    made = create(api, request_of(make_dataset(api).id, {"lora_rank": (2, 4, 8)})).sweep
    store.jobs.claim(made.jobs[0].id, 1, "w")
    store.jobs.finish(made.jobs[0].id, 1, JobState.SUCCEEDED)
    store.jobs.claim(made.jobs[1].id, 1, "w")
    cancelled = api.jobs.CancelSweep(pb.CancelSweepRequest(id=made.id), timeout=LIMIT).sweep
    assert [job.state for job in cancelled.jobs] == [
        pb.JOB_STATE_SUCCEEDED,
        pb.JOB_STATE_CANCELLING,
        pb.JOB_STATE_CANCELLED,
    ]
    assert f"{made.jobs[2].id}-a1" not in store.redis.lrange("rq:queue:train.gpu-a", 0, -1)
    api.jobs.DeleteJob(pb.DeleteJobRequest(id=made.jobs[2].id), timeout=LIMIT)
    left = api.jobs.GetSweep(pb.GetSweepRequest(id=made.id), timeout=LIMIT).sweep
    assert [job.id for job in left.jobs] == [job.id for job in made.jobs[:2]]


def test_a_sweep_that_is_not_there_says_so(api: Api) -> None:
    for call in (api.jobs.GetSweep, api.jobs.CancelSweep):
        kind = pb.GetSweepRequest if call == api.jobs.GetSweep else pb.CancelSweepRequest
        said = refusal(lambda call=call, kind=kind: call(kind(id="sweep-none"), timeout=LIMIT))
        assert (said.code, said.message) == (grpc.StatusCode.NOT_FOUND, "There is no sweep sweep-none.")


def test_a_sweep_belongs_to_the_token_that_made_it(start_api: Start, redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    ann, bob, rita = (
        create_token(path, name, frozenset({scope}))
        for name, scope in (("ann", Scope.SUBMIT), ("bob", Scope.SUBMIT), ("rita", Scope.READ))
    )
    address = start_api(redis_url, tokens=path).address
    with (
        TurnloomClient(address, ann) as hers,
        TurnloomClient(address, bob) as his,
        TurnloomClient(address, rita) as reader,
    ):
        chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "you"}]}
        dataset = hers.datasets.create([chat] * 4, model=MODEL).id
        made = hers.sweeps.create({"lora_rank": [2, 4]}, model=MODEL, training_dataset=dataset)
        assert {made.owner, *(job.owner for job in made.jobs)} == {"ann"}
        assert [sweep.id for sweep in hers.sweeps.list()] == [sweep.id for sweep in reader.sweeps.list()] == [made.id]
        assert list(his.sweeps.list()) == []
        for refused in (his.sweeps.retrieve, his.sweeps.cancel, reader.sweeps.cancel):
            with pytest.raises(NotAllowed):
                refused(made.id)
        with pytest.raises(NotAllowed):
            his.sweeps.create({"lora_rank": [2, 4]}, model=MODEL, training_dataset=dataset)
        assert reader.sweeps.retrieve(made.id) == made
        assert {job.state for job in hers.sweeps.cancel(made.id).jobs} == {pb.JOB_STATE_CANCELLED}
