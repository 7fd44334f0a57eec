"""Load modules and models into the worker's parent, so that the horses it forks inherit them.

Loading Qwen3's vocabulary takes three seconds of CPU, the imports half a second, and a shard about two.
The parent stays safe to fork: it starts no thread (environment), and opens nothing that a horse would share.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable
from itertools import islice

from services.preprocess.datasets.sources import tasks  # noqa: F401  # imported for the horses
from services.preprocess.datasets.sources.memory import stay_small
from services.preprocess.models.held import HELD, MOST
from services.preprocess.models.registry import BadModels, prepared_folder, read_models
from services.preprocess.settings import ApiSettings
from services.store.datasets import Datasets
from services.store.errors import NotFound, RedisUnavailable
from turnloom.errors import why
from turnloom.masks.domain.errors import PreprocessError
from turnloom.models_file import ModelEntry

LOG = logging.getLogger("turnloom.worker")


class Preloaded:
    """The models that the parent holds. Whatever can't be loaded here is left to the horse, which reports why."""

    def __init__(self, settings: ApiSettings, datasets: Datasets) -> None:
        """Start with nothing loaded.

        Args:
            settings: of the worker.
            datasets: where a dataset's model is looked up.
        """
        self._settings = settings
        self._datasets = datasets

    def warm_up(self) -> None:
        """Load the first models that are already prepared, before any ticket comes."""
        stay_small()
        ready = (entry for entry in self._entries() if prepared_folder(entry, self._settings.model_cache))
        self._hold(islice(ready, MOST))

    def for_dataset(self, dataset_id: str) -> None:
        """Load the model of a dataset."""
        try:
            name = self._datasets.get(dataset_id).model
        except (NotFound, RedisUnavailable):
            return
        self._hold(entry for entry in self._entries() if entry.name == name)

    def _entries(self) -> list[ModelEntry]:
        try:
            return read_models(self._settings.models)
        except BadModels as error:
            LOG.warning("no model is held for jobs: %s", error)
            return []

    def _hold(self, entries: Iterable[ModelEntry]) -> None:
        for entry in entries:
            try:
                loaded = HELD.hold(entry, self._settings.model_cache)
            except (PreprocessError, BadModels, OSError) as error:
                LOG.warning("model %s is not held for jobs: %s", entry.name, why(error, place=True))
                continue
            if loaded:
                # Horses share these pages: a collection in one of them would write to each.
                gc.unfreeze()  # else the leftovers of an earlier model would stay for good
                gc.collect()
                gc.freeze()
