"""Every reported bug, tried on Turnloom."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.graveyard.case import Case
from tests.graveyard.engine import is_shared, lacks, outcome
from tests.graveyard.kinds import CASES
from tests.graveyard.page import PAGE, page
from tests.graveyard.verdicts import complaint


def marks(case: Case) -> list[pytest.MarkDecorator]:
    """What pytest is told of a case."""
    found = [pytest.mark.shared] if is_shared(case) else []
    return (
        [*found, pytest.mark.xfail(reason=case.wrong_today, raises=AssertionError, strict=True)]
        if case.wrong_today
        else found
    )


@pytest.mark.parametrize("case", [pytest.param(case, id=case.report, marks=marks(case)) for case in CASES])
def test_what_was_reported_elsewhere_is_right_here(case: Case, tmp_path: Path) -> None:
    missing = lacks(case)
    if missing:
        pytest.skip(missing)
    wrong = complaint(case.expect, outcome(case, tmp_path), case)
    assert not wrong, wrong


def test_every_report_stands_once_and_has_a_number() -> None:
    reports = [report for case in CASES for report in (case.report, *case.also)]
    assert [report for report, count in Counter(reports).items() if count > 1] == []
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", report) for report in reports)
    assert len(CASES) >= 60


def test_the_page_says_what_the_cases_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it anew: python -m tests.graveyard"
