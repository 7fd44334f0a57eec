"""The file that tells two machines of one name apart."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.trainer.host.identity import FILE, identity


def test_workers_of_one_folder_have_one_identity_and_leave_one_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: identity(tmp_path), range(64)))
    assert len(found) == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert json.loads((tmp_path / FILE).read_text())["id"] in found


def test_another_folder_is_another_machine_and_a_missing_one_none(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert identity(tmp_path / "a") != identity(tmp_path / "b")
    assert identity(tmp_path / "c") == ""
    assert not (tmp_path / "c").exists()


def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(KeyError):
        identity(tmp_path)
