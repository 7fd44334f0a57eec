from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.small_tokenizers import chatml
from turnloom.masks.domain.conversation import Conversation, Training
from turnloom.masks.domain.errors import InvalidTraining
from turnloom.masks.domain.options import Options, PartWeights, TrainOn, TrainOnEot
from turnloom.masks.domain.rendered_text import Kind, Part, View, WeightSpan
from turnloom.masks.rows.weights import plan_weights, weight_spans

ROLES = ("system", "user", "assistant", "tool", "assistant", "user", "assistant")


def conversation(training: tuple[Training, ...] = (), roles: tuple[str, ...] = ROLES) -> Conversation:
    return Conversation([{"role": role, "content": f"m{index}"} for index, role in enumerate(roles)], training=training)


def spans_of(options: Options, training: tuple[Training, ...] = (), view: View | None = None) -> list[WeightSpan]:
    plan = plan_weights(conversation(training), options)
    shown = view or chatml([(role, f"m{index}") for index, role in enumerate(ROLES)], trained=range(len(ROLES)))
    return weight_spans(shown, plan, options)


def texts_of(options: Options, training: tuple[Training, ...] = ()) -> list[str]:
    whole = chatml([(role, f"m{index}") for index, role in enumerate(ROLES)]).rendered.text
    return [whole[start:end] for start, end, _ in spans_of(options, training)]


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (TrainOn.ALL_ASSISTANT_MESSAGES, [2, 4, 6]),
        (TrainOn.LAST_ASSISTANT_MESSAGE, [6]),
        (TrainOn.LAST_ASSISTANT_TURN, [6]),
        (TrainOn.ALL_MESSAGES, [0, 1, 2, 3, 4, 5, 6]),
        (TrainOn.ALL_TOKENS, [0, 1, 2, 3, 4, 5, 6]),
        (TrainOn.ALL_USER_AND_SYSTEM_MESSAGES, [0, 1, 5]),
        (TrainOn.CUSTOMIZED, [1, 4]),
    ],
)
def test_each_policy_chooses_its_messages(policy: TrainOn, chosen: list[int]) -> None:
    training = tuple(Training(trainable=True if index in {1, 4} else None) for index in range(7))
    assert sorted(plan_weights(conversation(training), Options(train_on=policy)).chosen) == chosen


@pytest.mark.parametrize("policy", [policy for policy in TrainOn if policy is not TrainOn.ALL_TOKENS])
def test_no_policy_chooses_a_message_that_its_sender_forbids(policy: TrainOn) -> None:
    training = tuple(Training(trainable=index not in {2, 6}) for index in range(7))
    assert not {2, 6} & plan_weights(conversation(training), Options(train_on=policy)).chosen


def test_a_forbidden_message_and_all_tokens_exclude_each_other() -> None:
    training = tuple(Training(trainable=index != 2) for index in range(7))
    with pytest.raises(InvalidTraining, match=r"^messages\[2\]\.trainable: is false, but train_on=all_tokens"):
        plan_weights(conversation(training), Options(train_on=TrainOn.ALL_TOKENS))


def test_the_last_turn_holds_its_tool_steps_and_ignores_what_the_user_says_after_it() -> None:
    plan = plan_weights(conversation(roles=ROLES[:6]), Options(train_on=TrainOn.LAST_ASSISTANT_TURN))
    assert sorted(plan.chosen) == [2, 4]
    assert plan.last == 4


def test_a_turn_runs_up_to_and_including_its_end_token() -> None:
    assert texts_of(Options()) == ["m2<|im_end|>", "m4<|im_end|>", "m6<|im_end|>"]


def test_include_trailing_whitespace_trains_what_follows_the_end_token() -> None:
    options = Options(train_on=TrainOn.LAST_ASSISTANT_MESSAGE, include_trailing_whitespace=True)
    assert texts_of(options) == ["m6<|im_end|>\n"]


