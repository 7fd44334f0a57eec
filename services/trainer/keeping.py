"""Retention of a job's checkpoints: which stay, where they are copied, and what the server releases."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from services.store.errors import CheckpointNotUsable
from services.store.records import CheckpointRecord
from services.trainer.checkpoints import CheckpointServer, ObjectStore, ServerFolder
from services.trainer.errors import BackendError

log = logging.getLogger(__name__)


class CheckpointLedger(Protocol):
    """The methods of services.store.ledger.Ledger that this module uses."""

    def checkpoints(self, job_id: str, *, superseded: bool = True) -> list[CheckpointRecord]:
        """Return all known checkpoints, by step and attempt."""
        ...

    def checkpoint_stored(
        self, job_id: str, attempt: int, checkpoint_id: str, *, uri: str, sha256: str, bytes: int
    ) -> CheckpointRecord:
        """Note that a checkpoint is in the store."""
        ...

    def remove_checkpoint(self, job_id: str, attempt: int, checkpoint_id: str, left: str = "") -> None:
        """Forget a checkpoint, or `left` its path to another host; refuses the last and the best."""
        ...


def superfluous(
    checkpoints: Sequence[CheckpointRecord], best: str, last: str, keep: int
) -> tuple[list[CheckpointRecord], list[CheckpointRecord]]:
    """Split checkpoints (oldest first) into those that stay and those that go.

    The best, the last and the `keep` newest others of the effective run stay; a superseded one never does. The newest
    that is in the store stays until a newer one is there: another host would go on from it.
    """
    effective = [one for one in checkpoints if not one.superseded]
    others = [one for one in effective if one.id not in (best, last)]
    kept = {best, last} | {one.id for one in others[len(others) - min(keep, len(others)) :]}
    kept |= {one.id for one in [one for one in effective if one.stored][-1:]}
    stay = [one for one in effective if one.id in kept]
    return stay, [one for one in checkpoints if one not in stay]


@dataclass(frozen=True, slots=True)
class Keeper:
    """The kept checkpoints of one job."""

    job: str
    attempt: int
    keep: int  #: beside the best and the last
    named: Callable[[], tuple[str, str]]  #: ids of the best and the last checkpoint just now
    ledger: CheckpointLedger
    server: CheckpointServer
    folder: ServerFolder
    objects: ObjectStore
    aside: Callable[[str, Callable[[], object]], None]  #: makes a write to the store later: nobody waits for it here

    def thin_out(self) -> None:
        """Remove superfluous checkpoints, first from the server. If it does not answer, the next call tries again.

        Copies in the store go later; where the store is away then, they go with the job.

        Every attempt trains in a run of its own. The run of an earlier one goes with the last checkpoint in it.
        """
        known = self.ledger.checkpoints(self.job)
        _, go = superfluous(known, *self.named(), self.keep)
        gone: set[str] = set()
        for checkpoint in go:
            try:
                left = "" if self.folder.has(checkpoint.path) else checkpoint.path  # the job came from another host
                self.folder.delete(self.server, checkpoint.path)
                self.ledger.remove_checkpoint(self.job, self.attempt, checkpoint.id, left)
                gone.add(checkpoint.id)
                if checkpoint.stored:
                    self.aside(f"removal of {checkpoint.uri}", partial(self.objects.delete, checkpoint.uri))
            except (BackendError, CheckpointNotUsable, OSError) as error:
                log.info("checkpoint %s stays for now: %s", checkpoint.id, error)
        needed = {self.folder.run_of(one.path) for one in known if one.id not in gone}
        self.release(sorted({self.folder.run_of(one.path) for one in known if one.id in gone} - needed))

    def discard(self, path: str) -> None:
        """Remove what was saved for a moment only. Where that fails it costs room on the server's disk, and no job."""
        try:
            self.folder.delete(self.server, path)
        except (BackendError, OSError) as error:
            log.warning("%s stays on the server: %s", path, error)

    def copy_out(self) -> int:
        """Copy every kept checkpoint to the store, once; return how many are there."""
        stay, _ = superfluous(self.ledger.checkpoints(self.job), *self.named(), self.keep)
        for checkpoint in stay:
            if not checkpoint.stored:
                self.copy(checkpoint)
        return len(stay)

    def copy(self, checkpoint: CheckpointRecord) -> None:
        """Copy one checkpoint to the store and note it. Raises NotFound, CheckpointNotUsable for one that is gone."""
        stored = self.objects.put_folder(self.job, checkpoint.id, self.folder.of(checkpoint.path))
        size = sum(entry.bytes for entry in stored.files)
        try:
            self.ledger.checkpoint_stored(
                self.job, self.attempt, checkpoint.id, uri=stored.uri, sha256=stored.sha256, bytes=size
            )
        except CheckpointNotUsable:  # it was one too many when its copy arrived
            self.objects.delete(stored.uri)
            raise

    def release(self, runs: Sequence[str]) -> list[str]:
        """Free the adapters of these runs on the server, once everything kept is in the store.

        Returns:
            The runs that it freed; the others stay in the server's memory and are logged.
        """
        freed: list[str] = []
        for run in dict.fromkeys(run for run in runs if run):
            try:
                self.server.unload(run)
                freed.append(run)
            except BackendError as error:
                log.warning("run %s stays loaded on the server: %s", run, error)
        return freed
