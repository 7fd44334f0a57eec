from __future__ import annotations

from dataclasses import replace

from tests.support.small_tokenizers import chatml, rendered
from turnloom.masks.domain.rendered_text import Kind, MessageSpan, Origin, Part, View
from turnloom.masks.rows.final_stop import with_final_stop


def open_ended(tail: str = "\n") -> View:
    text = rendered("<|user|>", ("hi", 0, "content"), "<|assistant|>", ("yes", 1, "content"), *([tail] if tail else []))
    start = len("<|user|>hi<|assistant|>")
    span = MessageSpan(
        1, "assistant", start, start + 3, start + 3, start + 3, "by hand", (Part(start, start + 3, Kind.CONTENT),)
    )
    return View(text, (span,), frozenset({1}), 2)


def test_an_open_last_turn_gets_the_stop_token_in_place_of_trailing_white_space() -> None:
    view = with_final_stop(open_ended(), "</s>")
    span = view.message_spans[-1]
    assert view.rendered.text == "<|user|>hi<|assistant|>yes</s>"
    assert view.rendered.text[span.start : span.end] == "yes</s>"
    assert view.rendered.text[span.eot_start : span.end] == "</s>"
    assert span.parts[-1].kind is Kind.EOT
    assert view.rendered.runs[-2:] == ((3, Origin(1, "content")), (4, None))
    assert sum(length for length, _ in view.rendered.runs) == len(view.rendered.text)


def test_a_closed_turn_is_left_as_it_is() -> None:
    view = chatml([("user", "hi"), ("assistant", "yes")])
    assert with_final_stop(view, "</s>") is view


def test_a_turn_that_more_text_follows_is_left_as_it_is() -> None:
    view = open_ended("<|user|>")
    assert with_final_stop(view, "</s>") is view


def test_a_last_turn_of_a_user_is_left_as_it_is() -> None:
    view = open_ended()
    users = replace(view, message_spans=(view.message_spans[0]._replace(role="user"),))
    assert with_final_stop(users, "</s>") is users
    assert with_final_stop(replace(view, message_spans=()), "</s>").rendered is view.rendered
