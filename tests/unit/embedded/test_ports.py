"""Ports of servers: ones that the system gives to nobody by itself, as long as it leaves any."""

from __future__ import annotations

from pathlib import Path

import pytest

from turnloom.embedded import ports


def test_a_port_is_one_that_the_system_gives_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "range").write_text("20000\t60999\n")
    monkeypatch.setattr(ports, "RANGE", tmp_path / "range")
    assert all(ports.LOWEST <= ports.free_port() < 20_000 for _ in range(50))


@pytest.mark.parametrize("least", [1024, ports.LOWEST + 1])
def test_where_the_system_leaves_none_it_chooses_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    (tmp_path / "range").write_text(f"{least}\t65535\n")
    monkeypatch.setattr(ports, "RANGE", tmp_path / "range")
    real = ports._bound

    def taken(port: int) -> int:
        if port == ports.LOWEST:
            raise OSError("Address already in use")
        return real(port)

    monkeypatch.setattr(ports, "_bound", taken)
    assert ports.free_port() > 0
