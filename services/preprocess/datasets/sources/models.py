"""The model that a dataset was requested with, as this worker has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from services.preprocess.domain.source_errors import ModelDiffers
from services.preprocess.models.held import HELD
from services.preprocess.models.registry import read_models
from services.preprocess.settings import ApiSettings
from services.preprocess.wire.options import options, options_from_json
from services.store.records import DatasetRecord
from turnloom.masks.domain.options import Options
from turnloom.masks.model import Model
from turnloom.masks.sandbox.pool import Sandbox


def options_of(record: DatasetRecord) -> Options:
    """Return the options in the record, including the date that the API filled in."""
    return options(options_from_json(json.loads(record.options_json)))


@contextmanager
def model_of(record: DatasetRecord, settings: ApiSettings) -> Iterator[Model]:
    """Yield the model, with a sandbox where the client sent a template of its own.

    Raises:
        ModelDiffers: models.toml lacks it, or its tokenizer or template is not the API's.
        BadModels, ModelNotUsable: it can't be loaded.
    """
    entries = {entry.name: entry for entry in read_models(settings.models)}
    if record.model not in entries:
        raise ModelDiffers(
            f"{settings.models} of the preprocess worker has no model {record.model!r}.",
            hint="Give API and workers the same models.toml.",
        )
    sandbox = Sandbox() if options_of(record).chat_template is not None else None
    try:
        model = HELD.load(entries[record.model], settings.model_cache, sandbox)
        for what, wanted, found in (
            ("tokenizer", record.tokenizer_sha256, model.tokenizer_sha256),
            ("template", record.template_sha256, model.template_sha256),
        ):
            if wanted != found:
                raise ModelDiffers(
                    f"The {what} of {record.model!r} is {found[:12]} on the worker and {wanted[:12]} at the API.",
                    hint="Prepare the model once, and give API and workers the same folder.",
                )
        yield model
    finally:
        if sandbox is not None:
            sandbox.close()
