"""Remove from this host the saved states that no job has any more.

DeleteJob knows neither hosts nor their folders, and a job that was moved can't reach its first host. Both list the
paths in Redis. Each host looks for them in its own folder: TuFT names every run anew, so a path is found on one host.
"""

from __future__ import annotations

import logging

from services.store.ledger import Ledger
from services.trainer.checkpoints import ServerFolder
from services.trainer.settings import Settings
from services.trainer.tuft_http import TuftHttp
from turnloom.plural import counted

log = logging.getLogger(__name__)


def remove_left_states(settings: Settings, ledger: Ledger) -> int:
    """Remove those that have files here, and free the runs that hold nothing else; return how many states went.

    May be called by several processes at once. What was done holds when it raises.

    Raises:
        BackendError: the server does not answer, or refuses.
        OSError: files can't be removed.
        StoreError: Redis is away.
    """
    folder = ServerFolder(settings.checkpoint_dir)
    server = TuftHttp(settings.tuft_url, settings.tuft_api_key)
    here = [path for path in ledger.left_states() if folder.has(path)]
    for path in here:
        folder.delete(server, path)
        folder.remove(path)  # a server that forgot the state, but not its run, leaves the files
        run = folder.run_of(path)
        if not folder.saved(run):
            server.unload(run)
        ledger.forget_left_state(path)
    if here:
        log.info("removed %s that no job has any more", counted(len(here), "saved state"))
    return len(here)
