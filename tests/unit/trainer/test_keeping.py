"""Which checkpoints stay, and what is released."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.store.blobs.objects import FileEntry, Stored
from services.store.errors import CheckpointNotUsable
from services.store.records import CheckpointRecord
from services.trainer.backend import Adapter
from services.trainer.checkpoints import AdapterUnusable, ServerFolder, _replace_contents
from services.trainer.errors import CheckpointLost, Code, backend_error
from services.trainer.evaluation import Patience
from services.trainer.keeping import Keeper, superfluous

ADAPTER = Adapter("m", 8, train_mlp=True, train_attn=True, train_unembed=True)


def saved(step: int, *, superseded: bool = False) -> CheckpointRecord:
    name = f"job-a1-s{step}"
    return CheckpointRecord(id=name, path=f"tinker://run-1/weights/{name}", step=step, attempt=1, superseded=superseded)


@given(
    flags=st.lists(st.booleans(), min_size=1, max_size=12).filter(lambda flags: not all(flags)),
    keep=st.integers(1, 5),
    data=st.data(),
)
def test_best_last_and_the_newest_others_stay(flags: list[bool], keep: int, data: st.DataObject) -> None:
    checkpoints = [saved(step, superseded=flag) for step, flag in enumerate(flags)]
    effective = [one for one in checkpoints if not one.superseded]
    best, last = data.draw(st.sampled_from(effective)).id, effective[-1].id
    stay, go = superfluous(checkpoints, best, last, keep)
    assert sorted(one.id for one in (*stay, *go)) == sorted(one.id for one in checkpoints)
    assert {best, last} <= {one.id for one in stay}
    assert not any(one.superseded for one in stay)
    assert len(stay) == min(len(effective), keep + len({best, last}))
    others_gone = [one.step for one in go if not one.superseded]
    others_kept = [one.step for one in stay if one.id not in (best, last)]
    assert not others_gone or not others_kept or max(others_gone) < min(others_kept)


@dataclass
class MemoryParts:
    """Ledger, server and store of a Keeper."""

    records: list[CheckpointRecord]
    deleted: list[tuple[str, str]] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    away: bool = False
    later: list[Callable[[], object]] = field(default_factory=list)  #: writes to the store that nobody waits for
    removed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  #: to another host
    root: Path = Path("/tuft")

    def checkpoints(self, job_id: str, *, superseded: bool = True) -> list[CheckpointRecord]:
        return self.records

    def checkpoint_stored(
        self, job_id: str, attempt: int, checkpoint_id: str, *, uri: str, sha256: str, bytes: int
    ) -> CheckpointRecord:
        place = next(n for n, one in enumerate(self.records) if one.id == checkpoint_id)
        self.records[place] = replace(self.records[place], stored=True, uri=uri, sha256=sha256)
        return self.records[place]

    def remove_checkpoint(self, job_id: str, attempt: int, checkpoint_id: str, left: str = "") -> None:
        if checkpoint_id == self.records[-1].id:
            raise CheckpointNotUsable("it is the last one")
        self.left += [left] if left else []
        self.records = [one for one in self.records if one.id != checkpoint_id]

    def unload(self, run_id: str) -> None:
        if self.away:
            raise backend_error(Code.SERVER_UNREACHABLE, "away")
        self.unloaded.append(run_id)

    def delete_checkpoint(self, run_id: str, name: str) -> None:
        if self.away:
            raise backend_error(Code.SERVER_UNREACHABLE, "away")
        if run_id in self.unloaded:
            raise backend_error(Code.UNKNOWN, "HTTP 500: Internal Server Error")
        self.deleted.append((run_id, name))

    def holds(self, run_id: str) -> bool:
        if self.away:
            raise backend_error(Code.SERVER_UNREACHABLE, "away")
        return run_id not in self.unloaded

    def put_folder(self, job_id: str, checkpoint_id: str, folder: Path) -> Stored:
        self.copied.append(f"{folder}")
        return Stored(f"store/{checkpoint_id}", "ab", (FileEntry("adapter/x", 1, "cd"),))

    def delete(self, uri: str) -> None:
        self.removed.append(uri)

    def get_folder(self, uri: str, destination: Path) -> None:
        raise AssertionError("nothing is fetched here")

    def keeper(self, keep: int = 1) -> Keeper:
        def named() -> tuple[str, str]:
            return self.records[0].id, self.records[-1].id

        def aside(what: str, act: Callable[[], object]) -> None:
            self.later.append(act)

        return Keeper("job", 1, keep, named, self, self, ServerFolder(self.root), self, aside)


def test_what_need_not_be_kept_goes_on_the_server_and_in_the_ledger() -> None:
    parts = MemoryParts([saved(step) for step in range(5)])
    parts.keeper().thin_out()
    assert parts.deleted == [("run-1", "job-a1-s1"), ("run-1", "job-a1-s2")]
    assert [one.step for one in parts.records] == [0, 3, 4]


def test_a_copy_in_the_store_goes_later_for_the_store_may_be_silent() -> None:
    records = [replace(saved(step), stored=True, uri=f"store/{step}") for step in range(5)]
    parts = MemoryParts(records)
    parts.keeper().thin_out()
    assert ([one.step for one in parts.records], parts.removed) == ([0, 3, 4], [])
    for act in parts.later:
        act()
    assert parts.removed == ["store/1", "store/2"]


def test_the_run_of_an_earlier_attempt_goes_with_its_last_checkpoint() -> None:
    def of_run(step: int, run: str) -> CheckpointRecord:
        return replace(saved(step), path=f"tinker://{run}/weights/job-s{step}")

    runs = ("best", "one", "one", "two", "two", "three")
    parts = MemoryParts([of_run(step, run) for step, run in enumerate(runs)])
    parts.keeper(keep=1).thin_out()
    assert [one.step for one in parts.records] == [0, 4, 5]
    assert parts.unloaded == ["one"]  # run two still holds the checkpoint of step 4


def test_files_of_a_run_that_was_released_go_although_the_server_knows_it_no_more(tmp_path: Path) -> None:
    parts = MemoryParts([saved(step) for step in range(5)], unloaded=["run-1"], root=tmp_path)
    for one in parts.records:
        (tmp_path / "run-1" / one.id / "adapter").mkdir(parents=True)
    parts.keeper().thin_out()
    kept = ["job-a1-s0", "job-a1-s3", "job-a1-s4"]
    assert [one.id for one in parts.records] == kept == sorted(one.name for one in (tmp_path / "run-1").iterdir())


def test_files_on_the_host_that_a_job_was_moved_from_are_left_to_that_host(tmp_path: Path) -> None:
    parts = MemoryParts([saved(step) for step in range(5)], root=tmp_path)
    (tmp_path / "run-1" / "job-a1-s2" / "adapter").mkdir(parents=True)  # the state of step 1 was saved elsewhere
    parts.keeper().thin_out()
    assert parts.left == ["tinker://run-1/weights/job-a1-s1"]


def test_a_server_that_is_away_leaves_the_checkpoints_for_next_time() -> None:
    parts = MemoryParts([saved(step) for step in range(5)], away=True)
    parts.keeper().thin_out()
    assert len(parts.records) == 5
    assert parts.keeper().release(["run-1"]) == []


def test_every_kept_checkpoint_is_copied_once() -> None:
    parts = MemoryParts([saved(step) for step in range(3)])
    assert parts.keeper(keep=3).copy_out() == 3
    assert parts.keeper(keep=3).copy_out() == 3
    assert parts.copied == [f"/tuft/run-1/job-a1-s{step}" for step in range(3)]
    assert all(one.stored and one.sha256 == "ab" for one in parts.records)


def test_every_run_is_released_once() -> None:
    parts = MemoryParts([saved(0)])
    assert parts.keeper().release(["run-1", "", "run-2", "run-1"]) == ["run-1", "run-2"]
    assert parts.unloaded == ["run-1", "run-2"]


@pytest.mark.parametrize(
    "path", ["", "tinker://run/other/x", "tinker://../weights/x", "/etc/passwd", "tinker://r/weights/a/b"]
)
def test_a_path_that_is_no_checkpoint_is_refused(path: str) -> None:
    with pytest.raises(AdapterUnusable, match="is not the path of a TuFT checkpoint"):
        ServerFolder(Path("/tuft")).of(path)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, "has no adapter_config.json"),
        ("{", "is not JSON"),
        ('{"peft_type": "LORA", "r": 4}', r"are \('LORA', 4\), not \('LORA', 8\)"),
        ('{"peft_type": "LOHA", "r": 8}', r"are \('LOHA', 8\)"),
    ],
)
def test_an_adapter_that_is_not_the_one_trained_is_refused(tmp_path: Path, config: str | None, sentence: str) -> None:
    folder = tmp_path / "run-1" / "x" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    if config is not None:
        (folder / "adapter_config.json").write_text(config)
    with pytest.raises(AdapterUnusable, match=sentence):
        ServerFolder(tmp_path).adapter("tinker://run-1/sampler_weights/x", ADAPTER)


def test_patience_counts_evaluations_that_gain_too_little() -> None:
    patience = Patience(2, 0.1)
    assert [patience.seen(nll) for nll in (5.0, 4.0, 3.95, 3.85, 3.8)] == [False, False, False, False, False]
    assert [patience.seen(nll) for nll in (3.79,)] == [True]
    assert not any(Patience(0, 0.0).seen(1.0) for _ in range(100))


def state_folder(root: Path, text: str, *parts: str) -> Path:
    for part in parts:
        (root / part).mkdir(parents=True)
        (root / part / "file").write_text(text)
    return root


@pytest.mark.parametrize("parts", [("adapter", "optimizer"), ("adapter",)])  # of TuFT's backends hf and fsdp
def test_a_kept_state_takes_the_place_of_one_that_the_same_backend_saved(
    tmp_path: Path, parts: tuple[str, ...]
) -> None:
    kept = state_folder(tmp_path / "kept", "ours", *parts)
    saved = state_folder(tmp_path / "saved", "fresh", *parts)
    _replace_contents(saved, kept)
    assert [(saved / part / "file").read_text() for part in parts] == ["ours"] * len(parts)


@pytest.mark.parametrize(
    ("kept", "saved", "said"),
    [
        (("adapter", "optimizer"), ("adapter",), "saved by another training_backend of TuFT"),
        (("adapter",), ("adapter", "optimizer"), "saved by another training_backend of TuFT"),
        (("optimizer",), ("adapter", "optimizer"), "has no adapter"),
        (("adapter", "optimizer"), (), "TURNLOOM_TUFT_CHECKPOINT_DIR is not the server's folder"),
    ],
)
def test_a_state_that_is_not_whole_or_of_another_backend_is_refused_and_nothing_changes(
    tmp_path: Path, kept: tuple[str, ...], saved: tuple[str, ...], said: str
) -> None:
    target = state_folder(tmp_path / "saved", "fresh", *saved)
    with pytest.raises(CheckpointLost, match=said):
        _replace_contents(target, state_folder(tmp_path / "kept", "ours", *kept))
    assert [(target / part / "file").read_text() for part in saved] == ["fresh"] * len(saved)


def test_a_state_of_the_fsdp_backend_is_known_by_the_optimizer_in_its_adapter(tmp_path: Path) -> None:
    folder = ServerFolder(tmp_path)
    for name, files in (
        ("hf", ("adapter/a", "optimizer/optimizer.pt")),
        ("fsdp", ("adapter/a", "adapter/optimizer.pt")),
        ("exact", ("adapter/a", "adapter/optimizer.pt", "adapter/optimizer_whole.pt")),
    ):
        for file in files:
            (tmp_path / "run-1" / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "run-1" / name / file).touch()
    names = ("hf", "fsdp", "exact", "gone")
    one_shard = [folder.keeps_one_optimizer_shard(f"tinker://run-1/weights/{name}") for name in names]
    assert one_shard == [False, True, False, False]
