"""All public templates at hand: equal to plain Jinja, exact or refused or warned, never a silent guess."""

from pathlib import Path

import pytest

from bench.templates import FOLDER, SHAPES, Outcome, markdown, outcomes

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no folder of public templates (TURNLOOM_TEMPLATES)"),
]

#: What the engine reached when this was written; it may only get better.
FEWEST_EXACT = 1790
LISTED = Path(__file__).parents[2] / "docs" / "masks-exceptions.md"


@pytest.fixture(scope="module")
def found() -> list[Outcome]:
    return list(outcomes())


def test_every_render_and_every_refusal_equals_plain_jinja(found: list[Outcome]) -> None:
    assert [one for one in found if one.verdict.startswith("different")] == []


def test_no_turn_is_guessed_in_silence(found: list[Outcome]) -> None:
    assert [one for one in found if one.verdict == "silent"] == []


def test_at_least_as_many_are_exact_as_before(found: list[Outcome]) -> None:
    assert len(found) == len({one.template for one in found}) * len(SHAPES)
    assert sum(one.verdict == "exact" for one in found) >= FEWEST_EXACT


def test_every_exception_to_the_inference_definition_is_listed_in_the_docs(found: list[Outcome]) -> None:
    assert LISTED.read_text(encoding="utf-8") == markdown(found), "python -m bench.templates --markdown " + LISTED.name
