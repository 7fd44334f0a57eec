"""Secrets come from the environment or from a file, and no sentence about them shows a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.preprocess.settings import read_settings
from services.store.redis_url import redis_url
from services.trainer.settings import companion_from_environment
from services.variables import BadSetting, secret

PASSWORD = "s3cret"
BROKEN = [
    f"redis://:{PASSWORD}/x@host:6379/0",  # a slash ends the host, so the password stands where the port is read
    f"redis://user:{PASSWORD}#x@host:6379/0",
    f"redis://user:{PASSWORD}@host:port/0",
    f"redis://user:{PASSWORD}@[host/0",
    f"redis://user:x@host/0?socket_timeout={PASSWORD}",
    f"http://user:{PASSWORD}@host",
    PASSWORD,
]


@pytest.mark.parametrize("url", BROKEN)
def test_no_service_shows_the_password_of_a_url_that_it_can_not_use(url: str) -> None:
    with pytest.raises(BadSetting) as api:
        read_settings({"TURNLOOM_REDIS_URL": url})
    with pytest.raises(BadSetting) as companion:
        companion_from_environment({"TURNLOOM_REDIS_URL": url})
    for error in (api.value, companion.value):
        assert PASSWORD not in str(error)
        assert str(error).startswith("TURNLOOM_REDIS_URL: ")
        assert "percent-encoded" in str(error)


@pytest.mark.parametrize("url", ["redis://u:p%2Fw@h:1/0", "rediss://h", "unix:///run/redis.sock?db=1"])
def test_a_url_that_redis_understands_is_taken_as_it_is(url: str) -> None:
    assert redis_url(url) == url


def test_a_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "redis_url"
    file.write_text(f"redis://u:{PASSWORD}@h:1/0\n")
    environment = {"TURNLOOM_REDIS_URL_FILE": str(file)}
    assert read_settings(environment).redis_url == f"redis://u:{PASSWORD}@h:1/0"
    assert companion_from_environment(environment).redis_url == f"redis://u:{PASSWORD}@h:1/0"


def test_a_secret_given_twice_or_in_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match=r"^X: is set, and so is X_FILE; set one of them$"):
        secret({"X": PASSWORD, "X_FILE": "f"}, "X")
    missing = tmp_path / "none"
    with pytest.raises(BadSetting, match=r"TURNLOOM_REDIS_URL_FILE: .*none can't be read \(No such file"):
        read_settings({"TURNLOOM_REDIS_URL_FILE": str(missing)})
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(BadSetting, match=r"binary can't be read \(it is no text\)"):
        companion_from_environment({"TURNLOOM_REDIS_URL_FILE": str(tmp_path / "binary")})
