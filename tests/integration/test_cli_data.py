"""The command line about models, conversations and datasets, against a real server."""

from __future__ import annotations

import json
import re
import time
from importlib import metadata
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.api_calls import MODEL, NO_REDIS, TUFT_MODEL, Api, Start
from tests.support.cli_runs import turnloom, write_chats
from turnloom.cli.up import not_loaded


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    return write_chats(tmp_path / "chats.jsonl", "hello", "good day", copies=10)


def test_models_are_listed_for_people_and_for_scripts(api: Api) -> None:
    listed = turnloom(api.address, "models")
    assert listed.code == 0
    assert MODEL in listed.out
    assert TUFT_MODEL in listed.out
    assert [model["name"] for model in turnloom(api.address, "models", "--json").document] == [MODEL]


def test_up_names_models_that_the_api_was_told_of_and_could_not_load(api: Api, tmp_path: Path) -> None:
    tables = "".join(f'[[models]]\nname = "{name}"\nsource = "/nowhere"\n' for name in (MODEL, "qwen3"))
    (tmp_path / "models.toml").write_text(tables)
    assert not_loaded(tmp_path, api.address) == ["qwen3"]


def test_a_preview_marks_what_is_trained(api: Api, chats: Path) -> None:
    shown = turnloom(api.address, "preview", chats, "--index", 3)
    assert shown.code == 0, shown.err
    assert "⟦good day⟧" in shown.out
    assert "⟦hello" not in shown.out
    assert f"{chats}, line 4" in shown.err
    assert "weight 1" in shown.out


def test_a_preview_for_scripts_has_every_token_with_weight_role_and_kind(api: Api, chats: Path) -> None:
    (example,) = turnloom(api.address, "preview", chats, "--json").document["examples"]
    assert "".join(token["text"] for token in example["tokens"]) == example["rendered_text"]
    trained = [token for token in example["tokens"] if token["weight"] > 0]
    assert {(token["role"], token["kind"]) for token in trained} == {("assistant", "content"), ("assistant", "eot")}


def test_a_preview_lists_tokens_one_by_one_names_escaped_control_tokens_and_what_was_cut(
    api: Api, tmp_path: Path
) -> None:
    spelled = write_chats(tmp_path / "c.jsonl", "say <|im_end|> to me", "no, thank you very much indeed")
    shown = turnloom(api.address, "preview", spelled, "--tokens", "--max-length", 30)
    assert shown.code == 0, shown.err
    assert "messages[0] spells the control token <|im_end|>" in shown.out
    assert "max_length cut" in shown.out
    assert shown.out.count("content") >= 10


def test_a_check_of_ids_that_was_skipped_is_counted_wherever_somebody_looks(api: Api, chats: Path) -> None:
    stock = ("-o", "tokenization=hf")
    for command, examples in (("preview", 1), ("lint", 10)):
        for options, expected in ((stock, examples), ((), 0)):
            found = turnloom(api.address, command, chats, *options, "--json").document
            assert found["unchecked_examples"] == expected, command
    shown = turnloom(api.address, "preview", chats, *stock)
    assert "The token ids of 1 example were not compared with the text" in shown.out


def test_a_preview_reads_no_further_than_its_conversation(api: Api, chats: Path) -> None:
    chats.write_text(chats.read_text() + "{broken\n")
    shown = turnloom(api.address, "preview", chats, "--index", 9)
    assert shown.code == 0, shown.err
    assert f"{chats}, line 10" in shown.err
    assert "line 11: is not JSON" in turnloom(api.address, "preview", chats, "--index", 10).err


def test_what_the_server_refuses_has_its_line_once(api: Api, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"messages": [{"role": "user", "content": "x"}]}\n')
    refused = turnloom(api.address, "dataset", "create", tmp_path / "c.jsonl", "--json")
    assert refused.code == 2
    assert refused.error["message"].startswith(f"{tmp_path / 'c.jsonl'}, line 1: train_on=all_assistant")
    (tmp_path / "d.jsonl").write_text('{"messages": [{"role": "human", "content": "x"}]}\n')
    refused = turnloom(api.address, "preview", tmp_path / "d.jsonl", "--json")
    assert refused.error["message"].startswith(f"{tmp_path / 'd.jsonl'}, line 1: messages[0].role: 'human' is no role")


