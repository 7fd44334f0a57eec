"""All public templates at hand: equal to plain Jinja, exact or refused or warned, never a silent guess."""

import datetime
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from bench.templates import DATE, FOLDER, SHAPES, SPECIAL_TOKENS, Outcome, chat_format, markdown, outcomes
from bench.trajectories import trajectories, with_one_call
from tests.support.long_way import by_the_long_way, told
from tests.support.warm_and_fresh import unseen
from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.domain.errors import PreprocessError, TemplateRefused
from turnloom.masks.domain.options import Options
from turnloom.masks.pipeline import preprocess_batch, ready
from turnloom.masks.replay.fast_path import replayed_views, view_replays
from turnloom.masks.template.compiled import compile_template
from turnloom.masks.template.render import Settings, render_plain
from turnloom.masks.trajectory.path import trajectory_path_of
from turnloom.masks.turns.views import ChatFormat

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no folder of public templates (TURNLOOM_TEMPLATES)"),
]

#: What the engine reached when this was written; it may only get better.
FEWEST_EXACT = 2093
FEWEST_REPLAYED = 6000
#: Templates of which every trajectory was walked.
FEWEST_WALKED = 65
#: Templates that are known to take only text.
FEWEST_ONLY_TEXT = 101
OPTIONS = Options(date=DATE)
LISTED = Path(__file__).parents[3] / "docs" / "masks-exceptions.md"


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


def test_no_warning_quotes_one_text_twice(found: list[Outcome]) -> None:
    quoted = {warning: re.findall(r"'(?:[^'\\]|\\.)*'", warning) for one in found for warning in one.warnings}
    assert [warning for warning, texts in quoted.items() if len(set(texts)) < len(texts)] == []


def test_every_exception_to_the_inference_definition_is_listed_in_the_docs(found: list[Outcome]) -> None:
    assert LISTED.read_text(encoding="utf-8") == markdown(found), "python -m bench.templates --markdown " + LISTED.name


def test_parts_train_what_one_text_does_where_a_template_takes_only_text() -> None:
    only_text = 0
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        if not compile_template(source).takes_only_text:
            continue
        only_text += 1
        for lines in (["Hello."], ["Good", "day."]):
            texts, sent = _chat("\n".join(lines)), _chat([{"type": "text", "text": line} for line in lines])
            fresh, warm = unseen(source), unseen(source)
            (expected,) = map(told, preprocess_batch([Conversation(texts)], OPTIONS, fresh))
            in_parts = [Conversation(sent)] * 3 + [Conversation(texts)]
            assert list(map(told, preprocess_batch(in_parts, OPTIONS, warm))) == [expected] * 4, path.stem
    assert only_text >= FEWEST_ONLY_TEXT


def test_parts_are_left_to_templates_that_read_them() -> None:
    chat = SHAPES["parts"]
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        model = unseen(source)
        if not model.chat_format.template.takes_only_text:
            assert ready(chat, OPTIONS, model).messages is chat.messages, path.stem
        assert ready(chat, replace(OPTIONS, normalize_messages=False), model) is chat, path.stem


def _chat(content: JSON) -> list[Message]:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": content}]


@pytest.mark.slow
def test_replays_give_what_renders_give() -> None:
    texts = ("Hello.", "", "\n\n x ", "<think>\nhm\n</think>\n\nok", "</think>", "<|im_end|>\n[/INST]</s>", "é 🙂")
    chance = random.Random(1)

    def chats() -> Iterator[Conversation]:
        for first, second, reply in product((0, 1), (0, 1), range(len(texts))):
            messages: list[Message] = [
                {"role": "user", "content": chance.choice(texts)},
                {"role": "assistant", "content": texts[reply]},
                {"role": "user", "content": "And?"},
                {"role": "assistant", "content": chance.choice(texts)},
            ]
            if first:
                messages[1]["reasoning_content"] = chance.choice(texts)
            yield Conversation(messages[: 2 + 2 * second])

    replayed = 0
    for path in sorted(FOLDER.glob("*.jinja")):
        template = compile_template(path.read_text(encoding="utf-8"))
        warm, cold = chat_format(template), chat_format(template)
        view_replays(cold, OPTIONS).switch_off()
        conversations, others = list(chats()), list(chats())
        wanted = {id(one): _outcome(one, cold) for one in (*conversations, *others)}
        for conversation in [*conversations, *conversations, *others, *conversations]:
            assert _outcome(conversation, warm) == wanted[id(conversation)], path.stem
        replayed += view_replays(warm, OPTIONS).hits
    assert replayed >= FEWEST_REPLAYED


@pytest.mark.slow
def test_walked_trajectories_give_what_renders_give() -> None:
    walked = 0
    parallel = trajectories(4, seed=8, least=4, most=14)
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for some in (parallel, list(map(with_one_call, parallel))):
            model, reference = unseen(source), unseen(source)
            wanted = by_the_long_way(some, OPTIONS, reference)
            assert list(map(told, preprocess_batch(some, OPTIONS, model))) == wanted, path.stem
        paths = trajectory_path_of(OPTIONS, model)
        walked += paths is not None and paths.hits == len(some)
    assert walked >= FEWEST_WALKED


def _outcome(conversation: Conversation, format_: ChatFormat) -> object:
    try:
        return replayed_views(conversation, OPTIONS, format_)
    except PreprocessError as error:
        return type(error), str(error)


@pytest.mark.slow
def test_the_reference_is_what_transformers_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    date = datetime.date.fromisoformat(DATE)

    class Midnight(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Midnight":
            return cls(date.year, date.month, date.day, tzinfo=tz)

    monkeypatch.setattr(utils, "datetime", Midnight)
    settings = Settings(date, SPECIAL_TOKENS)
    for path in sorted(FOLDER.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        for shape, conversation in SHAPES.items():
            messages, tools = list(conversation.messages), conversation.tools
            try:
                own = render_plain(messages, tools, compile_template(source), settings)
            except TemplateRefused as refusal:
                own = refusal.message.split(": ", 1)[1]
            try:
                ((theirs,), _) = utils.render_jinja_template(
                    [messages], tools=tools, chat_template=source, **SPECIAL_TOKENS
                )
            except Exception as error:  # whatever a template raises
                theirs = str(error) or type(error).__name__
            assert own == theirs, f"{path.stem} {shape}"
