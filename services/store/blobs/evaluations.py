"""Loss of each row of the test dataset in an evaluation: one small Parquet file per evaluation.

Redis holds the sums of an evaluation. These columns (12 bytes a row) lie in the object store, at a path by job and
step. An attempt that trains a step again writes the same numbers to the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from services.store.blobs.files import below, locate, store_errors, whole_file
from services.store.errors import NotFound


@dataclass(frozen=True, slots=True)
class RowLosses:
    """One entry per evaluated row, in the order of the test dataset; NLL of a set of rows = sum / sum."""

    conversation: NDArray[np.uint32]  #: [rows] position of the row's conversation in the dataset
    nll_sum: NDArray[np.float32]  #: [rows] nats, sum of -logprob * weight, unnormalized weights
    weight_sum: NDArray[np.float32]  #: [rows] > 0


class Evaluations:
    """Files below one fsspec URL."""

    def __init__(self, store_url: str) -> None:
        self._store_url = store_url

    def put(self, job_id: str, step: int, losses: RowLosses) -> None:
        """Write, or replace, the file of one evaluation. Raises StoreFull, StoreUnavailable."""
        table = pa.table(
            {
                "conversation": pa.array(losses.conversation, pa.uint32()),
                "nll_sum": pa.array(losses.nll_sum, pa.float32()),
                "weight_sum": pa.array(losses.weight_sum, pa.float32()),
            }
        )
        with whole_file(_url(self._store_url, job_id, step)) as file:
            pq.write_table(table, file, compression="zstd")

    def get(self, job_id: str, step: int) -> RowLosses:
        """Read one evaluation. Raises NotFound where none was kept, StoreUnavailable."""
        url = _url(self._store_url, job_id, step)
        system, path = locate(url)
        with store_errors(url):
            if not system.exists(path):
                raise NotFound(
                    f"of job {job_id}, the loss of each test example at step {step} was not kept: the job is older "
                    "than that record, or the object store was away"
                )
            with system.open(path, "rb") as file:
                table = pq.read_table(file)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return RowLosses(
            columns["conversation"].astype(np.uint32, copy=False),
            columns["nll_sum"].astype(np.float32, copy=False),
            columns["weight_sum"].astype(np.float32, copy=False),
        )


def _url(store_url: str, job_id: str, step: int) -> str:
    return below(store_url, "evaluations", job_id, f"step-{step}.parquet")
