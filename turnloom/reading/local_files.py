"""Read local files as rows: files, folders and globs, of every kind that the server reads."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from turnloom.errors import InvalidInput, why
from turnloom.reading.documents import rows_of
from turnloom.reading.file_kinds import (
    COLUMNAR,
    COMPRESSED_TABLE,
    DAMAGED,
    DAMAGES,
    DECOMPRESS,
    KINDS,
    damage,
    decompressed,
    is_compressed_table,
    is_damage,
    kind_of,
    needs_pyarrow,
    without_pyarrow,
)
from turnloom.reading.file_names import named_files
from turnloom.reading.rows import RawRow

MAX_DOCUMENT: Final = 256 << 20  #: bytes of a .json file that is one document, which is read as a whole


def find(words: Sequence[str | Path]) -> list[Path]:
    """Return the files that are named, all data files of a folder, or the matches of a glob.

    Args:
        words: in order; files of a folder and of a glob come in the order of their names.

    Raises:
        InvalidInput: one of them matches nothing, or what is no file.
    """
    return [path for word in words for path in _meant(str(word))]


def rows(path: Path) -> Iterator[RawRow]:
    """Yield all rows of a file, in bounded memory except for a .json document.

    Raises:
        InvalidInput: it can't be read, or needs pyarrow.
    """
    name = str(path)
    if is_compressed_table(name):
        raise InvalidInput(f"{name} {COMPRESSED_TABLE}", hint=DECOMPRESS)
    try:
        with path.open("rb") as raw:
            if kind_of(name) not in COLUMNAR:
                yield from rows_of(name, decompressed(name, raw), MAX_DOCUMENT)
                return
            # Imported here: the client does not depend on pyarrow.
            from turnloom.reading.columnar import arrow_rows, parquet_rows  # noqa: PLC0415

            yield from (parquet_rows if kind_of(name) == "parquet" else arrow_rows)(name, raw)
    except ImportError as error:
        raise without_pyarrow(name) if needs_pyarrow(name) else error from error
    except FileNotFoundError as error:
        raise _nothing(name) from error
    except (*DAMAGES, OSError) as error:
        if is_damage(error):
            raise InvalidInput(f"{name} can't be read: {damage(error)}.", hint=DAMAGED) from error
        raise InvalidInput(f"{name} can't be read: {why(error).rstrip('.')}.") from error


def _meant(word: str) -> Sequence[Path]:
    found = named_files(word)
    if found:
        return [Path(path) for path in found]
    if os.path.isdir(word):
        raise InvalidInput(f"There is no data file in the folder {word}.", hint=f"Known are: {', '.join(KINDS)}.")
    if not glob.has_magic(word):
        raise _nothing(word)
    raise InvalidInput(f"No file is named like {word}.", hint="Look at the spelling and the folder.")


def _nothing(name: str) -> InvalidInput:
    return InvalidInput(f"There is no file {name}.", hint="Look at the spelling and the folder.")
