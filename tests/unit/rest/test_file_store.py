"""Uploads of the HTTP service: what a list of them costs in calls to the file store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.rest.file_store import FileStore, StoredFile, file_id
from services.rest.gateway import Caller
from services.rest.notices import Notice, Notices
from services.rest.problems import Problem


class Counting:
    """A file system that counts the calls that it is sent."""

    def __init__(self, system: Any) -> None:
        self.system, self.calls = system, dict[str, int]()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] = self.calls.get(name, 0) + 1
        return getattr(self.system, name)


def stored(files: FileStore, owner: str, expires_at: int | None = None) -> StoredFile:
    identity = file_id(owner)
    with files.writing(owner, identity) as file:
        file.write(b"{}\n")
    made = StoredFile(identity, owner, "chats.jsonl", "fine-tune", 3, "0" * 64, 1_700_000_000, expires_at)
    files.put(made)
    return made


def counting(files: FileStore) -> Counting:
    files._system = Counting(files._system)
    return files._system


ANNA, BEN, ADMIN = (
    Caller("anna", frozenset({"submit"})),
    Caller("ben", frozenset({"submit"})),
    Caller("root", frozenset({"admin"})),
)


@pytest.mark.parametrize("many", [0, 1, 40])
def test_a_list_reads_all_records_in_one_call(many: int, tmp_path: Path) -> None:
    files = FileStore(str(tmp_path))
    made = [stored(files, "anna") for _ in range(many)]
    stored(files, "anna", expires_at=1)
    (tmp_path / "anna" / "file-unfinished").mkdir()
    calls = counting(files).calls
    assert sorted(one.id for one in files.all_of(ANNA)) == sorted(one.id for one in made)
    assert calls == {"ls": 1, "cat_ranges": 1}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "x"}'])
def test_a_record_that_can_not_be_read_hides_no_other_file_and_its_content_stays(tmp_path: Path, text: str) -> None:
    files = FileStore(str(tmp_path))
    good, bad, old = stored(files, "anna"), stored(files, "anna"), stored(files, "anna", expires_at=1)
    (tmp_path / "anna" / bad.id / "file.json").write_text(text)
    assert files.all_of(ANNA) == [good]
    with pytest.raises(Problem, match="file"):
        files.get(bad.id, ANNA)
    assert files.sweep() == 1
    assert sorted(path.name for path in (tmp_path / "anna").iterdir()) == sorted([good.id, bad.id])
    assert old.expired
    notices = Notices(files)
    notices.put(Notice("job-a"))
    notices.put(Notice("job-b"))
    (tmp_path / ".notices" / "due" / "job-a.json").write_text(text or " ")
    assert [notice.job for notice in notices.all()] == ["job-b"]


def test_an_admin_finds_a_file_of_any_owner_in_as_many_calls_as_of_two(tmp_path: Path) -> None:
    files = FileStore(str(tmp_path))
    wanted = [stored(files, f"owner-{number}") for number in range(30)][-1]
    calls = counting(files).calls
    assert files.get(wanted.id, ADMIN) == wanted
    assert calls == {"cat_ranges": 2, "ls": 1}
    for asked in (wanted.id, "file-nobody", "../anna"):
        with pytest.raises(Problem, match="file"):
            files.get(asked, BEN)
