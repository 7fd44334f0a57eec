"""Reads a case's input through the client's reader and the worker's, which must agree. Knows no template."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from services.preprocess.datasets.sources.converting import conversation_of
from services.preprocess.datasets.sources.reading import pieces_of, read
from services.preprocess.wire.conversation import conversation
from tests.graveyard.case import Chat, File
from turnloom.errors import InvalidInput
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.reading.local_sources import LocalSource
from turnloom.reading.rows import shape_of
from turnloom.wire.conversations import from_json


def conversation_in(given: Chat | File, folder: Path) -> Conversation | str:
    """The conversation as the engine gets it, or the sentence that refuses it.

    Args:
        given: the input of a case.
        folder: for its file.
    """
    if isinstance(given, Chat):
        try:
            return conversation(from_json(given.document))
        except (InvalidInput, PreprocessError) as error:
            return _sentence(error)
    path = _written(given, folder)
    local, worker = _by_client(path, given.row), _by_worker(path, given.row, folder)
    if isinstance(local, str) and isinstance(worker, str):
        return f"{local}\n{worker}"
    assert local == worker, f"the client reads {local}\nand the worker {worker}"
    return local


def _written(file: File, folder: Path) -> Path:
    path = folder / f"chats.{file.kind}"
    if file.kind == "parquet":
        pq.write_table(pa.Table.from_pylist([dict(row) for row in file.rows]), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in file.rows), encoding="utf-8")
    return path


def _by_client(path: Path, row: int) -> Conversation | str:
    try:
        document = list(LocalSource.open([path]).whole().wanted())[row][1]
        if isinstance(document, InvalidInput):
            raise document
        return conversation(from_json(document))
    except (InvalidInput, PreprocessError) as error:
        return _sentence(error)


def _by_worker(path: Path, row: int, folder: Path) -> Conversation | str:
    found = [one for piece in pieces_of(str(path), str(folder / "staged")) for one in read(piece)]
    try:
        converted, _ = conversation_of(found[row], shape_of(found))
    except InvalidInput as error:
        return _sentence(error)
    return converted if isinstance(converted, Conversation) else _sentence(converted)


def _sentence(error: InvalidInput | PreprocessError) -> str:
    return f"{error.field}: {error}" if error.field and error.field not in str(error) else str(error)
