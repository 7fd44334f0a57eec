"""Make only services.tuft importable in Ray's workers, without the packages beside it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path


def expose(folder: Path, environment: MutableMapping[str, str]) -> None:
    """Put a folder on PYTHONPATH that holds this package only.

    TuFT's Python is not ours. Where turnloom is installed from a wheel, the folder above `services` holds our
    environment's packages. With that folder on its path, TuFT's Python would find them beside its own.

    Args:
        folder: an empty one, which stays as long as the server.
        environment: of the processes to come.
    """
    (folder / "services").mkdir()
    (folder / "services" / "tuft").symlink_to(Path(__file__).resolve().parent, target_is_directory=True)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), environment.get("PYTHONPATH", ""))))
