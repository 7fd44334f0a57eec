"""Determine a file's kind from its name, and decompress its bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import IO, Final, cast

from turnloom.errors import InvalidInput

#: What files are read as, by their last suffix but compression.
KINDS: Final = {
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
#: Kinds that are tables of columns, which are never compressed as files and need pyarrow.
COLUMNAR: Final = ("parquet", "arrow")
#: Files that data tools leave beside the data.
BESIDE: Final = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json"})


DAMAGED: Final = "It is damaged, or not what its name says."  #: a hint
COMPRESSED_TABLE: Final = "is a compressed table."  #: the rest of a sentence
DECOMPRESS: Final = "Decompress it: such files are compressed inside."  #: its hint
#: What reading a damaged file raises.
DAMAGES: Final = (EOFError, ValueError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


def is_damage(error: Exception) -> bool:
    """Return whether reading a file of this machine raised an error for its content.

    pyarrow's, of a decompressor, is an OSError without the system's number.
    """
    return isinstance(error, DAMAGES) or (isinstance(error, OSError) and not error.errno)


def damage(error: Exception) -> str:
    """Return what is wrong with a damaged file, without the bytes that Python quotes of it."""
    return "it is no gzip file" if isinstance(error, gzip.BadGzipFile) else str(error).rstrip(".")


def kind_of(name: str) -> str:
    """Return the kind of a file; empty: not a data file."""
    return "" if is_compressed_table(name) else _inner_kind(name)


def is_compressed_table(name: str) -> bool:
    """Return whether a name is of Parquet or Arrow that is compressed as a file, which nobody reads."""
    return is_compressed(name) and _inner_kind(name) in COLUMNAR


def _inner_kind(name: str) -> str:
    plain = name.lower()
    for suffix in COMPRESSED:
        plain = plain.removesuffix(suffix)
    return KINDS.get(posixpath.splitext(plain)[1], "")


def is_compressed(name: str) -> bool:
    """Return whether a file is compressed, so that its bytes can't be cut at lines."""
    return name.lower().endswith(tuple(COMPRESSED))


def needs_pyarrow(name: str) -> bool:
    """Return whether reading the file takes pyarrow, which the client may lack."""
    return kind_of(name) in COLUMNAR or name.lower().endswith(".zst")


def is_data(name: str) -> bool:
    """Return whether a folder's file is read when the folder is named."""
    return bool(kind_of(name)) and posixpath.basename(name) not in BESIDE


def decompressed(name: str, raw: io.BufferedIOBase) -> io.BufferedIOBase:
    """Return a stream that decompresses as the file's name says; reading it reveals damage.

    Raises:
        InvalidInput: .zst without pyarrow.
    """
    opener = next((opener for suffix, opener in COMPRESSED.items() if name.lower().endswith(suffix)), None)
    return raw if opener is None else opener(raw)


def without_pyarrow(name: str) -> InvalidInput:
    """Return the error for a missing pyarrow."""
    return InvalidInput(
        f"{name} can be read with pyarrow only, which is not installed here.",
        hint="Install it (pip install pyarrow), let the server read the file (`turnloom dataset import`), or write JSON"
        " lines.",
    )


def _gzip(raw: io.BufferedIOBase) -> io.BufferedIOBase:
    return gzip.GzipFile(fileobj=raw)


def _bzip2(raw: io.BufferedIOBase) -> io.BufferedIOBase:
    return bz2.BZ2File(cast(IO[bytes], raw))


def _xz(raw: io.BufferedIOBase) -> io.BufferedIOBase:
    return cast(io.BufferedIOBase, lzma.LZMAFile(cast(IO[bytes], raw)))


def _zstd(raw: io.BufferedIOBase) -> io.BufferedIOBase:
    try:
        pyarrow = import_module("pyarrow")  # an extra of the client, and slow to import
    except ImportError as error:
        raise without_pyarrow("A .zst file") from error
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd")
    return io.BufferedReader(cast(io.RawIOBase, stream), 1 << 20)


#: How a compressed file is read, by its last suffix.
COMPRESSED: Final[dict[str, Callable[[io.BufferedIOBase], io.BufferedIOBase]]] = {
    ".gz": _gzip,
    ".bz2": _bzip2,
    ".xz": _xz,
    ".zst": _zstd,
}
