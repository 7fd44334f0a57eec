"""Tell GPU hosts apart by a file in the checkpoint folder, since two may be given one TURNLOOM_HOST.

Checkpoints lie on their host until they are copied. A job that another machine takes under that name would not find
them. Keep the imports light, for the worker's parent is forked for every ticket.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from pathlib import Path
from typing import Final

import redis

from services.store.hosts import HostClaim, claim_host, keep_host
from services.trainer.settings import Settings
from services.variables import BadSetting
from turnloom.errors import why

FILE: Final = ".turnloom-host.json"

log = logging.getLogger(__name__)


def identity(folder: Path) -> str:
    """Return the id in the checkpoint folder, made at the first call there; "" where there is no such folder yet.

    Raises:
        OSError: the folder can't be read or written.
        ValueError: the file holds something else.
    """
    path = folder / FILE
    if not folder.is_dir():
        return ""
    if not path.exists():
        new = folder / f"{FILE}.{secrets.token_hex(4)}"
        new.write_text(json.dumps({"id": secrets.token_hex(16), "made_by": socket.gethostname()}) + "\n", "utf-8")
        try:
            os.link(new, path)  # the first of several workers wins
        except FileExistsError:
            pass
        finally:
            new.unlink()
    return str(json.loads(path.read_text("utf-8"))["id"])


def claim(settings: Settings, connection: redis.Redis) -> HostClaim | None:
    """Claim the host's name for this machine; None: nobody knows yet which it is, for its folder is not there.

    Raises:
        BadSetting: another machine works under the name, or the folder can't be used.
    """
    folder = settings.checkpoint_dir
    try:
        found = identity(folder)
    except (OSError, ValueError, KeyError) as error:
        sentence = f"{folder / FILE} can't be used ({why(error)}); see to its rights"
        raise BadSetting(f"TURNLOOM_TUFT_CHECKPOINT_DIR: {sentence}") from None
    if not found:
        log.warning("%s is not there, so this host can't be told from another of its name", folder)
        return None
    own = HostClaim(settings.host, found, socket.gethostname())
    other = claim_host(connection, own)
    if other is not None:
        raise BadSetting(
            f"TURNLOOM_HOST: machine {other.machine} works under the name {settings.host!r} with another "
            f"checkpoint folder (id {other.id[:8]}, here {found[:8]}); give each machine a name of its own"
        )
    return own


def keep(own: HostClaim | None, host: str, connection: redis.Redis) -> None:
    """Report that a worker is there. Raises BadSetting once another machine has the name."""
    other = keep_host(connection, own, host)
    if other is not None:
        raise BadSetting(f"TURNLOOM_HOST: machine {other.machine} has taken the name {host!r}; this worker ends")
