"""Warm models against fresh ones over random small templates.

`python -m tests.support.warm_and_fresh [--conversations N] [--seed S]` counts differences: there must be none.

Every template sees conversations whose texts hit what it decides by, again and again; every outcome is compared with
that of a model that has seen nothing.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache
from random import Random

from tests.support.chat_templates import CONTROL_TOKENS, SPECIAL_TOKENS
from tests.support.long_way import told
from tests.support.many_templates import Difference, Seen, main
from tests.support.micro_templates import MicroTemplate, micro_conversations
from tests.support.small_tokenizers import families
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.options import OnUnextendable, Options
from turnloom.masks.model import Model, build_model
from turnloom.masks.pipeline import preprocess_batch
from turnloom.masks.replay.fast_path import fast_path_of
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.turns.views import ChatFormat

CHOICES = (
    Options(date="2026-01-02", max_length=None),
    Options(date="2026-01-02", max_length=None, on_unextendable=OnUnextendable.AS_RENDERED),
)


@cache
def _base() -> Model:
    return build_model("micro", families()["byte_level"], "{{ messages[0].content }}", SPECIAL_TOKENS)


def unseen(source: str) -> Model:
    """A model that has seen nothing."""
    return replace(_base(), chat_format=ChatFormat(compile_template(source), SPECIAL_TOKENS, CONTROL_TOKENS))


def put_through(chance: Random, count: int = 16) -> Seen:
    """One template, conversations in random order, each three times."""
    source, options = MicroTemplate(chance).source(), chance.choice(CHOICES)
    warm = unseen(source)
    conversations = micro_conversations(chance, count) * 3
    chance.shuffle(conversations)
    wanted: dict[int, object] = {}
    differences = []
    for conversation in conversations:
        if id(conversation) not in wanted:
            wanted[id(conversation)] = _outcome(conversation, options, unseen(source))
        found = _outcome(conversation, options, warm)
        if found != wanted[id(conversation)]:
            differences.append(Difference(source, conversation, found, wanted[id(conversation)]))
    path = fast_path_of(options, warm)
    hits = path.replays.hits if path is not None and path.replays is not None else 0
    return Seen(source, len(conversations), hits, differences)


def _outcome(conversation: Conversation, options: Options, model: Model) -> object:
    (outcome,) = preprocess_batch([conversation], options, model)
    assert isinstance(outcome, PreprocessedConversation | PreprocessError)
    return told(outcome)


if __name__ == "__main__":
    sys.exit(main(put_through, __doc__, "replay"))
