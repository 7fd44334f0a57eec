"""Make a dataset of an uploaded file for a model, once: the same file, model and options reuse it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Final

from services.quoting import cut
from services.rest.file_store import FileStore, StoredFile
from services.rest.gateway import Caller, NewDataset, Turnloom
from services.rest.problems import ClientLeft, Problem
from services.rest.uploads import conversation_of
from turnloom.display.names import display_name
from turnloom.errors import InvalidArgument, InvalidInput
from turnloom.reading.documents import line_row
from turnloom.reading.lines import lines
from turnloom.v1 import datasets_pb2 as ds
from turnloom.v1 import types_pb2 as ty

_PLACE: Final = re.compile(r"conversations\[(\d+)\]\.?")


class TrainingFiles:
    """Files as datasets."""

    def __init__(self, store: FileStore, turnloom: Turnloom, caller: Caller, left: threading.Event) -> None:
        """Take files of one request.

        Args:
            store: where they are.
            turnloom: makes the datasets.
            caller: whose they will be.
            left: set when the client has left.
        """
        self._store, self._turnloom, self._caller, self._left = store, turnloom, caller, left

    def dataset(self, param: str, identity: str, model: str, options: Mapping[str, object]) -> ds.Dataset:
        """Return the dataset of a file.

        Args:
            param: field of the request that names the file.
            identity: id of the file, or of a dataset that is there already ("ds-...").
            model: name of the model.
            options: fields of PreprocessOptions.

        Raises:
            Problem: no such file, or a line that can't be trained on.
            ClientLeft: the client has left; nothing was made.
        """
        if identity.startswith("ds-"):
            return self._named(param, identity)
        file = self._found(param, identity)
        key = _key(self._caller.name, file, model, options)
        known = self._store.note(file, key)
        found = self._turnloom.dataset(known) if known else None
        if found is not None and found.state == ds.DATASET_STATE_READY:
            return found
        made = self._make(param, file, key, model, options)
        self._store.take_note(file, key, made.id)
        return made

    def _named(self, param: str, identity: str) -> ds.Dataset:
        found = self._turnloom.dataset(identity)
        if found is None:
            raise Problem(400, f"{param}: there is no dataset {identity!r}; look at the spelling.", param=param)
        return found

    def _found(self, param: str, identity: str) -> StoredFile:
        try:
            return self._store.get(identity, self._caller)
        except Problem as error:
            if error.status != 404:
                raise
            sentence = f"{param}: there is no file {cut(identity)!r}; upload it to /v1/files with this token."
            raise Problem(400, sentence, param=param, code="file_not_found") from None

    def _make(self, param: str, file: StoredFile, key: str, model: str, options: Mapping[str, object]) -> ds.Dataset:
        asked = NewDataset(
            model=model,
            display_name=display_name(file.filename),
            request_id=f"rest-{key}",
            metadata={"openai.file": file.id},
            options=options,
        )
        try:
            made = self._turnloom.create_dataset(asked, self._conversations(file))
        except InvalidArgument as error:
            raise self._located(param, file, error) from error
        except InvalidInput as error:
            raise Problem(400, f"{param}: {error.message} {error.hint}".strip(), param=param) from error
        if made.state != ds.DATASET_STATE_READY:
            raise Problem(400, f"{param}: {made.error.message} {made.error.hint}".strip(), param=param)
        return made

    def _conversations(self, file: StoredFile) -> Iterator[ty.Conversation]:
        with self._store.open(file) as content:
            for line in lines(content):
                if self._left.is_set():
                    raise ClientLeft
                row = line_row(file.filename, line)
                if row.mistake:
                    raise InvalidInput(f"{row.place} {row.mistake}")
                yield conversation_of(row)

    def _located(self, param: str, file: StoredFile, error: InvalidArgument) -> Problem:
        """Name the line of the first bad conversation; without one the error is the request's own."""
        if not error.violations or (found := _PLACE.match(error.violations[0].field)) is None:
            field = error.field.removeprefix("header.") or param
            return Problem(400, f"{param}: {error.message} {error.hint}".strip(), param=field)
        number, rest = int(found[1]), error.violations[0].field[found.end() :]
        with self._store.open(file) as content:
            line = next((line.number for index, line in enumerate(lines(content)) if index == number), number + 1)
        where = ": ".join(part for part in (f"{file.filename}, line {line}", rest) if part)
        return Problem(
            400,
            f"{param}: {where}: {error.violations[0].message}",
            param=param,
            code=error.violations[0].reason or "invalid_training_file",
        )


def _key(owner: str, file: StoredFile, model: str, options: Mapping[str, object]) -> str:
    # The content counts, too: an Idempotency-Key gives its id to another file once the first was deleted or expired.
    text = json.dumps([owner, file.id, file.sha256, model, options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
