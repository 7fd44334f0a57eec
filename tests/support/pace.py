"""Give Hypothesis all the time that it takes: an example that waits for a core is no slow one."""

from __future__ import annotations

from hypothesis import HealthCheck, settings


def any_pace() -> None:
    """Set it for every test of this process."""
    settings.register_profile("any pace", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any pace")
