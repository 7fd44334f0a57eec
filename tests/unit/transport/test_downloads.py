from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from turnloom.errors import DamagedDownload, InvalidInput
from turnloom.transport.downloads import save_files
from turnloom.v1.training_pb2 import DownloadAdapterResponse


def chunks(name: str, *parts: bytes, sha256: str = "") -> list[DownloadAdapterResponse]:
    whole = b"".join(parts)
    digest = sha256 or hashlib.sha256(whole).hexdigest()
    return [DownloadAdapterResponse(file=name, data=p, file_bytes=len(whole), file_sha256=digest) for p in parts]


def test_files_are_written_whole_and_checked(tmp_path: Path) -> None:
    saved = save_files(
        [*chunks("a.json", b"{}"), *chunks("b.bin", b"12", b"345"), *chunks("empty", b"")], tmp_path / "new"
    )
    assert [(file.path.name, file.size) for file in saved] == [("a.json", 2), ("b.bin", 5), ("empty", 0)]
    assert (tmp_path / "new" / "b.bin").read_bytes() == b"12345"
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_a_damaged_file_is_not_kept_and_an_older_one_stays(tmp_path: Path) -> None:
    (tmp_path / "b.bin").write_bytes(b"old")
    with pytest.raises(DamagedDownload, match=r"b\.bin arrived with 5 of 5 bytes"):
        save_files(chunks("b.bin", b"12", b"345", sha256="0" * 64), tmp_path)
    assert (tmp_path / "b.bin").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["b.bin"]


def test_a_file_that_came_short_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DamagedDownload, match=r"b\.bin arrived with 2 of 5 bytes"):
        save_files(chunks("b.bin", b"12", b"345")[:1], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", ""])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedDownload, match="not a plain name"):
        save_files(chunks(name, b"x"), tmp_path)


def test_no_file_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DamagedDownload, match="sent no file"):
        save_files([], tmp_path)


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="can't be written"):
        save_files(chunks("a", b"x"), tmp_path / "file" / "sub")
