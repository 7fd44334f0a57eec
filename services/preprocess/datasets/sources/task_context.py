"""The context that every task of a dataset needs, in one value. Keep its imports light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.preprocess.settings import ApiSettings
from services.store.blobs.files import remove
from services.store.dataset_work import DatasetWork
from services.store.datasets import Datasets
from services.store.errors import NotFound
from services.store.queueing.tickets import Tickets
from services.store.records import DatasetState, ErrorRecord, IssueRecord
from services.store.shards.manifest import shards_folder


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The store as a task sees it."""

    settings: ApiSettings
    datasets: Datasets
    work: DatasetWork
    tickets: Tickets

    def folder(self, dataset_id: str) -> str:
        """Return the URL of everything that is kept only while a dataset is made."""
        return f"{self.settings.store_url.rstrip('/')}/making/{dataset_id}"

    def shards_folder(self, dataset_id: str) -> str:
        """Return the URL of the shards of a dataset."""
        return shards_folder(self.settings.store_url, dataset_id)

    def ended(self, dataset_id: str) -> bool:
        """Return whether a dataset is no longer being made, or is gone."""
        try:
            return self.datasets.get(dataset_id).state is not DatasetState.CREATING
        except NotFound:
            return True

    def fail(self, dataset_id: str, error: ErrorRecord, issues: Sequence[IssueRecord] = ()) -> None:
        """End a dataset with the reason, and remove what was made of it."""
        self.datasets.fail(dataset_id, error, issues)
        self.tidy(dataset_id)

    def tidy(self, dataset_id: str) -> None:
        """Remove staged rows, and the shards of what has failed or was cancelled; close the work."""
        remove(self.folder(dataset_id))
        if self._failed(dataset_id):
            remove(self.shards_folder(dataset_id))
        self.work.close(dataset_id)

    def _failed(self, dataset_id: str) -> bool:
        try:
            return self.datasets.get(dataset_id).state in (DatasetState.FAILED, DatasetState.CANCELLED)
        except NotFound:
            return False
