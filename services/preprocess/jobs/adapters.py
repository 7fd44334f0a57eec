"""Find the store folder that holds the adapter a client asks for, and its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.preprocess.domain.refusals import WrongState
from services.store.blobs.objects import Objects
from services.store.store import Store

#: What PEFT loads. A kept checkpoint also holds the optimizer's state, which no client needs.
ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")
#: Where they lie in a folder: a final adapter is only they, a checkpoint has them beside optimizer/.
PLACES: Final = ("", "adapter/")


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """One file to download."""

    name: str  #: as PEFT wants it
    path: str  #: in its folder of the store
    bytes: int
    sha256: str  #: hex


def adapter_folder(store: Store, job_id: str, checkpoint_id: str) -> str:
    """Return the URI of the folder: the checkpoint's, the final adapter's, or that of the last checkpoint in the store.

    Raises:
        NotFound: no such job or checkpoint.
        WrongState: nothing is in the store yet.
    """
    job = store.jobs.get(job_id)
    if checkpoint_id:
        checkpoint = store.ledger.checkpoint(job_id, checkpoint_id)
        if not checkpoint.stored:
            raise WrongState(
                f"Checkpoint {checkpoint_id!r} is not in the store; choose one that ListCheckpoints shows as `stored`."
            )
        return checkpoint.uri
    if job.adapter_uri:
        return job.adapter_uri
    kept = [checkpoint for checkpoint in store.ledger.checkpoints(job_id, superseded=False) if checkpoint.stored]
    if not kept:
        raise WrongState(
            f"Job {job_id!r} is {job.state.name} and has no adapter in the store yet; WatchJob shows when it is there."
        )
    return kept[-1].uri


def adapter_files(objects: Objects, folder: str) -> Sequence[AdapterFile]:
    """Return the adapter's files in order of their names.

    Raises:
        WrongState: the folder is not an adapter in PEFT's format.
    """
    there = {file.name: file for file in objects.files(folder)}
    for place in PLACES:
        found = [(name, there.get(place + name)) for name in ADAPTER_FILES]
        files = [AdapterFile(name, file.name, file.bytes, file.sha256) for name, file in found if file is not None]
        if len(files) == len(ADAPTER_FILES):
            return files
    raise WrongState(
        f"What is kept in the store is no adapter: {' or '.join(ADAPTER_FILES)} is missing; "
        "resume the job so that it is saved again."
    )