def test_an_index_that_the_file_does_not_have_is_bad_input(api: Api, chats: Path) -> None:
    refused = turnloom(api.address, "preview", chats, "--index", 10)
    assert refused.code == 2
    assert "--index is 10, but" in refused.err
    assert "The last one is 9." in refused.err


def test_lint_names_offenders_with_file_and_line(api: Api, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "dup.jsonl", "hi", "ho")
    path.write_text(path.read_text() * 2, encoding="utf-8")
    found = turnloom(api.address, "lint", path)
    assert "\nTokens per example: " in found.out
    assert found.code == 0, found.err
    assert f"{path}, line 2" in found.out
    assert turnloom(api.address, "lint", path, "--strict").code == 2
    assert turnloom(api.address, "lint", path, "--json").document["conversations"] == 2


def test_lint_goes_on_past_rows_that_cannot_be_read_and_lists_them(api: Api, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", "hi", "ho", copies=2)
    path.write_text('{"messages": 3}\n' + path.read_text() + "{broken\n", encoding="utf-8")
    found = turnloom(api.address, "lint", path)
    assert found.code == 0, found.err
    assert "2 x unreadable" in found.out
    assert f"{path}, line 1: messages" in found.out
    assert f"{path}, line 4: is not JSON" in found.out
    assert found.out.startswith("2 conversations, 2 examples")
    assert turnloom(api.address, "lint", path, "--strict").code == 2
    assert turnloom(api.address, "lint", path, "--strict", "--skip-bad").code == 0
    document = turnloom(api.address, "lint", path, "--json").document
    assert (document["conversations"], document["unreadable_rows"], len(document["unreadable"])) == (2, 2, 2)


def test_lint_and_preview_read_rows_as_dataset_create_does(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("ask,say,lang\nwie,so,de\n,,en\nhow,this way,en\n", encoding="utf-8")
    words = (path, "--format", "prompt_completion", "--column", "prompt=ask", "--column", "completion=say")
    words = (*words, "--where", "lang = en", "--where", "ask != null")
    assert turnloom(api.address, "lint", *words, "--json").document["conversations"] == 1
    shown = turnloom(api.address, "preview", *words, "--where", "say ~ way")
    assert shown.code == 0, shown.err
    assert "⟦this way⟧" in shown.out
    broken = tmp_path / "d.jsonl"
    write_chats(broken, "hi", "ho")
    broken.write_text("{\n" + broken.read_text(), encoding="utf-8")
    assert turnloom(api.address, "preview", broken).code == 2
    assert turnloom(api.address, "preview", broken, "--skip-bad").code == 0


def test_conversations_that_are_too_long_are_left_out_and_counted_unless_strict(api: Api, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "c.jsonl", "hi", "ho", copies=3)
    long = write_chats(tmp_path / "long.jsonl", "word " * 99, "cut away", copies=5)
    path.write_text(path.read_text() + long.read_text(), encoding="utf-8")
    made = turnloom(api.address, "dataset", "create", path, "--max-length", 40)
    assert made.code == 0, made.err
    assert "c.jsonl: 5 conversations left out as too long (too long: 5); raise --max-length" in made.err
    assert made.err.count("Left out:") == 3
    (document,) = turnloom(api.address, "dataset", "create", path, "--max-length", 40, "--json").document
    assert (document["conversations"], document["too_long_conversations"]) == (3, 5)
    path.write_text(path.read_text() * 2, encoding="utf-8")
    few = turnloom(api.address, "dataset", "create", path, "--max-length", 40, "--deduplicate", "exact")
    listed = next(line for line in few.out.splitlines() if line.startswith("ds-"))
    assert re.search(r" 13 +[0-9:]+( s)? ago", listed), "8 duplicates and 5 that are too long"
    refused = turnloom(api.address, "dataset", "create", path, "--max-length", 40, "--strict", "--json")
    assert refused.code == 2
    assert refused.error["message"].startswith(f"{path}, line 4: ")
    assert refused.error["hint"].startswith("Raise --max-length, or leave --strict out")
    refused = turnloom(api.address, "dataset", "create", long, "--max-length", 40, "--json")
    assert (refused.code, refused.error["hint"]) == (2, "Raise --max-length.")
    both = turnloom(api.address, "dataset", "create", path, "--strict", "--skip-bad")
    assert (both.code, "exclude each other" in both.err) == (2, True)


def test_a_dataset_is_made_listed_shown_downloaded_and_deleted(api: Api, chats: Path, tmp_path: Path) -> None:
    (made,) = turnloom(api.address, "dataset", "create", chats, "--max-length", 512, "--json").document
    assert (made["state"], made["conversations"], made["display_name"]) == ("READY", 10, "chats.jsonl")
    assert made["options"]["max_length"] == 512
    assert made["id"] in turnloom(api.address, "dataset", "list").out
    shown = turnloom(api.address, "dataset", "show", made["id"])
    assert made["sha256"] in shown.out
    assert "max_length = 512" in shown.out
    assert "row 0" not in shown.out
    shown = turnloom(api.address, "dataset", "show", made["id"], "--rows", 2)
    assert shown.out.count(": conversation ") == 2
    assert "⟦" in shown.out
    document = turnloom(api.address, "dataset", "show", made["id"], "--rows", 2, "--json").document
    assert [len(row["token_ids"]) - len(row["target_weights"]) for row in document["rows"]] == [1, 1]
    rows_file = tmp_path / "rows.jsonl"
    assert turnloom(api.address, "dataset", "download", made["id"], "--to", rows_file, "--json").document["rows"] == 10
    rows = [json.loads(line) for line in rows_file.read_text().splitlines()]
    assert [row["conversation"] for row in rows] == list(range(10))
    assert sum(len(row["token_ids"]) for row in rows) == made["tokens"]
    assert sum(weight > 0 for row in rows for weight in row["target_weights"]) == made["loss_tokens"]
    exported = turnloom(api.address, "dataset", "export", made["id"], "--to", "trl", "--out", tmp_path / "t", "--json")
    assert exported.document["rows"] == 10
    labels = pq.read_table(tmp_path / "t").column("labels").to_pylist()
    assert sum(label != -100 for some in labels for label in some) == made["loss_tokens"]
    for out in ("", tmp_path):
        refused = turnloom(api.address, "dataset", "export", made["id"], "--to", "trl", "--out", out)
        assert (refused.code, "can't be written: Is a directory." in refused.err) == (2, True)
    refused = turnloom(api.address, "dataset", "export", made["id"], "--to", "nothing")
    assert "there is no 'nothing'" in refused.err
    assert turnloom(api.address, "dataset", "delete", made["id"]).code == 0
    gone = turnloom(api.address, "dataset", "show", made["id"])
    assert gone.code == 4
    assert made["id"] in gone.err


def test_a_file_is_split_into_train_and_test_by_seed(api: Api, chats: Path) -> None:
    words = ("dataset", "create", chats, "--test-fraction", 0.2, "--option", "date=2026-01-02", "--json")
    train, test = turnloom(api.address, *words).document
    assert (train["conversations"], test["conversations"]) == (8, 2)
    again = turnloom(api.address, *words).document
    assert [dataset["sha256"] for dataset in again] == [train["sha256"], test["sha256"]]


def test_training_and_test_files_of_one_name_stay_apart(api: Api, tmp_path: Path) -> None:
    training, first, second = (tmp_path / folder / "data.jsonl" for folder in ("train", "test", "more"))
    for path, copies in ((training, 3), (first, 2), (second, 1)):
        path.parent.mkdir()
        write_chats(path, f"hello from {path.parent.name}", "good day", copies=copies)
    made = turnloom(api.address, "dataset", "create", training, "--test", first, "--test", second, "--json").document
    assert [dataset["conversations"] for dataset in made] == [3, 2, 1]
    assert {dataset["display_name"] for dataset in made} == {"data.jsonl"}


def test_a_file_that_is_tested_on_itself_is_two_datasets_and_said(api: Api, chats: Path, gpu_host: object) -> None:
    said = "chats.jsonl: 10 test conversations also in the training part (overlapping: 10); take them out of one"
    made = turnloom(api.address, "dataset", "create", chats, "--test", chats)
    assert said in made.err
    assert len(turnloom(api.address, "dataset", "list", "--json").document) == 2
    checked = turnloom(api.address, "train", chats, "--test", chats, "--dry-run")
    assert checked.code == 0, checked.err
    assert said in checked.err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"messages": [}', "line 2: is not JSON (Expecting value in column 15)."),
        ('{"messages": [{"role": "user", "content": 7}]}', "line 2: messages[0].content: is the number 7"),
        ('{"messages": []}', "line 2: "),
        ('{"messages": [{"role": "user", "content": "only me"}]}', "line 2: "),
    ],
)
def test_a_bad_conversation_is_named_by_its_line_and_nothing_is_made(
    api: Api, tmp_path: Path, line: str, sentence: str
) -> None:
    path = write_chats(tmp_path / "bad.jsonl", "hi", "ho")
    path.write_text(path.read_text() + line + "\n", encoding="utf-8")
    refused = turnloom(api.address, "dataset", "create", path)
    assert refused.code == 2
    assert f"{path}, {sentence}" in refused.err
    assert "Traceback" not in refused.err
    assert turnloom(api.address, "dataset", "list", "--json").document == []


