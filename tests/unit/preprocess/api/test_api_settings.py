"""Settings are read once, and what is wrong is named with its value and what is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.preprocess.settings import ApiSettings, read_settings
from services.variables import BadSetting


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    default = ApiSettings()
    settings = read_settings({"TURNLOOM_ADDRESS": ""})
    assert settings.address == "127.0.0.1:50051"
    assert (settings.metrics_port, settings.threads, settings.reflection) == (9464, 64, False)
    assert settings.store_url == str(Path(default.store_url).resolve())


def test_what_is_set_wins() -> None:
    settings = read_settings(
        {
            "TURNLOOM_ADDRESS": "[::1]:0",
            "TURNLOOM_REDIS_URL": "redis://h:1/2",
            "TURNLOOM_STORE_URL": "s3://bucket/x",
            "TURNLOOM_METRICS_PORT": "-1",
            "TURNLOOM_REFLECTION": "1",
            "TURNLOOM_THREADS": "8",
            "TURNLOOM_DRAIN_SECONDS": "1.5",
            "TURNLOOM_LOG_LEVEL": "WARNING",
        }
    )
    assert settings.address == "[::1]:0"
    assert settings.store_url == "s3://bucket/x"
    assert (settings.metrics_port, settings.reflection, settings.threads) == (-1, True, 8)
    assert (settings.drain_seconds, settings.log_level, settings.max_streams) == (1.5, "warning", 4)


def test_a_store_folder_becomes_absolute_because_workers_run_elsewhere() -> None:
    assert read_settings({"TURNLOOM_STORE_URL": "here"}).store_url == str(Path("here").resolve())


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ADDRESS", "50051", "TURNLOOM_ADDRESS: '50051' can't be used; give HOST:PORT"),
        ("ADDRESS", "h:99999", "TURNLOOM_ADDRESS: 'h:99999' can't be used; give HOST:PORT"),
        (
            "METRICS_PORT",
            "x",
            "TURNLOOM_METRICS_PORT: 'x' can't be used; give a port, 0 (off) or -1 (a free one)",
        ),
        ("REFLECTION", "yes", "TURNLOOM_REFLECTION: 'yes' can't be used; give 0 or 1"),
        ("THREADS", "2", "TURNLOOM_THREADS: '2' can't be used; give a number from 4 to 1000"),
        (
            "DRAIN_SECONDS",
            "nan",
            "TURNLOOM_DRAIN_SECONDS: 'nan' can't be used; give a number of seconds from 0 to 3600",
        ),
        ("LOG_LEVEL", "loud", "TURNLOOM_LOG_LEVEL: 'loud' can't be used; give debug, info, warning or error"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str, sentence: str) -> None:
    with pytest.raises(BadSetting) as caught:
        read_settings({f"TURNLOOM_{name}": value})
    assert str(caught.value) == sentence


def test_a_bad_redis_url_is_refused_without_showing_its_password() -> None:
    with pytest.raises(BadSetting) as caught:
        read_settings({"TURNLOOM_REDIS_URL": "http://user:secret@h"})
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith(
        "TURNLOOM_REDIS_URL: its value can't be used; give redis://USER:PASSWORD@HOST:PORT/DB"
    )
