"""Which folder of the store holds the adapter that a client asks for, and which of its files. Knows no protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.preprocess.refusals import WrongState
from services.store.objects import FileEntry, Objects
from services.store.store import Store

#: What PEFT loads. A kept checkpoint's folder also holds the optimizer's state, which no client needs.
ADAPTER_FILES: Final = ("adapter_config.json", "adapter_model.safetensors")


def adapter_folder(store: Store, job_id: str, checkpoint_id: str) -> str:
    """URI of the folder: the checkpoint's, or the final adapter's, or that of the last checkpoint in the store.

    Raises:
        NotFound: no such job or checkpoint.
        WrongState: nothing is in the store yet.
    """
    job = store.jobs.get(job_id)
    if checkpoint_id:
        checkpoint = store.ledger.checkpoint(job_id, checkpoint_id)
        if not checkpoint.stored:
            raise WrongState(
                f"Checkpoint {checkpoint_id!r} is not in the store; ListCheckpoints says which are (`stored`)."
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


def adapter_files(objects: Objects, folder: str) -> Sequence[FileEntry]:
    """The adapter's files in order of their names.

    Raises:
        WrongState: the folder is not an adapter in PEFT's format.
    """
    found = [file for file in objects.files(folder) if file.name in ADAPTER_FILES]
    if missing := set(ADAPTER_FILES) - {file.name for file in found}:
        raise WrongState(f"The adapter in the store has no {min(missing)}; resume the job so that it is stored again.")
    return sorted(found, key=lambda file: file.name)
