"""The functions that the CPU worker runs for its tickets, in a forked horse. Arguments and results are JSON values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict

from services.preprocess.datasets.worker.checks import examine
from services.preprocess.models.registry import BadModels, load_entry, read_models
from services.preprocess.settings import read_settings


def prepare_model(name: str) -> dict[str, str]:
    """Prepare one model of models.toml into TURNLOOM_MODEL_CACHE, ahead of the API that will serve it.

    Raises:
        BadModels, ModelNotUsable: with the sentence that the API would have logged.
    """
    settings = read_settings(os.environ)  # the horse has its parent's environment
    entries = {entry.name: entry for entry in read_models(settings.models)}
    if name not in entries:
        raise BadModels(f"{settings.models}: has no model {name!r}; name one of {', '.join(entries)}, or add it.")
    model = load_entry(entries[name], settings.model_cache)
    return {
        "name": name,
        "tokenizer_sha256": model.tokenizer_sha256,
        "template_sha256": model.template_sha256,
        "encoder": model.encoder_name,
    }


def diagnose(models: Mapping[str, Mapping[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Run the checks of this worker; `models`: tokenizer_sha256 and template_sha256 at the API, by name."""
    return {"checks": [asdict(check) for check in examine(read_settings(os.environ), os.environ, models)]}
