"""Prove saved states, restore them, and keep them in the store."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from services.store.blobs.objects import Stored
from services.store.errors import NotFound
from services.store.records import CheckpointRecord
from services.trainer.backend import Adapter, Backend
from services.trainer.batches.batching import longest_first
from services.trainer.batches.mixing import order_hash
from services.trainer.batches.rows import Row, shortened, without_tail
from services.trainer.errors import BackendError, CheckpointLost, Code, ProbeMismatch, StopRun
from services.trainer.evaluation import probe_nll

PROBE_ROWS = 8
PROBE_TOKENS = 4_096
SAVED_PATH: Final = re.compile(r"tinker://([A-Za-z0-9][A-Za-z0-9._:-]*)/(?:weights|sampler_weights)/([A-Za-z0-9_-]+)")
WHOLE_OPTIMIZER: Final = "optimizer_whole.pt"  #: of services.tuft: Adam's moments of all GPUs
ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")


class AdapterUnusable(StopRun):
    """The server saved something other than the trained adapter."""

    code = "STORE_FAILED"
    hint = "Check that TURNLOOM_TUFT_CHECKPOINT_DIR is the checkpoint folder of the server at TURNLOOM_TUFT_URL."


class ObjectStore(Protocol):
    """The methods of services.store.blobs.objects.Objects that this module uses."""

    def put_folder(self, job_id: str, checkpoint_id: str, folder: Path) -> Stored:
        """Copy a folder into the store."""
        ...

    def delete(self, uri: str) -> None:
        """Delete a folder of the store."""
        ...

    def get_folder(self, uri: str, destination: Path) -> object:
        """Copy a folder out of the store and check it."""
        ...


class CheckpointServer(Protocol):
    """The methods of TuftHttp that checkpoints need."""

    def unload(self, run_id: str) -> None:
        """Free a run's adapter."""
        ...

    def delete_checkpoint(self, run_id: str, name: str) -> None:
        """Remove a saved state."""
        ...

    def holds(self, run_id: str) -> bool:
        """Return whether the server knows a run."""
        ...


def probe_rows(rows: Sequence[Row], seed: int) -> list[Row]:
    """Return the first 8 rows in epoch 0's order, up to 4,096 padded tokens, longest first. Epoch 0 is never trained.

    A first row that is longer alone is cut; every row keeps something to train.
    """
    chosen: list[Row] = []
    for number in sorted(range(len(rows)), key=lambda number: order_hash(seed, 0, number)):
        row = rows[number]
        if not chosen and row.length > PROBE_TOKENS and shortened(row, PROBE_TOKENS).loss_tokens:
            row = without_tail(shortened(row, PROBE_TOKENS))
        longest = max([row.length, *(one.length for one in chosen)])
        if chosen and longest * (len(chosen) + 1) > PROBE_TOKENS:
            break
        chosen.append(row)
        if len(chosen) == PROBE_ROWS:
            break
    return longest_first(chosen)


def prove(backend: Backend, checkpoint: CheckpointRecord, rows: Sequence[Row], tolerance: float) -> float:
    """Measure the probe NLL of the loaded weights and compare it with the stored one.

    Returns:
        Nats per unit of weight.

    Raises:
        ProbeMismatch: it differs from the stored one by more than `tolerance`, relative; nothing may go on from it.
    """
    measured = probe_nll(rows, backend.forward(rows).result())
    if not math.isclose(measured, checkpoint.probe_nll, rel_tol=tolerance, abs_tol=tolerance * 1e-3):
        raise ProbeMismatch(
            f"checkpoint {checkpoint.id} gave probe NLL {checkpoint.probe_nll!r} when it was saved and gives "
            f"{measured!r} now that it is loaded (tolerance {tolerance:g})"
        )
    return measured


