"""What was learned of one conversation answers for no other that a template would answer otherwise."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.many_templates import runs
from tests.support.warm_and_fresh import put_through, unseen
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.options import Options
from turnloom.masks.pipeline import preprocess

COUNTING = (
    "{{ messages | selectattr('content', 'equalto', 'x') | list | length }}{% for m in messages %}<|im_start|>"
    "{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_random_templates_answer_a_warm_model_as_a_fresh_one(seed: int) -> None:
    assert put_through(Random(seed), 8).differences == []


@pytest.mark.slow
def test_random_templates_by_the_thousand() -> None:
    seen = list(runs(put_through, 13_000, seed=1))
    assert [one.differences for one in seen if one.differences] == []
    assert sum(one.hits for one in seen) > 500


def chat(*texts: str) -> Conversation:
    return Conversation([{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)])


def test_a_count_of_one_letter_messages_splits_where_it_changes() -> None:
    model = unseen(COUNTING)
    for _ in range(4):
        together = preprocess(chat("y", "a", "y", "b"), Options(), model)
        apart = preprocess(chat("x", "a", "x", "b"), Options(), model)
        assert (len(together.examples), len(apart.examples)) == (1, 2)
