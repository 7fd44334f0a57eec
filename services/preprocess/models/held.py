"""Models that this process holds for the processes it forks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from services.preprocess.models.registry import load_entry, prepared_folder
from turnloom.masks.domain.bounded_cache import BoundedCache
from turnloom.masks.model import MANIFEST, Model
from turnloom.masks.sandbox.pool import Sandbox
from turnloom.models_file import ModelEntry

#: Models held at once; Qwen3's vocabulary of 151,669 tokens takes 150 MB.
MOST: Final = 2


class HeldModels:
    """At most MOST loaded models, by entry and by what is in the prepared folder."""

    def __init__(self) -> None:
        """Start with none."""
        self._models: BoundedCache[tuple[ModelEntry, str], Model] = BoundedCache(MOST)

    def hold(self, entry: ModelEntry, cache: Path) -> bool:
        """Load a prepared model to hold, without a sandbox, and return whether it was loaded now.

        A model that is not prepared yet is skipped: preparing proves in another process that it can be loaded.

        Raises:
            ModelNotUsable, BadModels: as `load_entry`.
        """
        key = _key(entry, cache)
        if key is None or self._models.get(key) is not None:
            return False
        self._models[key] = load_entry(entry, cache)
        return True

    def load(self, entry: ModelEntry, cache: Path, sandbox: Sandbox | None = None) -> Model:
        """Return the held model with this sandbox, or load it.

        Raises:
            ModelNotUsable, BadModels: as `load_entry`.
        """
        key = _key(entry, cache)
        held = self._models.get(key) if key is not None else None
        return replace(held, sandbox=sandbox) if held is not None else load_entry(entry, cache, sandbox)


#: Those of this process, and of every process that it was forked from.
HELD: Final = HeldModels()


def _key(entry: ModelEntry, cache: Path) -> tuple[ModelEntry, str] | None:
    """Return a model's key from its manifest, which changes when it is prepared again; None: not prepared."""
    folder = prepared_folder(entry, cache)
    return (entry, (folder / MANIFEST).read_text(encoding="utf-8")) if folder is not None else None
