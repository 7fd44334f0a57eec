"""TuFT's sessions, runs, checkpoints and records, as seen from outside. Knows no HTTP and no faults.

Written after TuFT 0.2.2: the order of checks, the sequence guard and every sentence of an error are its own, since
clients have nothing but these sentences to go by.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tests.fakes.tuft_model import SCALE, TARGET_MODULES, Adapter, Base

Result = TypeVar("Result")


class TuftFailure(Exception):
    """An answer that is not 2xx: status and detail, as TuFT words them."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"[{status}] {detail}")
        self.status = status
        self.detail = detail


def server_error(what: str) -> TuftFailure:
    """An operation that failed inside the backend: retrieve_future answers it with 422."""
    return TuftFailure(500, f"Server error: {what}")


def unknown_model(model_id: str) -> TuftFailure:
    """No such run."""
    return TuftFailure(404, f"Unknown model: {model_id}")


@dataclass(slots=True)
class Checkpoint:
    """A folder with weights, and what the records say about it."""

    name: str
    kind: str  #: training or sampler
    future_id: int  #: the newest operation the server knew when it was saved
    created: str  #: ISO 8601, UTC


@dataclass(slots=True)
class Run:
    """One training run, TuFT's "model"."""

    model_id: str
    session_id: str
    base_model: str
    rank: int
    flags: list[bool]  #: train_attn, train_mlp, train_unembed
    adapter: Adapter
    next_seq_id: int = 1
    failed_seq_id: int | None = None
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)  #: by "training/name" or "sampler/name"

    def latest(self) -> Checkpoint | None:
        """The checkpoint a restart goes back to."""
        return max(self.checkpoints.values(), key=lambda checkpoint: checkpoint.created, default=None)

    def forget(self, name: str) -> None:
        """Leave the checkpoints of this name out, of either kind."""
        self.checkpoints = {key: value for key, value in self.checkpoints.items() if value.name != name}

    def guarded(self, seq_id: int, operation: Callable[[], Result], record: Callable[[], None]) -> Result:
        """Runs an operation in its place of the sequence.

        A gap is allowed only where the one operation left out is known to have failed.
        """
        if seq_id != self.next_seq_id:
            if seq_id != self.next_seq_id + 1 or self.failed_seq_id != self.next_seq_id:
                raise TuftFailure(409, f"Sequence conflict: expected {self.next_seq_id}, got {seq_id}.")
            self.next_seq_id = seq_id
        self.failed_seq_id = None
        try:
            result = operation()
        except Exception:
            self.failed_seq_id = seq_id
            record()
            raise
        self.next_seq_id += 1
        record()
        return result