def test_bad_conversations_are_left_out_and_named_where_asked(api: Api, tmp_path: Path) -> None:
    path = write_chats(tmp_path / "bad.jsonl", "hi", "ho")
    path.write_text('{"messages": [{"role": "user", "content": "only me"}]}\n' + path.read_text(), encoding="utf-8")
    made = turnloom(api.address, "dataset", "create", path, "--skip-bad")
    assert made.code == 0, made.err
    assert f"Left out: {path}, line 1" in made.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nope"], "'nope' is not served here"),
        (["--option", "max_lenght=3"], "There is no option named max_lenght."),
        (["--option", "truncation"], "there is no '='"),
        (["--truncation", "middle"], "truncation: there is no 'middle'."),
        (["--max-length", "1"], "max_length"),
        (["--test-fraction", "1.5"], "give a number between 0 and 1"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(api: Api, chats: Path, arguments: list[str], sentence: str) -> None:
    refused = turnloom(api.address, "dataset", "create", chats, *arguments)
    assert refused.code in (2, 4)
    assert sentence in refused.err
    assert "Traceback" not in refused.err


def test_errors_for_scripts_are_one_document_on_stderr(api: Api) -> None:
    refused = turnloom(api.address, "dataset", "show", "ds-nope", "--json")
    assert (refused.code, refused.out) == (4, "")
    assert set(refused.error) == {"code", "message", "field", "hint", "retry_after"}
    assert "ds-nope" in refused.error["message"]


def test_without_redis_previews_work_and_datasets_are_refused_within_10_seconds(start_api: Start, chats: Path) -> None:
    address = start_api(NO_REDIS).address
    assert turnloom(address, "preview", chats).code == 0
    began = time.monotonic()
    refused = turnloom(address, "dataset", "list")
    assert time.monotonic() - began < 10
    assert refused.code == 3
    assert "Redis" in refused.err


def test_without_a_server_the_address_and_what_to_start_are_named() -> None:
    refused = turnloom("127.0.0.1:1", "models", "--json")
    assert refused.code == 3
    assert refused.error["message"] == "No Turnloom server answers at 127.0.0.1:1."
    assert "turnloom up" in refused.error["hint"]


def test_the_doctor_compares_versions_and_misses_a_worker(api: Api) -> None:
    seen = turnloom(api.address, "doctor", "--json")
    outcomes = {(finding["name"], finding["outcome"]) for finding in seen.document}
    assert {("client", "ok"), ("server", "ok"), ("models", "ok"), ("hosts", "failed"), ("redis_aof", "ok")} <= outcomes
    assert seen.code == 1
    assert "No worker is known, so jobs would wait." in turnloom(api.address, "doctor").out


def test_the_version_is_the_distributions() -> None:
    assert turnloom("", "--version").out == f"turnloom {metadata.version('turnloom')}\n"


def test_a_file_is_taken_whatever_it_is_called(api: Api, tmp_path: Path) -> None:
    for title, named in (
        ("\u8bdd" * 60 + ".jsonl", "\u8bdd" * 20 + "..." + "\u8bdd" * 18 + ".jsonl"),
        ("two\nlines.jsonl", "two\\nlines.jsonl"),
        ("caf\udce9.jsonl", "caf\\udce9.jsonl"),
    ):
        chats = write_chats(tmp_path / title, "hello", "good day", copies=20)
        (made,) = turnloom(api.address, "dataset", "create", chats, "--json").document
        assert (made["display_name"], made["state"]) == (named, "READY")
        parts = turnloom(api.address, "dataset", "create", chats, "--test-fraction", "0.5", "--json").document
        assert [part["display_name"][-8:].split()[-1] for part in parts] == ["(train)", "(test)"]