def test_train_on_eot_last_and_none() -> None:
    assert texts_of(Options(train_on_eot=TrainOnEot.LAST)) == ["m2", "m4", "m6<|im_end|>"]
    assert texts_of(Options(train_on_eot=TrainOnEot.NONE)) == ["m2", "m4", "m6"]


def test_message_weights_multiply_and_zero_leaves_a_message_out() -> None:
    training = tuple(Training(weight=weight) for weight in (None, None, 0.0, None, 0.5, None, None))
    assert [weight for _, _, weight in spans_of(Options(), training)] == [0.5, 1.0]


def test_part_weights_multiply_inside_assistant_turns() -> None:
    view = chatml([("user", "q"), ("assistant", "hm yes f()")])
    span = view.message_spans[1]
    edges = [
        span.start,
        span.start + 2,
        span.start + 3,
        span.start + 6,
        span.eot_start,
        span.end,
    ]
    kinds = [Kind.REASONING, Kind.SCAFFOLD, Kind.CONTENT, Kind.TOOL_CALL, Kind.EOT]
    parts = tuple(Part(edges[i], edges[i + 1], kind) for i, kind in enumerate(kinds))
    view = replace(view, message_spans=(view.message_spans[0], span._replace(parts=parts)))
    options = Options(part_weights=PartWeights(reasoning=0.0, content=0.5, tool_call=2.0))
    plan = plan_weights(conversation(roles=("user", "assistant")), options)
    whole = view.rendered.text
    found = [(whole[start:end], weight) for start, end, weight in weight_spans(view, plan, options)]
    assert found == [(" ", 1.0), ("yes", 0.5), (" f()", 2.0), ("<|im_end|>", 1.0)]


def test_neighbours_of_one_weight_are_one_span() -> None:
    assert len(spans_of(Options(train_on=TrainOn.ALL_TOKENS))) == 1


def test_all_tokens_with_a_message_weight_keeps_the_rest() -> None:
    training = tuple(Training(weight=0.0 if index == 2 else None) for index in range(7))
    first, second = texts_of(Options(train_on=TrainOn.ALL_TOKENS), training)
    assert first.endswith("<|im_start|>assistant\n")
    assert second.startswith("\n<|im_start|>tool\n")


def test_a_message_trained_in_another_view_weighs_nothing_here() -> None:
    view = chatml([(role, f"m{index}") for index, role in enumerate(ROLES)], trained=[6])
    ((start, _, _),) = spans_of(Options(), view=view)
    assert start == view.message_spans[6].start


def test_training_of_another_length_is_refused() -> None:
    with pytest.raises(InvalidTraining, match="training is 1 long, for 7 messages; give one per message, or none"):
        plan_weights(conversation((Training(),)), Options())


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), 1e300])
def test_impossible_weights_are_refused_by_message(weight: float) -> None:
    training = tuple(Training(weight=weight if index == 3 else None) for index in range(7))
    with pytest.raises(InvalidTraining, match=r"^messages\[3\]\.weight: is .*; give a finite number from 0 to 3.4e38"):
        plan_weights(conversation(training), Options())


@pytest.mark.parametrize(
    ("weight", "factor", "said"),
    [(3e38, 2.0, "too large"), (1e-40, 1e-10, "too small")],
)
def test_a_weight_that_no_row_can_hold_once_it_is_multiplied_is_refused(
    weight: float, factor: float, said: str
) -> None:
    options = Options(part_weights=PartWeights(content=factor))
    training = tuple(Training(weight=weight if index == 4 else None) for index in range(7))
    with pytest.raises(
        InvalidTraining, match=rf"^messages\[4\]\.weight: is .*, and with part_weights\.content .* {said}"
    ):
        plan_weights(conversation(training), options)
    users = tuple(Training(weight=weight if index == 5 else None) for index in range(7))
    plan_weights(conversation(users), options)  # a user's message has no parts
    nothing = tuple(Training(weight=0.0 if index == 4 else None) for index in range(7))
    plan_weights(conversation(nothing), options)
