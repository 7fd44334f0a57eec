"""The container's own question to the API, with and without TLS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.api_calls import Start
from tests.support.certificates import authority, signed

HEALTH = Path(__file__).parents[2] / "deploy/docker/health.py"
SERVICE = "turnloom.v1.PreprocessService"


def ask(address: str, **environment: object) -> subprocess.CompletedProcess[str]:
    names = {name: str(value) for name, value in environment.items()}
    return subprocess.run(
        [sys.executable, HEALTH, "grpc", address, SERVICE],
        env={**os.environ, **names},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("tls", [False, True])
def test_the_health_check_of_a_container_follows_the_server_into_tls(
    start_api: Start, tmp_path: Path, tls: bool
) -> None:
    pair = signed(tmp_path, "server", authority(tmp_path, "ca"), "192.0.2.7")  # a name that the container lacks
    files = {"tls_cert": pair.certificate, "tls_key": pair.key} if tls else {}
    api = start_api(**files)
    environment = {"TURNLOOM_TLS_CERT": pair.certificate} if tls else {}
    assert ask(api.address, **environment).returncode == 0
    if tls:
        assert ask(api.address).returncode != 0
        other = signed(tmp_path, "other", authority(tmp_path, "ca2"))
        assert "certificate verify failed" in ask(api.address, TURNLOOM_TLS_CERT=other.certificate).stderr