@dataclass(frozen=True, slots=True)
class ServerFolder:
    """The TuFT server's checkpoint folder, as mounted on this host."""

    root: Path

    def of(self, path: str) -> Path:
        """Return the folder of a saved state, by the path that the server gave it.

        Raises:
            AdapterUnusable: the path is not one of a TuFT server.
        """
        match = SAVED_PATH.fullmatch(path)
        if match is None:
            raise AdapterUnusable(f"{path!r} is not the path of a TuFT checkpoint")
        return self.root / match[1] / match[2]

    def saved(self, run: str) -> list[str]:
        """Return the paths of the states and adapters of a run that have files here."""
        with suppress(FileNotFoundError):
            return [f"tinker://{run}/weights/{one.name}" for one in (self.root / run).iterdir() if one.is_dir()]
        return []

    def has(self, path: str) -> bool:
        """Return whether a saved state has files here; a path that is none of a TuFT server has not."""
        return SAVED_PATH.fullmatch(path) is not None and self.of(path).is_dir()

    def remove(self, path: str) -> None:
        """Remove the files of a saved state that the server does not know any more. Missing ones are fine.

        Raises:
            AdapterUnusable: as `of`.
            OSError: they can't be removed.
        """
        with suppress(FileNotFoundError):
            shutil.rmtree(self.of(path))

    def keeps_one_optimizer_shard(self, path: str) -> bool:
        """Return whether TuFT's fsdp backend saved a state with its optimizer: it writes the first GPU's shard alone.

        Loading gives that shard to every GPU, so with two of them half of Adam's moments are another half's. A TuFT
        that services.tuft started keeps all of them beside it.
        """
        folder = self.of(path) / "adapter"
        return (folder / "optimizer.pt").is_file() and not (folder / WHOLE_OPTIMIZER).is_file()

    def delete(self, server: CheckpointServer, path: str) -> None:
        """Remove a saved state from the server, with its files.

        A run that was released, as at a pause, is unknown to the server, which then deletes nothing; its files stay.

        Raises:
            BackendError: the server did not.
            OSError: the files can't be removed.
        """
        match = SAVED_PATH.fullmatch(path)
        if match is None:
            return
        try:
            server.delete_checkpoint(match[1], match[2])
        except BackendError:
            if server.holds(match[1]):
                raise
            self.remove(path)

    @staticmethod
    def run_of(path: str) -> str:
        """Return the server's run that a path belongs to; empty for any other path."""
        match = SAVED_PATH.fullmatch(path)
        return match[1] if match else ""

    def adapter(self, path: str, expected: Adapter) -> Path:
        """Return the adapter of a saved state in PEFT's format, after checking that it is the trained one.

        Raises:
            AdapterUnusable: a file is missing, or the configuration names another type or rank.
        """
        folder = self.of(path) / "adapter"
        missing = [name for name in ADAPTER_FILES if not (folder / name).is_file()]
        if missing:
            raise AdapterUnusable(f"{folder} has no {' and no '.join(missing)}")
        try:
            config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
        except ValueError as error:
            raise AdapterUnusable(f"{folder / ADAPTER_FILES[0]} is not JSON: {error}") from None
        found = (config.get("peft_type"), config.get("r"))
        if found != ("LORA", expected.rank):
            raise AdapterUnusable(f"{folder}: peft_type and r are {found}, not ('LORA', {expected.rank})")
        return folder


@dataclass(frozen=True, slots=True)
class Restorer:
    """Restores a checkpoint into a new client from wherever it still exists."""

    connect: Callable[[], Backend]  #: makes a client with a fresh adapter of the job's rank and flags
    folder: ServerFolder
    objects: ObjectStore
    discard: Callable[[str], None]  #: removes what was saved for a moment only, by its path
    patiently: Callable[[Callable[[], object]], object] = lambda call: call()  #: calls again while the store is away

    def restore(self, checkpoint: CheckpointRecord, *, optimizer: bool) -> Backend:
        """Return a client that holds the checkpoint.

        The server's own record of it comes first. If the server lost that record or released it, the files do: from the
        server's folder, else from the store.

        Raises:
            CheckpointLost, BackendError, and what the store raises.
        """
        backend = self.connect()
        try:
            backend.load(checkpoint.path, optimizer=optimizer).result()
        except BackendError as error:
            backend.close()  # a failed load leaves a client in conflict for good
            if error.code not in (Code.SERVER_RESTARTED, Code.SEQUENCE_CONFLICT, Code.MODEL_NOT_SERVED):
                raise
            return self._from_files(checkpoint, optimizer=optimizer)
        return backend

    def _from_files(self, checkpoint: CheckpointRecord, *, optimizer: bool) -> Backend:
        """Save a fresh client's state, replace its files by the kept ones, and load it: measured to be bit-equal."""
        with tempfile.TemporaryDirectory(prefix="turnloom-restore-") as scratch:
            kept = self.folder.of(checkpoint.path)
            if not (kept / "adapter").is_dir():
                if not checkpoint.uri:
                    raise CheckpointLost(
                        f"checkpoint {checkpoint.id}: the server does not know {checkpoint.path}, {kept} is not there, "
                        "and it was never copied to the store"
                    )
                kept = Path(scratch) / "kept"
                try:
                    self.patiently(lambda: self.objects.get_folder(checkpoint.uri, kept))
                except NotFound as error:
                    raise CheckpointLost(
                        f"checkpoint {checkpoint.id}: the server does not know {checkpoint.path}, and {error}"
                    ) from None
            backend = self.connect()
            try:
                path = backend.save_state(f"{checkpoint.id}-restored").result()
                try:
                    _replace_contents(self.folder.of(path), kept)
                    backend.load(path, optimizer=optimizer).result()
                finally:
                    self.discard(path)
            except BaseException:
                backend.close()
                raise
            return backend


def _replace_contents(target: Path, source: Path) -> None:
    """Replace the files of a newly saved state by those of a kept one.

    TuFT's hf backend keeps the folders adapter and optimizer, its fsdp backend all in adapter: both must agree.
    """
    kept, saved = ([part for part in ("adapter", "optimizer") if (root / part).is_dir()] for root in (source, target))
    if "adapter" not in kept:
        raise CheckpointLost(f"{source} has no adapter")
    if "adapter" not in saved:
        raise CheckpointLost(
            f"{target / 'adapter'} is not there: TURNLOOM_TUFT_CHECKPOINT_DIR is not the server's folder"
        )
    if kept != saved:
        raise CheckpointLost(
            f"{source} holds {' and '.join(kept)}, what the server saves {' and '.join(saved)}: "
            "it was saved by another training_backend of TuFT"
        )
    for part in kept:
        shutil.rmtree(target / part)
        shutil.copytree(source / part, target / part)
