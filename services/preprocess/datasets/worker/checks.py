"""Checks that only the preprocess worker can make: its models are the API's, and the hub answers."""

from __future__ import annotations

import concurrent.futures
import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Final

from services.preprocess.domain.doctor_check import Check
from services.preprocess.models.registry import BadModels, prepared_folder, read_models
from services.preprocess.settings import ApiSettings
from turnloom.errors import why
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.model import load_model

HUB: Final = "https://huggingface.co"  #: where nothing else is named
HUB_SECONDS: Final = 5.0  #: for its first answer, name resolution included
SAME_MODELS: Final = "Give the API and its workers the same models.toml, and prepare each model once."
MIRROR: Final = "Set HF_ENDPOINT of the preprocess worker to a mirror, or make datasets of files."
TRUE: Final = ("1", "true", "yes", "on")  #: as the hub's own library reads flags


def examine(
    settings: ApiSettings, environment: Mapping[str, str], models: Mapping[str, Mapping[str, str]]
) -> Iterator[Check]:
    """Run all checks in order.

    Args:
        settings: of this worker.
        environment: of this worker.
        models: tokenizer_sha256 and template_sha256 at the API, by name.
    """
    yield check_models(settings, models)
    yield check_hub(environment)


def check_models(settings: ApiSettings, models: Mapping[str, Mapping[str, str]]) -> Check:
    """Check that this worker would tokenize as the API does.

    Models that have not been prepared here are not loaded.
    """
    name = "worker_models"
    try:
        entries = {entry.name: entry for entry in read_models(settings.models)}
        missing = sorted(models.keys() - entries.keys())
        if missing:
            return Check(name, "failed", f"The preprocess worker lacks {', '.join(missing)}.", SAME_MODELS)
        later = []
        for model, wanted in models.items():
            folder = prepared_folder(entries[model], settings.model_cache)
            if folder is None:
                later.append(model)
                continue
            found = load_model(folder, model)
            for what, here in (("tokenizer", found.tokenizer_sha256), ("template", found.template_sha256)):
                if here != wanted.get(f"{what}_sha256"):
                    there = str(wanted.get(f"{what}_sha256"))
                    sentence = (
                        f"The {what} of {model} is {here[:12]} on the preprocess worker, {there[:12]} at the API."
                    )
                    return Check(name, "failed", sentence, SAME_MODELS)
    except (BadModels, PreprocessError, OSError) as error:
        sentence = f"The preprocess worker can't load its models: {why(error, place=True)}"
        return Check(name, "failed", sentence, SAME_MODELS)
    if later:
        sentence = f"Not prepared on the preprocess worker yet: {', '.join(later)}; the first dataset does it."
        return Check(name, "ok", sentence)
    return Check(name, "ok", "Tokenizers and templates of the preprocess worker are those of the API.")


def check_hub(environment: Mapping[str, str]) -> Check:
    """Check that the hub, or the mirror that HF_ENDPOINT names, answers this worker. Any status is an answer."""
    endpoint = (environment.get("HF_ENDPOINT") or HUB).rstrip("/")
    named = "HF_ENDPOINT" if environment.get("HF_ENDPOINT") else "the default"
    token = "HF_TOKEN is set" if environment.get("HF_TOKEN") else "without HF_TOKEN, public datasets only"
    if any(environment.get(flag, "").lower() in TRUE for flag in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")):
        hint = "Unset HF_HUB_OFFLINE to fetch others."
        return Check("hub", "skipped", "The hub is switched off; only datasets that were fetched before load.", hint)
    if urllib.parse.urlsplit(endpoint).scheme not in ("http", "https"):
        return Check("hub", "failed", f"HF_ENDPOINT: {endpoint} can't be used; give an http or https URL.", MIRROR)
    pool = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="hub")
    try:
        pool.submit(_asked, endpoint).result(HUB_SECONDS + 1)
    except (OSError, concurrent.futures.TimeoutError, http.client.HTTPException) as error:
        said = why(error) if str(error) else "no answer in time"
        return Check("hub", "warning", f"{endpoint} ({named}) can't be reached: {said}.", MIRROR)
    finally:
        pool.shutdown(wait=False)  # a name that does not resolve may hang for longer
    return Check("hub", "ok", f"{endpoint} ({named}) answers; {token}.")


def _asked(endpoint: str) -> None:
    request = urllib.request.Request(f"{endpoint}/", method="HEAD")  # noqa: S310  # the scheme was checked
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):  # noqa: S310
            pass
    except urllib.error.HTTPError:
        pass  # it answered
