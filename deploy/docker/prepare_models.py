"""Prepares every model of a models.toml before the API starts, since only this image holds transformers. Knows no gRPC.

    python prepare_models.py MODELS.toml

Writes the prepared folders into TURNLOOM_MODEL_CACHE and then a copy of the file to TURNLOOM_MODELS: the API, which
looks for each model at the same place, finds them all done.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from services.preprocess.models.registry import BadModels, load_entry, read_models
from turnloom.masks.domain.errors import PreprocessError


def main(models: Path, copy: Path, cache: Path) -> None:
    """Prepare, load once as a proof, then publish the list by one rename."""
    for entry in read_models(models):
        print(f"{entry.name}: {load_entry(entry, cache).encoder_name}", flush=True)  # noqa: T201
    unfinished = copy.with_suffix(".new")
    shutil.copyfile(models, unfinished)
    unfinished.rename(copy)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(os.environ["TURNLOOM_MODELS"]), Path(os.environ["TURNLOOM_MODEL_CACHE"]))
    except (BadModels, PreprocessError, OSError) as error:
        sys.exit(f"prepare_models: {error}")
