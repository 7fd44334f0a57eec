"""The flat methods of release 0.1 warn, and call what replaces them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest

from turnloom import TurnloomClient
from turnloom.client.resource import Renamed

OLD = {
    "cancel_dataset": "datasets.cancel",
    "cancel_job": "jobs.cancel",
    "cancel_sweep": "sweeps.cancel",
    "checkpoints": "jobs.checkpoints",
    "create_dataset": "datasets.create",
    "create_dataset_from": "datasets.create_from_source",
    "create_dataset_from_files": "datasets.create_from_files",
    "create_job": "jobs.create",
    "create_sweep": "sweeps.create",
    "dataset": "datasets.retrieve",
    "datasets": "datasets.list",
    "delete_dataset": "datasets.delete",
    "delete_job": "jobs.delete",
    "diagnose": "hosts.diagnose",
    "download_adapter": "jobs.download_adapter",
    "download_dataset": "datasets.download",
    "evaluation": "jobs.evaluation",
    "events": "jobs.events",
    "hosts": "hosts.list",
    "job": "jobs.retrieve",
    "jobs": "jobs.list",
    "models": "models.list",
    "pause_job": "jobs.pause",
    "resume_job": "jobs.resume",
    "sample": "jobs.sample",
    "steps": "jobs.steps",
    "sweep": "sweeps.retrieve",
    "sweeps": "sweeps.list",
    "validate_job": "jobs.validate",
    "watch_dataset": "datasets.watch",
    "watch_job": "jobs.watch",
}  #: every method of release 0.1 that has a new name


@pytest.fixture
def client() -> Iterator[TurnloomClient]:
    with TurnloomClient("127.0.0.1:1") as client:  # nothing connects
        yield client


@pytest.mark.parametrize(("old", "new"), OLD.items(), ids=OLD)
def test_an_old_name_warns_at_the_callers_line_and_calls_the_new_one(
    client: TurnloomClient, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource, method = new.split(".")
    monkeypatch.setattr(getattr(client, resource), method, lambda *args, **keywords: (new, args, keywords))
    with pytest.warns(DeprecationWarning, match="is deprecated") as warned:
        answer = getattr(client, old)("a", b="c")
    assert answer == (new, ("a",), {"b": "c"})
    (warning,) = warned
    assert str(warning.message) == f"client.{old}() is deprecated; call client.{new}()."
    assert warning.filename == __file__


def test_every_name_that_warns_is_listed_here() -> None:
    flat = {name for name in dir(TurnloomClient) if isinstance(getattr(TurnloomClient, name), Renamed)}
    assert flat | {"datasets", "hosts", "jobs", "models", "sweeps"} == OLD.keys()


@pytest.mark.parametrize("name", sorted(set(OLD.values())))
def test_every_new_name_is_a_documented_method(client: TurnloomClient, name: str) -> None:
    resource, method = name.split(".")
    assert inspect.getdoc(getattr(getattr(client, resource), method))


def test_an_old_name_shows_the_signature_of_the_new_one(client: TurnloomClient) -> None:
    assert inspect.signature(client.create_job) == inspect.signature(client.jobs.create)
