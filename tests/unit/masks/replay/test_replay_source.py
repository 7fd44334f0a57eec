"""The generated replay that the fast path's documentation shows is the one that is generated."""

from __future__ import annotations

import doctest

from turnloom.masks.replay import fast_path


def test_the_replay_that_is_shown_is_the_one_that_is_made() -> None:
    found = doctest.testmod(fast_path)
    assert found.attempted > 0
    assert found.failed == 0
