"""Jobs on a mixture of datasets: what is refused, what it costs, and what it keeps from being deleted."""

from __future__ import annotations

from dataclasses import replace

import grpc
import pytest

from services.store.ids import new_id
from services.store.records import HostRecord, MixPart, ServedModelRecord
from services.store.store import Store
from tests.support.api_calls import MODEL, TUFT_MODEL, Api, make_dataset, make_job, refusal
from turnloom.v1 import datasets_pb2
from turnloom.v1 import training_pb2 as pb

LIMIT = 30


@pytest.fixture(autouse=True)
def _host(store: Store) -> None:
    store.hosts.put(HostRecord(name="gpu-a", models=(ServedModelRecord(TUFT_MODEL, 64),), backend_up=True), ttl=300)


def mixed(api: Api, *parts: tuple[str, float], **fields: object) -> pb.CreateJobResponse:
    mix = [pb.MixPart(dataset=name, weight=weight) for name, weight in parts]
    return make_job(api, "", mix=mix, **fields)


def test_a_mixture_is_queued_with_its_weights_and_shown(api: Api, store: Store) -> None:
    one, other = make_dataset(api, 12), make_dataset(api, 4)
    answer = mixed(api, (one.id, 0.7), (other.id, 0.3))
    assert [(part.dataset, part.weight) for part in answer.job.mix] == [(one.id, 0.7), (other.id, 0.3)]
    assert answer.job.training_dataset == one.id
    spec = store.jobs.get(answer.job.id).spec
    assert spec.mix == spec.training == (MixPart(one.id, 0.7), MixPart(other.id, 0.3))


def test_an_epoch_has_as_many_conversations_as_the_datasets_and_costs_their_shares(api: Api) -> None:
    one, other = make_dataset(api, 12), make_dataset(api, 4)
    for weights, shares in (((3.0, 1.0), (12, 4)), ((1.0, 1.0), (8, 8))):
        parts = zip((one.id, other.id), weights, strict=True)
        estimate = mixed(api, *parts, validate_only=True).estimate
        assert estimate.steps == 4  # of 4 conversations
        tokens = sum(
            share * dataset.tokens / dataset.conversations for share, dataset in zip(shares, (one, other), strict=True)
        )
        assert estimate.tokens == round(tokens)


def test_each_dataset_of_an_unfinished_mixture_is_kept(api: Api, store: Store) -> None:
    made = [make_dataset(api, 4) for _ in range(3)]
    job = mixed(api, *((dataset.id, 1.0) for dataset in made)).job.id
    for dataset in made:
        said = refusal(
            lambda name=dataset.id: api.datasets.DeleteDataset(
                datasets_pb2.DeleteDatasetRequest(id=name), timeout=LIMIT
            )
        )
        assert said.code is grpc.StatusCode.FAILED_PRECONDITION
        assert job in said.message
    store.jobs.cancel(job)
    for dataset in made:
        api.datasets.DeleteDataset(datasets_pb2.DeleteDatasetRequest(id=dataset.id), timeout=LIMIT)


def test_a_mixture_that_does_not_fit_together_is_refused_by_field(api: Api, store: Store) -> None:
    one, other = make_dataset(api, 12), store.datasets.get(make_dataset(api, 4).id)
    for change, sentence in (
        ({"tokenizer_sha256": "0" * 64}, "was made with the tokenizer of"),
        ({"template_sha256": "0" * 64}, "made with another chat template than"),
    ):
        bad = replace(other, id=new_id("ds"), **change)
        store.datasets.create(bad)
        said = refusal(lambda name=bad.id: mixed(api, (one.id, 0.5), (name, 0.5)))
        assert list(said.fields) == ["mix[1].dataset"]
        assert sentence in said.fields["mix[1].dataset"]
    said = refusal(lambda: mixed(api, (one.id, 1.0), (other.id, 1e-4)))
    assert said.fields == {
        "mix[1].weight": f"is 0.0001; it gives {other.id!r} no conversation of an epoch. Give a larger one."
    }
    said = refusal(lambda: mixed(api, (one.id, 1.0), ("ds-none", 1.0)))
    assert said.code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("parts", "training", "field", "sentence"),
    [
        ([("ds-a", 1.0)], "", "mix", "has 1 dataset; give 2 to 16."),
        ([("ds-a", 1.0)] * 17, "", "mix", "has 17 datasets; give 2 to 16."),
        ([("ds-a", 1.0), ("ds-b", 0.0)], "", "mix[1].weight", "is 0; give a number above 0."),
        ([("ds-a", float("nan")), ("ds-b", 1.0)], "", "mix[0].weight", "is nan; give a number above 0."),
        (
            [("ds-a", 1.0), ("ds-a", 2.0)],
            "",
            "mix[1].dataset",
            "is ds-a, which stands there twice; add up its weights.",
        ),
        ([("", 1.0), ("ds-a", 2.0)], "", "mix[0].dataset", "is not set; give the id of a dataset that is READY."),
        ([("ds-a", 1.0), ("ds-b", 1.0)], "ds-c", "training_dataset", "is set beside mix; name the dataset in one of"),
    ],
)
def test_a_wrong_mixture_is_refused_before_anything_is_looked_up(
    api: Api, parts: list[tuple[str, float]], training: str, field: str, sentence: str
) -> None:
    mix = [pb.MixPart(dataset=name, weight=weight) for name, weight in parts]
    said = refusal(lambda: make_job(api, training, mix=mix))
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert said.fields[field].startswith(sentence)


def test_a_sweep_trains_every_cell_on_the_mixture(api: Api) -> None:
    one, other = make_dataset(api, 12), make_dataset(api, 4)
    mix = [pb.MixPart(dataset=one.id, weight=2), pb.MixPart(dataset=other.id, weight=1)]
    asked = pb.CreateSweepRequest(
        base=pb.CreateJobRequest(model=MODEL, mix=mix), axes=[pb.SweepAxis(hyperparameter="lora_rank", values=(4, 8))]
    )
    made = api.jobs.CreateSweep(asked, timeout=LIMIT).sweep
    assert [list(job.mix) for job in made.jobs] == [mix, mix]
