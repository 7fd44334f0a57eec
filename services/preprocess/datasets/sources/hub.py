"""Datasets of the Hugging Face hub, or of any server that speaks its protocol, row by row.

HF_ENDPOINT names another server, HF_TOKEN opens private datasets, HF_HUB_OFFLINE reads only what was downloaded before.
Code that a dataset brings along is never run, and nothing but its own files is read. No folder of this machine with the
same name is read, and no file that its card names elsewhere. The hub is asked once, with a deadline, before anything is
downloaded: left alone, the libraries below try for minutes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import os
import posixpath
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Final

import datasets
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from services.preprocess.domain.source_errors import HubRefused, HubUnreachable, SourceNotAllowed, SourceNotReadable
from services.preprocess.domain.source_location import below
from services.store.records import DatasetSource
from turnloom.foreign.arrow_types import plain_rows
from turnloom.reading.columnar import BATCH
from turnloom.reading.rows import RawRow, row_of

ANSWER_SECONDS: Final = 8.0  #: for the hub's first answer, name resolution included
MIRROR: Final = (
    "Check the network of the preprocess worker; where the hub is blocked set HF_ENDPOINT to a mirror, or copy the "
    "dataset to a folder below TURNLOOM_SOURCE_ROOTS and name that."
)
DEFAULT_SPLIT: Final = "train"


def rows(name: str, source: DatasetSource, commit: str, skip: int = 0, roots: Sequence[str] = ()) -> Iterator[RawRow]:
    """Yield the rows of one split, in order, from the network or from what was downloaded before.

    Args:
        name: owner/name at the hub, or an absolute folder that is laid out like a hub dataset.
        source: split (default "train"), configuration, and whether to read it as it comes.
        commit: of the hub; empty: of a folder, or whatever was downloaded before.
        skip: rows that are not needed again.
        roots: below which a folder's files have to lie.

    Raises:
        HubUnreachable, HubRefused, SourceNotReadable, SourceNotAllowed.
    """
    split = source.split or DEFAULT_SPLIT
    datasets.disable_progress_bars()  # a worker's terminal has no reader
    with _hub_errors(name, source.revision):
        builder = _builder(name, source.config, commit)
        _refuse_others(name, builder, roots)
        if source.streaming:
            table = builder.as_streaming_dataset(split=split)
        else:
            builder.download_and_prepare()
            table = builder.as_dataset(split=split)
        # Arrow's own types tell nulls that a table filled in from those of JSON, which plain values do not.
        batches = (table.skip(skip) if skip else table).with_format("arrow").iter(batch_size=BATCH)
        for index, values in enumerate(chain.from_iterable(map(plain_rows, batches)), start=skip):
            yield row_of(f"{name}[{split}], row {index}", values)


def _builder(name: str, config: str, commit: str) -> datasets.DatasetBuilder:
    """Return the library's reader, found from an empty folder: it looks for a hub's name there first.

    Raises:
        HubRefused: the library would take the name for one of its file formats.
    """
    if importlib.util.find_spec(f"datasets.packaged_modules.{name}") if name.isidentifier() else None:
        raise HubRefused(f"{name} is a file format and no dataset of the hub.", "Name it as owner/name.")
    cache = os.path.abspath(datasets.config.HF_DATASETS_CACHE)
    with tempfile.TemporaryDirectory(prefix="turnloom-hub-") as empty, contextlib.chdir(empty):
        return datasets.load_dataset_builder(name, config or None, revision=commit or None, cache_dir=cache)


def _refuse_others(name: str, builder: datasets.DatasetBuilder, roots: Sequence[str]) -> None:
    """Refuse a card that names files which aren't the dataset's own.

    Raises:
        SourceNotAllowed: names the first.
    """
    local = name.startswith("/")
    own = [f"hf://datasets/{name}"]
    allowed = [os.path.realpath(root) for root in roots if "://" not in root] if local else own
    for file in (str(file) for files in (builder.config.data_files or {}).values() for file in files):
        place = os.path.realpath(file) if local else _without_revision(file)
        if not any(below(place, root) for root in allowed):
            raise SourceNotAllowed(f"{name} names {file}, which is no file of its own.", hint="Correct its README.md.")


def _without_revision(url: str) -> str:
    """Return hf://datasets/owner/name/file of hf://datasets/owner/name@commit/file, dots resolved."""
    protocol, _, path = url.partition("://")
    before, at, after = path.partition("@")
    plain = f"{before}/{after.partition('/')[2]}" if at else path
    return f"{protocol}://{posixpath.normpath(plain)}"


def commit_of(name: str, revision: str) -> str:
    """Return the commit that a revision means now, or "" where there is none to ask for.

    One commit for the whole dataset keeps its files consistent.

    Raises:
        HubUnreachable: also where the hub does not answer within ANSWER_SECONDS.
        HubRefused: it has no such dataset or revision.
    """
    if name.startswith("/"):
        return ""
    if constants.is_offline_mode():
        return revision
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="hub")
    try:
        info = pool.submit(HfApi().dataset_info, name, revision=revision or None, timeout=ANSWER_SECONDS)
        with _hub_errors(name, revision):
            return info.result(ANSWER_SECONDS + 1).sha or revision
    finally:
        pool.shutdown(wait=False)  # a name that does not resolve may hang for longer


@contextmanager
def _hub_errors(name: str, revision: str) -> Iterator[None]:
    """Translate the libraries' exceptions to one sentence of ours."""
    endpoint = constants.ENDPOINT
    try:
        yield
    except GatedRepoError as error:
        raise HubRefused(f"{name} is gated at {endpoint}.", "Accept its terms there, and set HF_TOKEN.") from error
    except RevisionNotFoundError as error:
        raise HubRefused(f"{name} has no revision {revision!r} at {endpoint}.", "Look at its branches.") from error
    except RepositoryNotFoundError as error:
        hint = "Look at the spelling; a private dataset needs HF_TOKEN on the preprocess worker."
        raise HubRefused(f"There is no dataset {name} at {endpoint}, or it is private.", hint) from error
    except HfHubHTTPError as error:
        raise HubRefused(f"The hub at {endpoint} refuses {name}: {_first_line(error)}", MIRROR) from error
    except Exception as error:  # the libraries below raise whatever their own libraries do
        if _is_of_the_network(error):
            raise HubUnreachable(f"The hub at {endpoint} can't be reached for {name}.", MIRROR) from error
        if isinstance(error, ValueError | RuntimeError | OSError):  # no such split, a script, a damaged file
            raise SourceNotReadable(f"{name} can't be read: {_first_line(error)}") from error
        raise


def _is_of_the_network(error: BaseException | None) -> bool:
    """Return whether an error comes from the network, by the modules of the error and its causes.

    Releases of the hub's client use different HTTP libraries.
    """
    while error is not None:
        library = type(error).__module__.partition(".")[0].rstrip("0123456789")
        if isinstance(error, ConnectionError | TimeoutError) or library in ("httpx", "httpcore", "requests", "aiohttp"):
            return True
        error = error.__cause__ or error.__context__
    return False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
