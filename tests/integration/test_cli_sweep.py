"""Sweeps, plots, exports and job files from the command line, on real workers and the fake TuFT."""

from __future__ import annotations

import csv
import json
import tomllib
from dataclasses import fields
from enum import Enum
from pathlib import Path

import pytest

from services.store.records import HostRecord, Hyperparameters
from services.store.store import Store
from tests.support.api_calls import Api, Start
from tests.support.cli_runs import turnloom
from tests.support.trainer_stack import TrainerStack, wait_for
from turnloom.cli import export as export_module
from turnloom.cli.jobfile import JobFile
from turnloom.cli.options.numbers import spread
from turnloom.masks.domain.options import Options

FIGURES = {f"{name}.{kind}" for name in ("figure-1-test-nll", "figure-2-train-nll") for kind in ("png", "svg")}


def test_one_command_makes_a_grid_figures_table_and_verdict_and_its_results_go_elsewhere(
    start_api: Start, stack: TrainerStack, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = start_api(stack.redis.url).address
    stack.worker()
    stack.supervisor()
    wait_for(lambda: any(host.backend_up for host in stack.store.hosts.list()), "the host's record")
    words = ("--test", chats, "--rank", 2, 4, "--lr", "1e-3", "1e-1", "--steps", 10, "--batch-size", 4)
    to = tmp_path / "report"
    ran = turnloom(address, "sweep", chats, *words, "--set", "checkpoint_every=0", "--to", to)
    assert ran.code == 0, ran.err
    assert {path.name for path in to.iterdir()} == {*FIGURES, "steps.csv", "steps.parquet", "verdict.json"}
    assert "Best: rank " in ran.out
    assert "rate 1e-3" in ran.out
    assert "rank 4, rate 1e-1  SUCCEEDED  10/10" in ran.err or "rank 4, rate 0.1  SUCCEEDED  10/10" in ran.err
    with (to / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 11
    assert [row["step"] for row in rows if row["test_nll"]] == [str(step) for step in range(11)] * 4

    (listed,) = turnloom(address, "sweeps", "--json").document
    again = turnloom(address, "sweep", listed["id"], "--to", tmp_path / "again", "--json").document
    assert (tmp_path / "again" / "steps.csv").read_bytes() == (to / "steps.csv").read_bytes()
    assert again["verdict"]["best"] == json.loads((to / "verdict.json").read_text())["best"]
    jobs = [job["id"] for job in listed["jobs"]]

    plotted = turnloom(address, "plot", *jobs[:2], "--to", tmp_path / "two")
    assert plotted.code == 0, plotted.err
    assert {path.name for path in (tmp_path / "two").iterdir()} > FIGURES

    out = tmp_path / "all.csv"
    assert turnloom(address, "export", listed["id"], "--out", out).out == f"44 rows in {out}\n"
    assert out.read_bytes() == (to / "steps.csv").read_bytes()

    for name, value in (("MODE", "offline"), ("ERROR_REPORTING", "false"), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "wandb-own"))
    sent = turnloom(address, "export", *jobs[:2], "--to", "wandb", "--out", tmp_path / "wb", "--json")
    assert sent.code == 0, sent.err
    assert sent.document["format"] == "wandb"
    assert [Path(place).name.endswith(job) for place, job in zip(sent.document["files"], jobs, strict=False)] == [
        True
    ] * 2


def test_a_sweep_is_detached_and_cancelled_as_a_whole(
    api: Api, gpu_host: HostRecord, chats: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = turnloom(api.address, "sweep", chats, "--test-fraction", 0.25, "--rank", 2, 4, "--detach", "--json").document
    assert [axis["hyperparameter"] for axis in made["axes"]] == ["lora_rank"]
    cancelled = turnloom(api.address, "cancel", made["id"])
    assert cancelled.out == "".join(f"{job['id']} CANCELLED\n" for job in made["jobs"])
    monkeypatch.chdir(chats.parent)
    Path(made["id"]).mkdir()  # where an earlier run of the command kept its figures
    ended = turnloom(api.address, "sweep", made["id"], "--to", chats.parent / "r")
    assert ended.code == 1
    assert "No cell came to a sound end" in ended.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "--test is missing; cells are compared by it."),
        (("--test-fraction", "0.25", "--axis", "beta1=high"), "--axis beta1: 'high' is no list of numbers."),
        (("--test-fraction", "0.25", "--axis", "bta1=0.9"), "is not a numeric hyperparameter; did you mean beta1?"),
        (("--test-fraction", "0.25", "--axis", "lora_rank=2,2.5"), "is 2.5; give lora_rank whole numbers."),
    ],
)
def test_a_wrong_grid_is_refused_in_one_sentence(
    api: Api, gpu_host: HostRecord, chats: Path, words: tuple[str, ...], sentence: str
) -> None:
    refused = turnloom(api.address, "sweep", chats, *words)
    assert refused.code == 2
    assert sentence in refused.err
    assert turnloom(api.address, "jobs", "--json").document == []


