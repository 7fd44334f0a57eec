from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.preprocess.check import Check, from_answer
from services.preprocess.settings import ApiSettings
from services.preprocess.worker_checks import check_hub, check_models
from tests.api_calls import MODEL, write_model

ANY = {"tokenizer_sha256": "", "template_sha256": ""}


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[ApiSettings]:
    """A worker whose models.toml names one model that nothing has prepared."""
    source = write_model(tmp_path / "source")
    models = tmp_path / "models.toml"
    models.write_text(f'[[models]]\nname = "{MODEL}"\nsource = "{source}"\n')
    return ApiSettings(models=models, model_cache=tmp_path / "cache")


def test_a_model_that_is_not_prepared_yet_is_no_fault_and_is_not_prepared_for_the_doctor(settings: ApiSettings) -> None:
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
        ({"HF_ENDPOINT": "mirror.example"}, "failed", "HF_ENDPOINT is mirror.example, which is no http(s) URL."),
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
