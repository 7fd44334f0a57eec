"""Limits have the defaults that docs/security.md gives, and a value that means nothing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.preprocess.settings import read_settings
from services.variables import BadSetting

PAGE = Path(__file__).parents[4] / "docs" / "security.md"


def test_defaults_are_those_of_the_page() -> None:
    settings = read_settings({})
    page = PAGE.read_text()
    assert (settings.tokens, settings.tls_cert, settings.tls_key, settings.tls_client_ca) == (None, None, None, None)
    for setting, shown in (
        ("TURNLOOM_MAX_CALLS", f"| {settings.max_calls} |"),
        ("TURNLOOM_THREADS", f"| {settings.threads} |"),
        ("TURNLOOM_RATE", f"| {settings.rate:.0f}, ten seconds' worth"),
        ("TURNLOOM_MAX_DATASET_CONVERSATIONS", f"| {settings.max_dataset_conversations:,} |"),
        ("TURNLOOM_MAX_DATASET_BYTES", f"| {settings.max_dataset_bytes // 2**30} GiB |"),
        ("TURNLOOM_IDLE_SECONDS", f"| {settings.idle_seconds:g} s |"),
    ):
        assert any(setting in line and shown in line for line in page.splitlines()), setting


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("MAX_CALLS", "3", "a number from 4 to 10000"),
        ("RATE", "-1", "a number of conversations a second, 0 for no limit"),
        ("RATE", "nan", "a number of conversations a second, 0 for no limit"),
        ("RATE", "inf", "a number of conversations a second, 0 for no limit"),
        ("MAX_DATASET_CONVERSATIONS", "4294967296", "a number from 1 to 4294967295"),
        ("MAX_DATASET_BYTES", "0", "a number of bytes, 1 or more"),
    ],
)
def test_a_limit_that_means_nothing_is_named(name: str, value: str, needed: str) -> None:
    with pytest.raises(BadSetting) as caught:
        read_settings({f"TURNLOOM_{name}": value})
    assert str(caught.value) == f"TURNLOOM_{name}: '{value}' can't be used; give {needed}"


def test_files_are_taken_as_paths() -> None:
    settings = read_settings({"TURNLOOM_TOKENS": "t.json", "TURNLOOM_TLS_CLIENT_CA": "ca.pem"})
    assert (settings.tokens, settings.tls_client_ca) == (Path("t.json"), Path("ca.pem"))
