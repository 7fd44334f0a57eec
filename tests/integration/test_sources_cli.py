"""`turnloom dataset import` and the hub names that `dataset create` takes, against a real server and worker."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.fakes.hub import Hub
from tests.support.api_calls import MODEL
from tests.support.cli_runs import turnloom
from tests.support.source_runs import Sources, write_lines


def test_a_server_side_file_is_imported_and_watched(sources: Sources, tmp_path: Path) -> None:
    path = sources.roots / "chats.jsonl"
    rows = [{"ask": f"q{n}", "say": f"a{n}"} for n in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "oops\n")
    sources.workers.start(HF_ENDPOINT="http://127.0.0.1:1", HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="0")
    words = ("--column", "prompt=ask", "--column", "completion=say", "--skip-bad")
    ran = turnloom(sources.api.address, "dataset", "import", path, *words)
    assert ran.code == 0, ran.err
    assert "Read as prompt_completion." in ran.err
    assert f"Left out: {path}, line 4: is not JSON" in ran.err
    assert "READY: 4 conversations read, 1 of 1 shard done" in ran.err

    refused = turnloom(sources.api.address, "dataset", "create", "HuggingFaceH4/no_robots", "--json")
    assert refused.code == 3
    assert refused.error["code"] == "HUB_UNREACHABLE"
    assert "can't be reached for HuggingFaceH4/no_robots" in refused.error["message"]
    assert "set HF_ENDPOINT to a mirror" in refused.error["hint"]


def test_both_ways_to_a_dataset_name_the_first_three_that_are_too_long(sources: Sources) -> None:
    path = sources.roots / "chats.jsonl"
    rows = [{"prompt": f"{'word ' * 99 if n else 'short'} {n}", "completion": "a"} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources.workers.start()
    for command in ("create", "import"):
        ran = turnloom(sources.api.address, "dataset", command, path, "--max-length", 60)
        assert ran.code == 0, ran.err
        assert ran.err.count("Left out:") == 3
        assert "5 conversations left out as too long (too long: 5)" in ran.err


def test_both_ways_to_a_dataset_say_once_what_the_template_leaves_out(sources: Sources) -> None:
    path = sources.roots / "chats.jsonl"
    turn = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "why"}]
    path.write_text("".join(json.dumps({"messages": turn * many}) + "\n" for many in (1, 12)))
    sources.workers.start()
    for command, where in (("create", f"{path}, line 1: "), ("import", "")):
        ran = turnloom(sources.api.address, "dataset", command, path)
        assert ran.code == 0, ran.err
        left_out = "reasoning_content: the template leaves the reasoning of this turn out"
        assert f"{where}messages[1].{left_out} (and 1 more)\n" in ran.err
        assert ran.err.count(left_out) == 10
        assert "2 other warnings; they are listed by: turnloom dataset show ds-" in ran.err


def test_both_ways_to_a_dataset_tell_of_splits_that_are_mixed_and_of_columns(sources: Sources) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    for name, row in (("train", {"messages": turns}), ("test", {"messages": turns, "loss_mask": [1]})):
        (sources.roots / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    sources.workers.start()
    told = f"{sources.roots}/train.jsonl and {sources.roots}/test.jsonl."
    for command in ("create", "import"):
        ran = turnloom(sources.api.address, "dataset", command, sources.roots, "--skip-bad")
        assert ran.code == 0, ran.err
        assert ran.err.count(f"Files of several splits become one dataset, such as {told}") == 1
        assert f"Left out: {sources.roots}/test.jsonl, line 1: loss_mask: does not fit; give 0 or 1" in ran.err


def test_what_is_no_file_is_refused_by_both_ways_and_holds_no_worker(sources: Sources) -> None:
    pipe = sources.roots / "pipe.jsonl"
    os.mkfifo(pipe)
    sources.workers.start()
    for command in ("create", "import"):
        ran = turnloom(sources.api.address, "dataset", command, pipe)
        assert ran.code != 0
        assert f"{pipe} is a pipe or a device, and files are read more than once." in ran.err
        assert "Write its content to a file first." in ran.err


def test_both_ways_to_a_dataset_count_the_examples_whose_ids_were_not_compared(sources: Sources) -> None:
    path = sources.roots / "chats.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{n}", "completion": "a"}) + "\n" for n in range(3)))
    sources.workers.start()
    for command in ("create", "import"):
        ran = turnloom(sources.api.address, "dataset", command, path, "-o", "tokenization=hf")
        assert "The token ids of 3 examples were not compared with the text" in ran.err
    listed = turnloom(sources.api.address, "dataset", "list", "--json").document
    assert [one["unchecked_examples"] for one in listed] == [3, 3]
    assert sources.api.sample("turnloom_preprocess_unchecked_total", model=MODEL) == 3


def test_columns_that_nobody_reads_are_named_once_by_every_way_to_a_dataset(sources: Sources) -> None:
    path = sources.roots / "chats.jsonl"
    rows = [
        {"prompt": f"q{n}", "completion": "a", "lang": "en", "score": n, "weight": 2, "empty": None} for n in range(5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "late": [1]}]))
    sources.workers.start()
    for command in ("create", "import"):
        ran = turnloom(sources.api.address, "dataset", command, path, "--where", "lang = en")
        sentence = "Columns that nobody reads: score, weight (write weight at each message to have it obeyed), late."
        assert ran.err.count(sentence) == 1, ran.err
    assert sentence in turnloom(sources.api.address, "lint", path, "--where", "lang = en").out
    listed = turnloom(sources.api.address, "dataset", "list", "--json").document
    assert [one["left_out"]["unused_columns"] for one in listed] == [["score", "weight", "late"]] * 2


def test_a_source_is_split_and_deduplicated_by_the_server(sources: Sources) -> None:
    path = sources.roots / "chats.jsonl"
    rows = [{"prompt": f"q{n % 8}", "completion": "a"} for n in range(10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources.workers.start()
    words = ("--deduplicate", "exact", "--test-fraction", "0.25", "--seed", "3", "--json")
    train, test = turnloom(sources.api.address, "dataset", "import", path, *words).document
    assert (train["conversations"], test["conversations"]) == (6, 2)
    assert (train["display_name"], test["display_name"]) == (f"{path} (train)", f"{path} (test)")
    assert test["source"]["deduplicate"] == "EXACT"
    assert test["source"]["take_test"]
    assert (train["left_out"]["duplicates"], train["warnings"]) == (2, [])
    for command, name in (("create", "chats.jsonl"), ("import", f"{path}")):
        ran = turnloom(sources.api.address, "dataset", command, path, *words[:-1])
        assert f"\n{name}: 2 conversations left out, seen before (duplicates: 2)\n" in ran.err
        assert ran.err.count("seen before") == 1, "once for both parts"
        ran = turnloom(sources.api.address, "dataset", command, path, *words[2:-1])
        said = "1 test conversation also in the training part (overlapping: 1); split it with --deduplicate exact"
        assert f"\n{name}: {said}\n" in ran.err
        assert ran.err.count("test conversation") == 1, "once for both parts"
    wrong = turnloom(sources.api.address, "dataset", "import", path, "--deduplicate", "fuzzy")
    assert (wrong.code, "Choose from exact, normalized." in wrong.err) == (2, True)


def test_two_splits_of_a_hub_dataset_become_two_datasets_and_their_overlap_is_counted(
    sources: Sources, tmp_path: Path
) -> None:
    def split(*texts: str) -> bytes:
        return "".join(json.dumps({"prompt": text, "completion": "a"}) + "\n" for text in texts).encode()

    files = {"train.jsonl": split("a", "b", "c"), "test.jsonl": split("c", "d")}
    with Hub("org/chats", files) as hub:
        sources.workers.start(HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="0")
        made = turnloom(sources.api.address, "dataset", "import", "org/chats", "--test-split", "test")
        assert made.code == 0, made.err
        said = "1 test conversation also in the split train (overlapping: 1); take them out of one of the two"
        assert f"org/chats (test): {said}\n" in made.err
        assert made.err.count("also in") == 1
        words = ("--test-split", "test", "--deduplicate", "exact", "--no-streaming", "--json")
        train, test = turnloom(sources.api.address, "dataset", "import", "org/chats", *words).document
        assert (train["conversations"], test["conversations"], test["left_out"]["overlapping"]) == (3, 2, 1)
        wanted = ("--where", "prompt != c", "--json")
        chosen = turnloom(sources.api.address, "dataset", "create", "org/chats", *wanted).document
        assert (chosen["conversations"], chosen["left_out"]["filtered"]) == (2, 1)
    both = turnloom(sources.api.address, "dataset", "import", "x", "--test-split", "test", "--test-fraction", "0.1")
    assert (both.code, "exclude each other" in both.err) == (2, True)


def test_a_link_out_of_the_roots_is_named_and_belongs_to_no_conversation(sources: Sources, tmp_path: Path) -> None:
    folder = sources.roots / "chats"
    folder.mkdir()
    write_lines(folder / "own.jsonl", 4)
    (folder / "link.jsonl").symlink_to(write_lines(tmp_path / "out.jsonl", 2))
    sources.workers.start()
    said = f"Left out, for they are links out of the source roots: {folder}/link.jsonl."
    made = turnloom(sources.api.address, "dataset", "import", folder, "--test-fraction", "0.5")
    assert made.code == 0, made.err
    assert made.err.count(f"\n{said}\n") == 1, "once for both parts"
    for name in (line.split()[0] for line in made.out.splitlines() if line.startswith("ds-")):
        shown = turnloom(sources.api.address, "dataset", "show", name)
        assert f"\n  {said}\n" in shown.out
        assert "conversation 0" not in shown.out
        assert "True" not in shown.out, "truth is told as JSON tells it"
        document = turnloom(sources.api.address, "dataset", "show", name, "--json").document
        assert (document["left_out"]["outside_links"], document["warnings"]) == ([f"{folder}/link.jsonl"], [])


@pytest.mark.parametrize("where", ["import", "create"])
def test_a_link_to_a_file_that_is_read_already_is_named_and_trained_once(sources: Sources, where: str) -> None:
    folder = sources.roots / "chats"
    folder.mkdir()
    (folder / "again.jsonl").symlink_to(write_lines(folder / "own.jsonl", 4))
    sources.workers.start()
    made = turnloom(sources.api.address, "dataset", where, folder)
    said = f"Not read again, for they lead to files that are read already: {folder}/again.jsonl."
    assert (made.code, made.err.count(f"{said}\n")) == (0, 1), made.err
    (name,) = (line.split()[0] for line in made.out.splitlines() if line.startswith("ds-"))
    shown = turnloom(sources.api.address, "dataset", "show", name, "--json").document
    assert shown["conversations"] == 4
    assert shown["left_out"]["repeated_files"] == ([f"{folder}/again.jsonl"] if where == "import" else [])


def test_a_mistyped_file_is_no_hub_name(sources: Sources) -> None:
    missing = turnloom(sources.api.address, "dataset", "create", "chats.jsonl")
    assert missing.code == 2
    assert "There is no file chats.jsonl" in missing.err