class Runs:
    """Everything the server knows, and its file of records."""

    def __init__(self, home: Path, model_name: str, buckets: int, persistence: bool) -> None:
        self.checkpoint_dir = home / "checkpoints"
        self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        self.model_name = model_name
        self.base = Base(buckets)
        self.persistence = persistence
        self.sessions: set[str] = set()
        self.runs: dict[str, Run] = {}
        self.futures: dict[str, tuple[int, str | None]] = {}  #: id of a request: number, run
        self.next_future = 1
        self._adapters = 0  #: made so far; the seed of the next, since TuFT ignores the client's
        self._journal = home / "records.jsonl"
        if persistence and self._journal.exists():
            self._replay()

    # -- records ----------------------------------------------------------------------------------------------------

    def note(self, **entry: Any) -> None:
        """Appends to the records."""
        if self.persistence:
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(entry) + "\n")

    def _replay(self) -> None:
        for line in self._journal.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            what = entry.pop("what")
            if what == "session":
                self.sessions.add(entry["id"])
            elif what == "run":
                self._insert(**entry)
            elif what == "sequence" and entry["model_id"] in self.runs:
                run = self.runs[entry["model_id"]]
                run.next_seq_id, run.failed_seq_id = entry["next"], entry["failed"]
            elif what == "checkpoint":
                checkpoint = Checkpoint(**entry["checkpoint"])
                self.runs[entry["model_id"]].checkpoints[f"{checkpoint.kind}/{checkpoint.name}"] = checkpoint
            elif what == "deleted":
                if entry["model_id"] in self.runs:
                    self.runs[entry["model_id"]].forget(entry["name"])
            elif what == "unload":
                self.runs.pop(entry["model_id"], None)
            elif what == "future":
                self.futures[entry["id"]] = (entry["number"], entry["model_id"])
                self.next_future = entry["number"] + 1
        for run in self.runs.values():
            if (latest := run.latest()) is not None:
                run.adapter.load(self.folder(run.model_id, latest.name), optimizer=latest.kind == "training")

    def cancelled(self) -> dict[str, str]:
        """After a restart: which requests count as cancelled, and why."""
        reasons = {}
        for request_id, (number, model_id) in self.futures.items():
            latest = self.runs[model_id].latest() if model_id in self.runs else None
            if latest is None:
                reasons[request_id] = f"No checkpoint found for model {model_id}. Please retry."
            elif number > latest.future_id:
                reasons[request_id] = (
                    f"Server restored from checkpoint {latest.name}. "
                    "Operations after this checkpoint need to be retried."
                )
        return reasons

    def new_future(self, model_id: str | None) -> str:
        """Records a request and returns its id."""
        request_id = str(uuid.uuid4())
        self.futures[request_id] = (self.next_future, model_id)
        self.note(what="future", id=request_id, number=self.next_future, model_id=model_id)
        self.next_future += 1
        return request_id

    # -- sessions and runs ------------------------------------------------------------------------------------------

    def create_session(self) -> str:
        """A new session."""
        session_id = str(uuid.uuid4())
        self.sessions.add(session_id)
        self.note(what="session", id=session_id)
        return session_id

    def create_run(self, session_id: str, base_model: str, lora: dict[str, Any]) -> Run:
        """A new run with an adapter that changes nothing yet."""
        if session_id not in self.sessions:
            raise TuftFailure(404, f"Session {session_id} not found.")
        if base_model != self.model_name:
            raise unknown_model(base_model)
        flags = [bool(lora.get(flag, True)) for flag in ("train_attn", "train_mlp", "train_unembed")]
        model_id, rank = str(uuid.uuid4()), int(lora["rank"])
        self.note(what="run", model_id=model_id, session_id=session_id, rank=rank, flags=flags)
        return self._insert(model_id, session_id, rank, flags)

    def _insert(self, model_id: str, session_id: str, rank: int, flags: list[bool]) -> Run:
        self._adapters += 1
        adapter = Adapter(self.base, rank, seed=self._adapters)
        run = Run(model_id, session_id, self.model_name, rank, flags, adapter)
        self.runs[model_id] = run
        return run

    def run(self, model_id: str) -> Run:
        """The run of that id."""
        if model_id not in self.runs:
            raise unknown_model(model_id)
        return self.runs[model_id]

    def guarded(self, run: Run, seq_id: int, operation: Callable[[], Result]) -> Result:
        """An operation in its place, its outcome recorded."""

        def record() -> None:
            self.note(what="sequence", model_id=run.model_id, next=run.next_seq_id, failed=run.failed_seq_id)

        return run.guarded(seq_id, operation, record)

    def unload(self, model_id: str) -> None:
        """Forgets a run and its checkpoints; their files stay."""
        self.run(model_id)
        del self.runs[model_id]
        self.note(what="unload", model_id=model_id)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def folder(self, model_id: str, name: str) -> Path:
        """Where a checkpoint lies. A name with ../ in it leads out, as with TuFT."""
        return self.checkpoint_dir / model_id / name

    @staticmethod
    def path(run: Run, checkpoint: Checkpoint) -> str:
        """What clients call a checkpoint."""
        folder = "weights" if checkpoint.kind == "training" else "sampler_weights"
        return f"tinker://{run.model_id}/{folder}/{checkpoint.name}"

    def save(self, run: Run, name: str | None, kind: str, half_way: Callable[[], None]) -> str:
        """Writes a checkpoint and returns its tinker:// path. A name used before is overwritten."""
        checkpoint = Checkpoint(
            name=name or f"checkpoint-{len(run.checkpoints) + 1:04d}",
            kind=kind,
            future_id=self.next_future - 1,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
        folder = self.folder(run.model_id, checkpoint.name)
        run.adapter.save(folder, base_model=run.base_model, optimizer=kind == "training")
        half_way()
        path = self.path(run, checkpoint)
        metadata = {
            "model_id": run.model_id,
            "name": checkpoint.name,
            "base_model": run.base_model,
            "checkpoint_type": kind,
            "created_at": checkpoint.created,
            "session_id": run.session_id,
            "tinker_path": path,
            "lora_rank": run.rank,
            "lora_alpha": int(SCALE * run.rank),
            "train_attn": run.flags[0],
            "train_mlp": run.flags[1],
            "train_unembed": run.flags[2],
            "target_modules": TARGET_MODULES,
            "future_id": checkpoint.future_id,
        }
        (folder / "metadata.json").write_text(json.dumps(metadata, indent=2), encoding="utf-8")
        run.checkpoints[f"{kind}/{checkpoint.name}"] = checkpoint
        entry = {
            "name": checkpoint.name,
            "kind": kind,
            "future_id": checkpoint.future_id,
            "created": checkpoint.created,
        }
        self.note(what="checkpoint", model_id=run.model_id, checkpoint=entry)
        return path

    def delete(self, run: Run, name: str) -> None:
        """Removes a checkpoint. It is recorded first, so that no restart looks for files that are gone."""
        run.forget(name)
        self.note(what="deleted", model_id=run.model_id, name=name)
        shutil.rmtree(self.folder(run.model_id, name), ignore_errors=True)

    def load(self, run: Run, path: str, *, optimizer: bool, seq_id: int) -> None:
        """Puts a checkpoint's weights into a run. A checkpoint that does not exist leaves a gap in the sequence."""
        parts = path.removeprefix("tinker://").split("/")
        if not path.startswith("tinker://") or len(parts) != 3 or parts[1] not in ("weights", "sampler_weights"):
            raise server_error(f"Invalid tinker path: {path}")
        source_id, kind, name = parts[0], "training" if parts[1] == "weights" else "sampler", parts[2]
        folder = self.folder(source_id, name)
        if not (folder / "metadata.json").exists():
            raise TuftFailure(404, f"Failed to read metadata for checkpoint {name}.")
        if f"{kind}/{name}" not in self.run(source_id).checkpoints:
            raise TuftFailure(404, f"Checkpoint {name} not found.")
        rank = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["lora_rank"]

        def operation() -> None:
            if rank != run.rank:
                raise TuftFailure(
                    400,
                    f"Cannot load checkpoint {name} with LoRA rank {rank} into a training run "
                    f"with LoRA rank {run.rank}.",
                )
            run.adapter.load(folder, optimizer=optimizer)

        self.guarded(run, seq_id, operation)

    # -- for tests --------------------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What a test may want to compare."""
        return {
            "sessions": sorted(self.sessions),
            "runs": {
                run.model_id: {
                    "rank": run.rank,
                    "flags": run.flags,
                    "optimizer_steps": run.adapter.steps,
                    "next_seq_id": run.next_seq_id,
                    "checkpoints": sorted(run.checkpoints),
                    "weights_sha256": hashlib.sha256(
                        b"".join(v.tobytes() for v in run.adapter.parameters.values())
                    ).hexdigest(),
                    "gradients_wait": run.adapter.pending,
                }
                for run in tuple(self.runs.values())  # another thread may add one meanwhile
            },
        }
