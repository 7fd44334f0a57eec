"""Kept folders: complete or absent, exact, and a changed byte is noticed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from services.store.blobs.objects import Objects
from services.store.errors import Corrupt, NotFound, StoreUnavailable

WEIGHTS = bytes(range(256)) * 10000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "weights.safetensors").write_bytes(WEIGHTS)
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "optimizer").mkdir()
    (folder / "optimizer" / "state.pt").write_bytes(b"")
    return folder


@pytest.fixture(params=["local", "memory"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    return Objects(str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def test_a_folder_comes_back_whole(objects: Objects, folder: Path, tmp_path: Path) -> None:
    stored = objects.put_folder("job-1", "c1", folder)
    assert [(entry.name, entry.bytes) for entry in stored.files] == [
        ("adapter/adapter_config.json", 2),
        ("adapter/weights.safetensors", len(WEIGHTS)),
        ("optimizer/state.pt", 0),
    ]
    assert stored.files[1].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert stored.uri.endswith(f"/adapters/job-1/c1/{stored.sha256}")
    assert objects.put_folder("job-1", "c1", folder) == stored
    assert objects.files(stored.uri) == stored.files
    chunks = list(objects.open(stored.uri, "adapter/weights.safetensors"))
    assert b"".join(chunks) == WEIGHTS
    assert max(map(len, chunks)) <= 1 << 20
    target = tmp_path / "back"
    target.mkdir()
    (target / "old").write_text("old")
    assert objects.get_folder(stored.uri, target) == stored.files
    assert {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()} == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_other_content_has_another_address(objects: Objects, folder: Path) -> None:
    before = objects.put_folder("job-1", "c1", folder)
    (folder / "optimizer" / "state.pt").write_bytes(b"x")
    assert objects.put_folder("job-1", "c1", folder).sha256 != before.sha256


def test_what_is_deleted_is_gone(objects: Objects, folder: Path) -> None:
    first, second = objects.put_folder("job-1", "c1", folder), objects.put_folder("job-1", "c2", folder)
    other = objects.put_folder("job-2", "c1", folder)
    objects.delete(first.uri)
    with pytest.raises(NotFound, match="there is no complete folder at"):
        objects.files(first.uri)
    assert objects.files(second.uri)
    objects.delete_job("job-1")
    objects.delete_job("job-1")
    with pytest.raises(NotFound):
        objects.files(second.uri)
    assert objects.files(other.uri)


def test_a_folder_without_its_manifest_is_not_there(tmp_path: Path, folder: Path) -> None:
    objects = Objects(str(tmp_path / "store"))
    stored = objects.put_folder("job-1", "c1", folder)
    (Path(stored.uri) / "manifest.json").unlink()
    with pytest.raises(NotFound):
        list(objects.open(stored.uri, "optimizer/state.pt"))
    assert objects.put_folder("job-1", "c1", folder) == stored, "the next copy completes it"


def test_a_changed_byte_is_noticed(tmp_path: Path, folder: Path) -> None:
    objects = Objects(str(tmp_path / "store"))
    stored = objects.put_folder("job-1", "c1", folder)
    target = Path(stored.uri) / "adapter" / "weights.safetensors"
    target.write_bytes(b"\x01" + WEIGHTS[1:])
    with pytest.raises(Corrupt, match=r"adapter/weights.safetensors of .* differs from its sha256"):
        list(objects.open(stored.uri, "adapter/weights.safetensors"))
    with pytest.raises(Corrupt):
        objects.get_folder(stored.uri, tmp_path / "back")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("back")] == []
    (Path(stored.uri) / "manifest.json").write_text('{"files":[]}')
    with pytest.raises(Corrupt, match=r"the manifest of .* differs from its address"):
        objects.files(stored.uri)


def test_nothing_to_keep_and_nowhere_to_keep_it_are_said(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="holds no file to keep for checkpoint c1"):
        Objects(str(tmp_path / "store")).put_folder("job-1", "c1", tmp_path / "empty")
    stored = Objects(str(tmp_path / "store")).put_folder("job-1", "c1", folder)
    with pytest.raises(NotFound, match="holds no file other"):
        list(Objects("").open(stored.uri, "other"))
    with pytest.raises(StoreUnavailable, match="no object store is set"):
        Objects("").delete_job("job-1")
    with pytest.raises(StoreUnavailable, match="no object store is set"):
        Objects("").put_folder("job-1", "c1", folder)