def test_options_of_numbers_take_all_that_follow() -> None:
    words = ["a.jsonl", "--rank", "8", "32", "--lr", "1e-5", ".1", "--steps", "30", "b"]
    assert list(spread(words)) == [
        *("a.jsonl", "--rank", "8", "--rank", "32", "--lr", "1e-5", "--lr", ".1", "--steps", "30", "b"),
    ]


@pytest.mark.parametrize(
    ("kind", "module", "get"),
    [("tensorboard", "tensorboardX", "pip install tensorboardX"), ("wandb", "wandb", "pip install 'turnloom[wandb]'")],
)
def test_an_export_without_its_library_says_how_to_get_it(
    api: Api, monkeypatch: pytest.MonkeyPatch, kind: str, module: str, get: str
) -> None:
    monkeypatch.setattr(export_module, "missing", lambda module: True)
    refused = turnloom(api.address, "export", "job-1", "--to", kind)
    assert refused.code == 2
    assert f"--to {kind} needs {module}, which is not installed." in refused.err
    assert get in refused.err
    unknown = turnloom(api.address, "export", "job-1", "--to", "excel")
    assert "--to: there is no 'excel'." in unknown.err


def test_init_writes_every_default_as_the_server_has_it(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    assert turnloom(api.address, "init", path).code == 0
    text = path.read_text()
    document = tomllib.loads(text)
    for section, defaults in (("hyperparameters", Hyperparameters()), ("preprocess", Options())):
        for field in fields(defaults):
            value = getattr(defaults, field.name)
            if field.name in document[section]:
                plain = value.value if isinstance(value, Enum) else value
                if field.name == "part_weights":
                    plain = {part.name: getattr(value, part.name) for part in fields(value)}
                assert document[section].pop(field.name) == plain, field.name
            else:
                assert f"\n# {field.name} = " in text, field.name
        assert document[section] == {}
    again = turnloom(api.address, "init", path)
    assert (again.code, again.err.splitlines()[0]) == (2, f"Error: {path} is there already.")
    assert turnloom(api.address, "init", path, "--force").code == 0


def test_init_names_files_as_the_job_file_sees_them(api: Api, chats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chats.parent)
    (chats.parent / "jobs").mkdir()
    ran = turnloom(api.address, "init", "jobs/job.toml", "--train", chats.name, "--test", "ds-1")
    assert ran.code == 0, ran.err
    written = tomllib.loads(Path("jobs/job.toml").read_text())["data"]
    assert (written["train"], written["test"]) == (f"../{chats.name}", "ds-1")
    assert JobFile.read(Path("jobs/job.toml")).data == f"jobs/../{chats.name}"


def test_init_tests_a_users_file_on_nothing_that_was_not_named(api: Api, chats: Path) -> None:
    path = chats.parent / "job.toml"
    assert turnloom(api.address, "init", path, "--train", chats).code == 0
    assert JobFile.read(path).test == ""
    assert '\n# test = "test.jsonl"' in path.read_text()


def test_a_job_file_trains_and_options_win(api: Api, gpu_host: HostRecord, chats: Path, store: Store) -> None:
    path = chats.parent / "job.toml"
    turnloom(api.address, "init", path, "--train", chats, "--test", chats)
    path.write_text(path.read_text().replace("# team", "flag = true\nteam"))
    made = turnloom(api.address, "train", "-f", path, "--rank", 4, "--steps", 3, "--detach", "--json")
    assert made.code == 0, made.err
    job = store.jobs.get(made.document["id"])
    assert (job.spec.hyperparameters.lora_rank, job.spec.hyperparameters.max_steps) == (4, 3)
    assert job.spec.hyperparameters.learning_rate == 1e-4
    assert dict(job.spec.metadata) == {"team": "support", "flag": "true"}
    assert job.spec.test_dataset


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[data", "is no TOML file"),
        ("[dta]\n", "there is no section [dta]."),
        ("[data]\ntrian = 'x'\n", "[data] has no key 'trian'."),
        ("[data]\ntest_fraction = 'x'\n", "[data] test_fraction is 'x'; give a number."),
        ("[hyperparameters]\nlora_rnk = 3\n", "[hyperparameters] There is no option named lora_rnk."),
        ("[preprocess]\nmax_length = 'long'\n", "[preprocess] max_length: 'long' is not a whole number"),
        ("[data]\nskip_bad = 2026-01-31\n", "[data] skip_bad is 2026-01-31; give true or false."),
        ("[data]\ntrain = true\n", "[data] train is true; give text in quotes."),
        ("[data.mix]\nds-a = true\n", "[data] mix.ds-a is true; give a number."),
        ("[hyperparameters]\nlora_rank = 2026-01-31\n", "[hyperparameters] lora_rank: 2026-01-31 is not a whole"),
        ("", "There is nothing to train on."),
    ],
)
def test_a_wrong_job_file_is_refused_by_section_and_key(api: Api, tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "job.toml"
    path.write_text(text)
    refused = turnloom(api.address, "train", "-f", path)
    assert refused.code == 2
    assert sentence in refused.err
