from __future__ import annotations

from pathlib import Path

import pytest

from services.preprocess.datasets.worker.checks import check_hub, check_models
from services.preprocess.domain.doctor_check import Check, from_answer
from services.preprocess.settings import ApiSettings
from tests.support.api_calls import MODEL, write_model
from turnloom.masks.model import load_model

ANY = {"tokenizer_sha256": "", "template_sha256": ""}


@pytest.fixture
def settings(tmp_path: Path) -> ApiSettings:
    """A worker whose models.toml names one prepared model."""
    source = write_model(tmp_path / "source")
    models = tmp_path / "models.toml"
    models.write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{source}"\n')
    return ApiSettings(models=models, model_cache=tmp_path / "cache")


def test_a_tokenizer_or_template_that_is_not_the_apis_is_named_with_both_hashes(settings: ApiSettings) -> None:
    model = load_model(settings.models.parent / "source", MODEL)
    same = {"tokenizer_sha256": model.tokenizer_sha256, "template_sha256": model.template_sha256}
    assert check_models(settings, {MODEL: same}).outcome == "ok"
    for what in ("tokenizer", "template"):
        found = check_models(settings, {MODEL: same | {f"{what}_sha256": "f" * 64}})
        here = same[f"{what}_sha256"][:12]
        assert found.outcome == "failed"
        assert found.message == f"The {what} of {MODEL} is {here} on the preprocess worker, ffffffffffff at the API."


def test_a_model_that_is_not_prepared_yet_is_no_fault_and_is_not_prepared_for_the_doctor(settings: ApiSettings) -> None:
    (settings.models.parent / "source" / "manifest.json").unlink()
    found = check_models(settings, {MODEL: ANY})
    assert found.outcome == "ok"
    assert found.message == f"Not prepared on the preprocess worker yet: {MODEL}; the first dataset does it."
    assert not settings.model_cache.exists()


def test_a_models_file_that_is_missing_or_lacks_a_model_fails_with_what_to_do(tmp_path: Path) -> None:
    found = check_models(ApiSettings(models=tmp_path / "none.toml"), {MODEL: ANY})
    assert found.outcome == "failed"
    assert "none.toml" in found.message
    assert "same models.toml" in found.hint


@pytest.mark.parametrize(
    ("environment", "outcome", "sentence"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "skipped", "The hub is switched off"),
        ({"HF_DATASETS_OFFLINE": "TRUE"}, "skipped", "The hub is switched off"),
        (
            {"HF_ENDPOINT": "mirror.example"},
            "failed",
            "HF_ENDPOINT: mirror.example can't be used; give an http or https URL.",
        ),
        ({"HF_ENDPOINT": "http://127.0.0.1:1/"}, "warning", "http://127.0.0.1:1 (HF_ENDPOINT) can't be reached: "),
    ],
)
def test_the_hub_is_judged_by_the_workers_own_variables(
    environment: dict[str, str], outcome: str, sentence: str
) -> None:
    found = check_hub(environment)
    assert found.outcome == outcome
    assert found.message.startswith(sentence)
    assert found.hint


def test_what_a_worker_answers_is_read_with_care() -> None:
    sound = {"name": "hub", "outcome": "ok", "message": "yes", "hint": "", "host": "h", "more": 1}
    assert from_answer({"checks": [sound, "nonsense"]}, "asked") == [Check("hub", "ok", "yes", "", "h")]
    assert from_answer({"checks": [{"name": "hub"}]}, "asked") == [Check("hub", "", "", "", "asked")]
    assert from_answer(None) == from_answer({}) == []
