"""Local files of any kind and format give the client the conversations that the server would read."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.preprocess.datasets.sources.listing import files
from services.preprocess.datasets.sources.reading import pieces_of
from services.preprocess.domain.source_errors import SourceNotKnown, SourceNotReadable
from services.preprocess.domain.source_location import locate
from turnloom.errors import InvalidInput
from turnloom.reading.file_names import each_once, mixed_splits
from turnloom.reading.filters import RowFilter
from turnloom.reading.local_files import find
from turnloom.reading.local_sources import LocalPart, LocalSource, read
from turnloom.reading.selecting import Choice
from turnloom.transport.uploads import numbered_chunks
from turnloom.wire.conversations import Sourced, from_json

CHAT = from_json([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
ROW = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def sourced(path: Path) -> Iterator[Sourced]:
    return LocalSource.open([path]).whole().sourced()


def lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pairs(*texts: str) -> list[object]:
    return [{"prompt": text, "completion": "a"} for text in texts]


def prompts(part: LocalPart) -> list[tuple[int, str]]:
    return [(number, conversation.messages[0].text) for number, conversation in part.numbered()]


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"instruction": "q", "input": "", "output": "a"},
    ],
)
def test_every_format_is_read_from_json_lines(tmp_path: Path, row: object) -> None:
    path = lines(tmp_path / "a.jsonl", [row, row])
    assert [(s.conversation, s.place) for s in sourced(path)] == [(CHAT, f"{path}, line {n}") for n in (1, 2)]


def test_every_kind_of_file_gives_the_same_conversations(tmp_path: Path) -> None:
    text = (json.dumps(ROW) + "\n") * 3
    (tmp_path / "a.jsonl").write_text(text)
    (tmp_path / "no suffix").write_text(text)
    (tmp_path / "lines.json").write_text(text)
    (tmp_path / "a.json").write_text(json.dumps([ROW] * 3, indent=1))
    (tmp_path / "a.csv").write_text("prompt,completion\n" + "q,a\n" * 3)
    (tmp_path / "a.tsv").write_text("prompt\tcompletion\n" + "q\ta\n" * 3)
    for suffix, compressed in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)):
        (tmp_path / f"a.jsonl.{suffix}").write_bytes(compressed(text.encode()))
    (tmp_path / "lines.json.gz").write_bytes(gzip.compress(text.encode()))
    with pa.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as stream:
        stream.write(text.encode())
    with pa.CompressedOutputStream(str(tmp_path / "document.json.zst"), "zstd") as stream:
        stream.write(json.dumps([ROW] * 3).encode())
    table = pa.Table.from_pylist([ROW] * 3)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=2)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 14
    for path in paths:
        found = list(sourced(path))
        assert [one.conversation for one in found] == [CHAT] * 3, path
        assert all(one.place.startswith(f"{path}, ") for one in found)


def test_folders_globs_and_several_files_are_one_source_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "chats"
    (folder / "sub").mkdir(parents=True)
    first, second = lines(folder / "b.jsonl", pairs("b")), lines(folder / "sub" / "a.jsonl", pairs("a"))
    lines(folder / ".hidden.jsonl", ["no"])
    (folder / "README.md").write_text("# no data")
    (folder / "state.json").write_text("{}")
    single = lines(tmp_path / "c.jsonl", pairs("c"))
    assert find([folder]) == find([f"{folder}/**/*.jsonl"]) == [first, second]
    source = LocalSource.open([single, folder])
    assert source.name == "c.jsonl and 2 more"
    assert prompts(source.whole()) == [(0, "c"), (1, "b"), (2, "a")]
    assert source.whole().place(2) == f"{second}, line 1"
    for word, sentence in (
        (tmp_path / "gone.jsonl", f"There is no file {tmp_path}/gone.jsonl."),
        (tmp_path / "*.csv", f"No file is named like {tmp_path}/*.csv."),
    ):
        with pytest.raises(InvalidInput) as missing:
            LocalSource.open([word])
        assert missing.value.message == sentence
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="There is no data file in the folder"):
        find([tmp_path / "empty"])


def test_client_and_server_find_the_same_files_in_the_same_order(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "root" / "linked" / "c.jsonl"
    for name in ("a/x.jsonl", "a-b/x.jsonl", "linked/c.jsonl", "b.jsonl/part.jsonl"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    folder = root / "folder"
    folder.mkdir()
    for link, target in (
        ("data", "../a"),
        ("more", "../a-b"),
        ("again", "../a"),
        ("circle", "."),
        ("f.jsonl", elsewhere),
    ):
        (folder / link).symlink_to(target)
    roots = (str(root),)
    for word in (folder, root, root / "*" / "*.jsonl"):
        found = files(locate(str(word), roots), roots)
        assert each_once([str(path) for path in find([word])]) == (found.data, found.repeated)
        assert found.data == tuple(sorted(found.data))
        assert not found.outside
    assert [path.relative_to(folder).as_posix() for path in find([folder])] == [
        "again/x.jsonl",
        "f.jsonl",
        "more/x.jsonl",
    ]


def test_what_is_no_file_is_refused_by_client_and_server(tmp_path: Path) -> None:
    lines(tmp_path / "a.jsonl", pairs("a"))
    pipe, link = tmp_path / "pipe.jsonl", tmp_path / "link.jsonl"
    os.mkfifo(pipe)
    roots = (str(tmp_path),)
    for name, word, what in (
        (pipe, pipe, "a pipe or a device"),
        (pipe, tmp_path, "a pipe"),
        (link, tmp_path, "a link to"),
    ):
        if name is link:
            pipe.unlink()
            link.symlink_to("gone.jsonl")
        with pytest.raises(InvalidInput) as refused:
            find([word])
        assert refused.value.message.startswith(f"{name} is {what}")
        with pytest.raises(SourceNotReadable, match=re.escape(refused.value.message)):
            files(locate(str(word), roots), roots)
    with pytest.raises(InvalidInput, match=r"/dev/null is a pipe or a device, and files are read more than once"):
        LocalSource.open(["/dev/null"])


def test_a_folder_of_several_splits_is_not_mixed(tmp_path: Path) -> None:
    roots = (str(tmp_path),)
    for split in ("train", "test"):
        (tmp_path / "saved" / split).mkdir(parents=True)
        lines(tmp_path / "saved" / split / "data.jsonl", pairs(split))
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InvalidInput) as refused:
        find([tmp_path / "saved"])
    assert refused.value.message == f"{tmp_path}/saved holds the splits train, test, which are not one dataset."
    assert refused.value.hint == f"Name the folder of one: {tmp_path}/saved/train."
    with pytest.raises(SourceNotReadable, match="holds the splits train, test"):
        files(locate(str(tmp_path / "saved"), roots), roots)
    assert find([tmp_path / "saved" / "train"]) == [tmp_path / "saved" / "train" / "data.jsonl"]
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert len(find([tmp_path / "saved"])) == 2


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("d/train.jsonl", "d/test.jsonl"), ("d/train.jsonl", "d/test.jsonl")),
        (("d/train/0.parquet", "d/validation/0.parquet"), ("d/train/0.parquet", "d/validation/0.parquet")),
        (("d/x-train-0001.jsonl.gz", "d/x_dev.json"), ("d/x-train-0001.jsonl.gz", "d/x_dev.json")),
        (("test/train.jsonl", "test/a.jsonl"), ("test/train.jsonl", "test/a.jsonl")),
        (("d/train.jsonl", "d/more.jsonl"), ()),
        (("d/test.jsonl", "d/validation.jsonl"), ()),
        (("d/trainer.jsonl", "d/latest.jsonl"), ()),
    ],
)
def test_splits_that_are_read_together_are_named(names: tuple[str, ...], told: tuple[str, ...]) -> None:
    assert mixed_splits(names) == told


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("named", ["folder", "glob", "files"])
def test_a_file_and_a_link_to_it_are_read_once(tmp_path: Path, link: Callable[[Path, Path], None], named: str) -> None:
    folder = tmp_path / "chats"
    folder.mkdir()
    for name in ("b", "c"):
        (folder / f"{name}.jsonl").write_text(json.dumps(ROW | {"id": name}) + "\n")
    link(folder / "b.jsonl", folder / "a.jsonl")
    words = {"folder": [folder], "glob": [folder / "*.jsonl"], "files": [*sorted(folder.iterdir()), folder / "c.jsonl"]}
    source = LocalSource.open(words[named])
    kept, left = ("b", "a") if link is os.symlink else ("a", "b")
    assert [path.stem for path in source.files] == sorted([kept, "c"])
    again = [f"{folder}/c.jsonl"] if named == "files" else []
    assert list(source.repeated) == [f"{folder}/{left}.jsonl", *again]
    assert [one.conversation.id for one in source.whole().sourced()] == ["b", "c"]


def test_names_that_are_no_text_are_shown_and_sent(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    row = ROW | {"n\ud83d": 1, "id": "x"}
    path.write_text(json.dumps(row) + "\n" + json.dumps(ROW | {"messages": [{"role": "user", "k\ud83d": 1}]}) + "\n")
    part = LocalSource.open([path]).whole()
    part.skip_bad = True
    assert [one.conversation.id for one in part.sourced()] == ["x"]
    assert list(part.counts.unused_columns) == ["n?"]
    said = "messages[0]: half of a surrogate pair (\\ud800 to \\udfff) stands alone."
    assert part.bad == [f"{tmp_path}/caf?.jsonl, line 2: {said}"]
    assert part.description().uri == "caf?.jsonl"


def test_a_number_of_too_many_digits_is_said_in_our_words(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [ROW, '{"id": ' + "9" * 5000 + "}"])
    rows = sourced(path)
    assert next(rows).conversation == CHAT
    with pytest.raises(
        InvalidInput, match=r"line 2: holds a whole number of more than 4,300 digits; write it as text\."
    ):
        next(rows)


def test_a_column_of_a_csv_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion,completion,,\nq,a,b,,\n")
    with pytest.raises(InvalidInput, match=re.escape(f"{path} has the column completion twice.")):
        LocalSource.open([path])


def test_a_compressed_table_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(b"PAR1"))
    roots = (str(tmp_path),)
    with pytest.raises(InvalidInput, match=re.escape(f"{path} is a compressed table.")) as refused:
        LocalSource.open([path])
    assert refused.value.hint == "Decompress it: such files are compressed inside."
    with pytest.raises(SourceNotKnown, match="is a compressed table"):
        files(locate(str(path), roots), roots)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz"])
def test_damage_is_told_without_the_bytes_that_are_there(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(b'{"secret": 1}')
    with pytest.raises(InvalidInput, match="can't be read: ") as refused:
        LocalSource.open([path])
    assert refused.value.hint == "It is damaged, or not what its name says."
    with pytest.raises(SourceNotReadable, match="can't be read: ") as failed:
        list(pieces_of(str(path), str(tmp_path / "staged")))
    assert failed.value.hint == refused.value.hint
    assert str(failed.value) == refused.value.message
    assert "{" not in refused.value.message


def test_a_file_of_another_kind_is_told_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(InvalidInput, match=r"line 1 is not UTF-8\.") as refused:
        LocalSource.open([path])
    assert refused.value.hint.startswith("Save the file as UTF-8, or as one of .jsonl, .ndjson")


def test_a_list_of_rows_in_a_file_of_lines_says_what_to_do(tmp_path: Path) -> None:
    one, many, latin = tmp_path / "one.jsonl", tmp_path / "many.jsonl", tmp_path / "latin.csv"
    one.write_text(json.dumps([ROW, ROW]))
    many.write_text(json.dumps([ROW, ROW], indent=1))
    latin.write_bytes("prompt,completion\nq,\u00e9\n".encode("utf-16"))
    with pytest.raises(InvalidInput) as refused:
        next(sourced(one))
    assert refused.value.message == (
        f"{one}, line 1: is a list of rows; write each in a line of its own, or name the file .json."
    )
    with pytest.raises(InvalidInput, match="None of the first 26 rows can be read") as refused:
        LocalSource.open([many])
    assert refused.value.hint.startswith("Write one JSON object a line.")
    with pytest.raises(InvalidInput, match=re.escape(f"{latin} is not UTF-8.")) as refused:
        LocalSource.open([latin])
    assert refused.value.hint == "Save the file as UTF-8."


def test_a_cell_that_is_json_is_a_reply_unless_it_holds_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('instruction,output\nq,"[{""a"": 1}]"\nq,[]\n')
    assert [one.conversation.messages[1].text for one in sourced(path)] == ['[{"a": 1}]', "[]"]


def test_tools_that_are_empty_are_none_to_deduplicate(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [ROW, ROW | {"tools": []}, ROW | {"tools": None}, ROW | {"tools": [{"a": 1}]}])
    (part,) = LocalSource.open([path], choice=Choice(deduplicate="exact")).parts()
    assert [number for number, _ in part.numbered()] == [0, 1]
    assert part.counts.duplicates == 2


def test_csv_is_read_and_a_short_row_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,completion\nq,a\nq\n")
    rows = sourced(path)
    assert next(rows).conversation == CHAT
    with pytest.raises(InvalidInput, match="line 3: has 1 cell for 2 columns"):
        next(rows)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"], ids=ascii)
def test_only_a_line_end_ends_a_row_of_csv(tmp_path: Path, character: str) -> None:
    path = tmp_path / "a.csv"
    texts = [f"q{character}x", f"a{character}b,c"]
    path.write_bytes(f'prompt,completion\r\n{texts[0]},"{texts[1]}"\r\nq,a{character}\r\nq,x\n'.encode())
    first, second, third = sourced(path)
    assert [message.text for message in first.conversation.messages] == texts
    assert second.conversation.messages[1].text == f"a{character}"
    assert third.place == f"{path}, line 4"


def test_an_empty_cell_of_csv_is_null_and_no_reply(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('instruction,input,output\nq,,a\nq,"",\n')
    rows = sourced(path)
    assert next(rows).conversation == CHAT
    with pytest.raises(InvalidInput, match="line 3: output: is null in this row; leave such rows out"):
        next(rows)


def test_a_later_row_of_another_format_says_file_line_and_column(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [{"prompt": "q", "completion": "a"}, {"text": "x"}])
    with pytest.raises(InvalidInput, match="line 2: prompt: there is no column prompt"):
        list(sourced(path))


def test_damaged_and_empty_files_are_one_sentence(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.arrow", "a.jsonl.gz", "a.jsonl.xz", "a.jsonl.zst"):
        (tmp_path / name).write_bytes(b"not what its name says")
        with pytest.raises(InvalidInput, match=f"{name} can't be read: "):
            list(sourced(tmp_path / name))
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InvalidInput, match=r"empty\.jsonl holds no conversation"):
        list(sourced(tmp_path / "empty.jsonl"))
    path = lines(tmp_path / "broken.jsonl", ["{", "["])
    with pytest.raises(InvalidInput, match=r"None of the first 2 rows can be read; .*line 1 is not JSON"):
        list(sourced(path))
    (tmp_path / "one.jsonl").write_text('{"messages": [{"role": "user"}\n')
    with pytest.raises(InvalidInput, match=r"No row can be read; .*line 1 is not JSON \(Expecting ',' .* column 31\)"):
        list(sourced(tmp_path / "one.jsonl"))
    path = lines(tmp_path / "other.jsonl", [{"text": "x"}])
    with pytest.raises(InvalidInput, match=r"other.jsonl: No known format has these columns: text \(text\)\."):
        list(sourced(path))


def test_a_damaged_file_of_a_folder_is_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    (tmp_path / "b.parquet").write_bytes(b"nonsense")
    with pytest.raises(InvalidInput) as caught:
        list(sourced(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path}/b.parquet can't be read: ")
    assert not str(caught.value).endswith("..")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.jsonl.zst"])
def test_without_pyarrow_a_sentence_says_how_to_get_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "turnloom.reading.columnar", raising=False)
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InvalidInput, match="can be read with pyarrow only, which is not installed here") as caught:
        list(sourced(tmp_path / name))
    assert "pip install pyarrow" in caught.value.hint
    assert "turnloom dataset import" in caught.value.hint


def test_bad_rows_are_left_out_counted_and_named_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl", [*pairs("q0"), "oops", *pairs("q2"), {"prompt": 5, "completion": "a"}])
    part = LocalSource.open([path]).whole()
    with pytest.raises(InvalidInput, match="line 2: is not JSON"):
        part.check()
    part.skip_bad = True
    assert prompts(part) == [(0, "q0"), (2, "q2")]
    assert part.counts.unreadable == 2
    assert part.bad == [
        f"{path}, line 2: is not JSON (Expecting value in column 1).",
        f"{path}, line 4: prompt: is the number 5; give text.",
    ]
    assert part.place(2) == f"{path}, line 3"
    assert [(first, len(chunk)) for first, chunk in numbered_chunks(part.numbered())] == [(0, 1), (2, 1)]
    rest = lines(tmp_path / "b.jsonl", [*pairs("drop"), "oops"])
    only = LocalSource.open([rest], choice=Choice(RowFilter(where=("prompt != drop",)))).whole()
    only.skip_bad = True
    with pytest.raises(InvalidInput, match=r"No row of 1 can be read, the first: .*line 2"):
        only.check()


def test_rows_are_filtered_deduplicated_and_split_and_counted(tmp_path: Path) -> None:
    texts = ["a", "A ", "b", "drop", "c", "b", "d", "drop"]
    path = lines(tmp_path / "a.jsonl", pairs(*texts))
    asked = RowFilter(where=("prompt != drop",))
    whole = LocalSource.open([path], choice=Choice(asked)).whole()
    assert prompts(whole) == list(enumerate(["a", "A ", "b", "c", "b", "d"]))
    assert whole.counts.filtered == 2
    (unique,) = LocalSource.open([path], choice=Choice(asked, "normalized")).parts()
    assert prompts(unique) == list(enumerate(["a", "b", "c", "d"]))
    assert (unique.counts.filtered, unique.counts.duplicates) == (2, 2)
    train, test = LocalSource.open([path], choice=Choice(asked, "", 0.5, 3)).parts()
    assert sorted(text for part in (train, test) for _, text in prompts(part)) == ["A ", "a", "b", "b", "c", "d"]
    both = {text for _, text in prompts(train)} & {text for _, text in prompts(test)}
    assert train.counts.overlapping == test.counts.overlapping == len(both)
    described = test.description()
    assert (described.uri, described.format, described.take_test) == ("a.jsonl", "prompt_completion", True)
    assert list(described.filter.where) == ["prompt != drop"]
    with pytest.raises(InvalidInput, match="The filter wants no row of 8"):
        LocalSource.open([path], choice=Choice(RowFilter(where=("prompt = gone",)))).whole().check()
    with pytest.raises(InvalidInput, match="The filter wants no row of 8"):
        LocalSource.open([path], choice=Choice(RowFilter(where=("prompt = gone",)), "exact")).parts()
    assert prompts(LocalSource.open([path], limit=3, choice=Choice(asked)).whole()) == [(0, "a"), (1, "A "), (2, "b")]


def test_the_overlap_of_two_files_is_counted(tmp_path: Path) -> None:
    train = LocalSource.open([lines(tmp_path / "train.jsonl", pairs("a", "b", "c"))]).whole()
    test = LocalSource.open([lines(tmp_path / "test.jsonl", pairs("c", "d", "a"))]).whole()
    test.note_overlap(train.check(), test.check())
    assert test.counts.overlapping == 2


def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    row = json.dumps({"prompt": "q", "completion": "x" * 4096}) + "\n"
    with path.open("w") as file:
        file.writelines(row for _ in range(8000))
    tracemalloc.start()
    try:
        part = LocalSource.open([path]).whole()
        sent = sum(len(chunk) for _, chunk in numbered_chunks(part.numbered()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sent == 8000
    assert path.stat().st_size > 32e6
    assert peak < 8 << 20


def test_the_library_reads_what_the_command_line_reads(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,answer,lang\nq,a,en\nr,b,de\n,,en\n")
    columns = {"prompt": "question", "completion": "answer"}
    asked = {"format_name": "prompt_completion", "columns": columns, "where": ["lang = en", "question != null"]}
    assert read(path, where=["lang = en"], columns=columns, format_name="prompt_completion", skip_bad=True)[0] == CHAT
    lines(tmp_path / "b.jsonl", [ROW, "no conversation", ROW])
    assert read(tmp_path / "b*", skip_bad=True) == [CHAT, CHAT]
    with pytest.raises(InvalidInput, match="line 2"):
        read(str(tmp_path / "b.jsonl"))
    with pytest.raises(InvalidInput, match="can't be read as a condition"):
        read(path, **{**asked, "where": ["lang"]})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"messages": [], "messages": [MESSAGES]}', "line 2: holds the key 'messages' twice; leave one of them out."),
        (
            '{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
            "line 2: messages: holds the key 'content'",
        ),
        ('{"messages": [MESSAGES], "id": "a", "id": "b"}', "line 2: holds the key 'id' twice"),
        (
            '{"messages": [MESSAGES], "tools": [{"a": {"b": 1, "b": 1}}]}',
            "line 2: tools: holds the key 'b' twice",
        ),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_line_and_key(tmp_path: Path, line: str, said: str) -> None:
    messages = '{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}'
    path = tmp_path / "twice.jsonl"
    path.write_text(f'{{"messages": [{messages}]}}\n{line.replace("MESSAGES", messages)}\n')
    with pytest.raises(InvalidInput) as refused:
        list(read(path))
    assert f"{path}, {said}" in str(refused.value)
    assert len(list(read(path, skip_bad=True))) == 1


@pytest.mark.parametrize("levels", [600, 900, 5_000])
def test_a_line_nested_too_deeply_is_refused_by_its_place(tmp_path: Path, levels: int) -> None:
    path = tmp_path / "deep.jsonl"
    deep = '{"a": ' * levels + "1" + "}" * levels
    path.write_text(f'{{"messages": [{{"role": "user", "content": "hi"}}], "tools": [{deep}]}}\n')
    with pytest.raises(InvalidInput, match=r"line 1.* is nested too deeply"):
        list(read(path))
