"""Which checkpoints of a job stay, where they are copied, and what is released on the server. Knows no training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.store.errors import CheckpointNotUsable
from services.store.records import CheckpointRecord
from services.trainer.checkpoints import ObjectStore, ServerFolder
from services.trainer.errors import BackendError

log = logging.getLogger(__name__)


class CheckpointLedger(Protocol):
    """The side of services.store.ledger.Ledger that is needed here."""

    def checkpoints(self, job_id: str, *, superseded: bool = True) -> list[CheckpointRecord]:
        """All that are known, by step and attempt."""
        ...

    def update_checkpoint(
        self, job_id: str, attempt: int, checkpoint_id: str, *, stored: bool | None, uri: str | None, sha256: str | None
    ) -> CheckpointRecord:
        """Changes a record."""
        ...

    def remove_checkpoint(self, job_id: str, attempt: int, checkpoint_id: str) -> None:
        """Forgets one; refuses the last and the best."""
        ...


class Server(Protocol):
    """The side of TuftHttp that is needed here."""

    def unload(self, run_id: str) -> None:
        """Frees a run's adapter."""
        ...

    def delete_checkpoint(self, run_id: str, name: str) -> None:
        """Removes a saved state."""
        ...


def superfluous(
    checkpoints: Sequence[CheckpointRecord], best: str, last: str, keep: int
) -> tuple[list[CheckpointRecord], list[CheckpointRecord]]:
    """Parts checkpoints (oldest first) into those that stay and those that go.

    The best, the last and the `keep` newest others of the effective run stay; a superseded one never does.
    """
    effective = [one for one in checkpoints if not one.superseded]
    others = [one for one in effective if one.id not in (best, last)]
    kept = {best, last} | {one.id for one in others[len(others) - min(keep, len(others)) :]}
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
    server: Server
    folder: ServerFolder
    objects: ObjectStore

    def thin_out(self) -> None:
        """Removes what need not be kept, on the server first. A server that does not answer leaves it for next time.

        Every attempt trains in a run of its own; the run of an earlier one goes with the last checkpoint in it.
        """
        known = self.ledger.checkpoints(self.job)
        _, go = superfluous(known, *self.named(), self.keep)
        gone: set[str] = set()
        for checkpoint in go:
            try:
                self.server.delete_checkpoint(self.folder.run_of(checkpoint.path), checkpoint.id)
                self.ledger.remove_checkpoint(self.job, self.attempt, checkpoint.id)
                gone.add(checkpoint.id)
            except (BackendError, CheckpointNotUsable) as error:
                log.info("checkpoint %s stays for now: %s", checkpoint.id, error)
        needed = {self.folder.run_of(one.path) for one in known if one.id not in gone}
        self.release(sorted({self.folder.run_of(one.path) for one in known if one.id in gone} - needed))

    def copy_out(self) -> int:
        """Copies every kept checkpoint to the store, once; returns how many are there."""
        stay, _ = superfluous(self.ledger.checkpoints(self.job), *self.named(), self.keep)
        for checkpoint in stay:
            if not checkpoint.stored:
                stored = self.objects.put_folder(self.job, checkpoint.id, self.folder.of(checkpoint.path))
                self.ledger.update_checkpoint(
                    self.job, self.attempt, checkpoint.id, stored=True, uri=stored.uri, sha256=stored.sha256
                )
        return len(stay)

    def release(self, runs: Sequence[str]) -> list[str]:
        """Frees the adapters of these runs on the server, once everything kept is in the store.

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
