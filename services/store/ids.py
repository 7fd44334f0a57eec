"""Make ids of jobs, datasets and sweeps."""

from __future__ import annotations

import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """Make an id: `prefix`, a dash, and 12 random characters (62 bits), for example "job-3k9x0c2m1zq7"."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(12))
