"""Convert numpy arrays to Arrow and back as buffers: pa.array and to_numpy import pandas if installed (0.3 s)."""

from __future__ import annotations

from typing import cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def plain_array(kind: pa.DataType, array: NDArray[np.generic]) -> pa.Array:
    """Make an Arrow array of a contiguous numpy array, without a copy."""
    return pa.Array.from_buffers(kind, len(array), [None, pa.py_buffer(array)])


def view(array: pa.Array, kind: str) -> NDArray[np.generic]:
    """Return a numpy view of the last buffer of an Arrow array without nulls.

    Args:
        array: of a plain kind.
        kind: numpy's name of it, such as "<u4".
    """
    if not len(array):
        return np.empty(0, dtype=kind)
    begin = array.offset * np.dtype(kind).itemsize
    return cast(NDArray[np.generic], np.frombuffer(array.buffers()[-1], kind, len(array), begin))
