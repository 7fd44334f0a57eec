"""Which key wins, on the real SDK and a server that looks at it (docs/guide.md: Invalid api_key)."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.trainer.backend import Adapter
from services.trainer.errors import BackendError, Code
from services.trainer.tuft import TuftSettings, connect
from tests.fakes.fake_tuft import FakeTuft

#: A line of the page may break anywhere.
GUIDE = " ".join((Path(__file__).resolve().parents[2] / "docs" / "guide.md").read_text(encoding="utf-8").split())


def adapter(server: FakeTuft) -> Adapter:
    return Adapter(server.model_name, rank=2, train_mlp=True, train_attn=True, train_unembed=True)


def test_the_key_of_the_worker_beats_the_variable_of_the_sdk(
    fake_tuft: FakeTuft, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "`api_key=` beats the variable `TINKER_API_KEY` in 0.18.2 and newer" in GUIDE
    monkeypatch.setenv("TINKER_API_KEY", "tml-of-somebody-else")
    backend = connect(TuftSettings(fake_tuft.url, fake_tuft.api_key, 60, 60), adapter(fake_tuft))
    try:
        assert backend.run_id
    finally:
        backend.close()


def test_a_wrong_key_of_the_worker_is_rejected_though_the_variable_is_right(
    fake_tuft: FakeTuft, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", fake_tuft.api_key)
    with pytest.raises(BackendError) as caught:
        connect(TuftSettings(fake_tuft.url, "tml-wrong", 60, 60), adapter(fake_tuft))
    assert caught.value.code is Code.KEY_REJECTED
    assert "TURNLOOM_TUFT_API_KEY" in caught.value.hint
    assert "tml-wrong" not in str(caught.value)
