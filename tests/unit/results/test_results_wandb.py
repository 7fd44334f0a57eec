"""Steps mirrored to Weights & Biases without an account: what its own file then holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from tests.unit.results.test_results import EVERY, STEPS, falling, made
from turnloom.errors import TurnloomError
from turnloom.results import weights_and_biases
from turnloom.results.files import rows
from turnloom.results.runs import Run
from turnloom.results.scalars import TAGS, scalars
from turnloom.results.weights_and_biases import config_of, mirror
from turnloom.v1 import training_pb2

BLOCK = 32768  #: bytes; a LevelDB log, which .wandb files are, begins each with a new chunk


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    wandb.teardown()  # settings are read from the environment once


def chunks(data: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: 7 bytes of its own, then chunks of crc (4), length (2), kind (1) and content."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def records(folder: Path, kind: str) -> list:
    (path,) = folder.glob("*.wandb")
    parsed = (wandb_internal_pb2.Record.FromString(chunk) for chunk in chunks(path.read_bytes()))
    return [getattr(record, kind) for record in parsed if record.WhichOneof("record_type") == kind]


def history(folder: Path) -> list[dict]:
    return [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.item}
        for record in records(folder, "history")
    ]


def job() -> Run:
    run = made(falling(1.0), 8, rate=1e-3, name="job-abc", host="gpu-a")
    run.job.hyperparameters.schedule = training_pb2.SCHEDULE_COSINE
    for step in run.steps:
        step.time.FromSeconds(1_700_000_000 + step.step)
        step.learning_rate, step.tokens = 1e-3, 100
    run.job.metadata["team"] = "support"
    return run


def test_the_run_has_the_jobs_id_the_tags_of_tensorboard_and_the_ledgers_times(tmp_path: Path) -> None:
    run = job()
    place = Path(*mirror(tmp_path, [run]))
    assert place.parent == tmp_path / "wandb"
    (sent,) = records(place, "run")
    assert (sent.run_id, sent.display_name, sent.project) == ("job-abc", "job-abc", "turnloom")
    found = history(place)
    assert [one["_step"] for one in found] == list(range(STEPS + 1))
    for one, row in zip(found, rows([run]), strict=True):
        assert {name: value for name, value in one.items() if not name.startswith("_")} == scalars(row)
        assert one["_timestamp"] == row["time"] == 1_700_000_000 + one["_step"]
    assert sum("nll/test" in one for one in found) == STEPS // EVERY + 1
    assert set(found[EVERY]) - {"_step", "_timestamp", "_runtime"} <= set(TAGS.values())


def test_the_configuration_holds_every_hyperparameter_and_nothing_of_this_machine(tmp_path: Path) -> None:
    run = job()
    (sent,) = records(Path(*mirror(tmp_path, [run])), "run")
    config = {item.key: json.loads(item.value_json) for item in sent.config.update if item.key != "_wandb"}
    assert config == config_of(run)
    assert (config["lora_rank"], config["learning_rate"], config["batch_size"]) == (8, 1e-3, 16)
    assert config["labels"] == {"team": "support"}
    assert config["schedule"] == "cosine"
    assert sent.host == "gpu-a"


def test_a_second_export_offline_replaces_the_first(tmp_path: Path) -> None:
    mirror(tmp_path, [job()])
    found = mirror(tmp_path, [job(), made(falling(2.0), 8, name="job-xyz")])
    assert sorted(map(str, (tmp_path / "wandb").glob("offline-run-*"))) == sorted(found)
    assert [len(history(Path(place))) for place in found] == [STEPS + 1] * 2


def test_a_second_export_goes_on_behind_the_steps_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[int] = []
    asked: dict[str, object] = {}

    class Online:
        """A run that W&B holds 20 steps of, 0 to 19."""

        step, offline, url = 20, False, "https://wandb.ai/me/turnloom/runs/job-abc"

        def __enter__(self):
            return self

        def __exit__(self, *_error: object) -> None:
            return None

        def log(self, values: dict, step: int) -> None:
            logged.append(step)

    def init(**words: object) -> Online:
        asked.update(words)
        return Online()

    monkeypatch.setattr(weights_and_biases.wandb, "init", init)
    assert mirror(tmp_path, [job()]) == [Online.url]
    assert logged == list(range(20, STEPS + 1))
    assert (asked["id"], asked["resume"]) == ("job-abc", "allow")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (wandb.errors.UsageError("No API key configured.\nmore"), "No API key configured"),
        (TimeoutError(""), "TimeoutError"),
        (FileExistsError(17, "File exists", "steps"), "File exists"),
    ],
)
def test_what_refuses_is_one_sentence_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def init(**_words: object) -> None:
        raise error

    monkeypatch.setattr(
        weights_and_biases,
        "wandb",
        SimpleNamespace(init=init, setup=wandb.setup, teardown=wandb.teardown, Error=wandb.Error, Settings=dict),
    )
    with pytest.raises(TurnloomError) as caught:
        mirror(tmp_path, [job()])
    assert caught.value.message == f"Weights & Biases did not take job-abc: {said}."
    assert "WANDB_MODE=offline" in caught.value.hint
