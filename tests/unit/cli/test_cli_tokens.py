from __future__ import annotations

import io

from rich.console import Console

from turnloom.cli.tokens import show
from turnloom.v1.preprocess_pb2 import EscapedControlToken, PreviewConversationResponse, PreviewExample, PreviewToken


def token(text: str, weight: float, index: int | None, role: str, kind: str) -> PreviewToken:
    return PreviewToken(id=7, text=text, weight=weight, message_index=index, role=role, kind=kind)


EXAMPLE = PreviewExample(
    tokens=[
        token("<|user|>", 0, None, "", "header"),
        token("hi [bold]x[/]\n", 0, 0, "user", "content"),
        token("good", 1, 1, "assistant", "content"),
        token(" day", 0.5, 1, "assistant", "content"),
        token("<|end|>", 1, 1, "assistant", "eot"),
    ],
    escaped=[EscapedControlToken(message_index=0, offset=3, text="<|end|>")],
    truncated_tokens=4,
    truncated_loss_tokens=2,
)


def shown(*examples: PreviewExample, each_token: bool = False, colour: bool = False) -> str:
    screen = Console(file=io.StringIO(), width=120, force_terminal=colour, color_system="standard" if colour else None)
    show(
        PreviewConversationResponse(examples=examples, warnings=["the date is today's"]), screen, each_token=each_token
    )
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_a_line_for_each_stretch_with_the_trained_tokens_between_brackets() -> None:
    lines = [line.split() for line in shown(EXAMPLE).splitlines()]
    assert ["5", "tokens,", "3", "trained"] in lines
    assert ["header", "<|user|>"] in lines
    assert ["0", "user", "content", "hi", "[bold]x[/]↵"] in lines
    assert ["1", "assistant", "content", "⟦good⟧⟦", "day⟧"] in lines
    assert ["1", "assistant", "eot", "⟦<|end|>⟧"] in lines


def test_in_a_terminal_weights_are_colours_and_brackets_are_not_needed() -> None:
    out = shown(EXAMPLE, colour=True)
    assert "\x1b[1;32mgood" in out
    assert "\x1b[1;33m day" in out
    assert "⟦" not in out


def test_escaped_tokens_cuts_and_warnings_are_said() -> None:
    out = shown(EXAMPLE)
    assert "messages[0] spells the control token <|end|> (character 3); it was encoded as ordinary text." in out
    assert "max_length cut 4 tokens away, 2 of them trained." in out
    assert "Note: the date is today's" in out


def test_examples_of_a_split_are_numbered() -> None:
    out = shown(EXAMPLE, PreviewExample(part=1, tokens=EXAMPLE.tokens[:2]))
    assert "Example 1 of 2: 5 tokens, 3 trained" in out
    assert "Example 2 of 2: 2 tokens, 0 trained" in out


def test_tokens_one_by_one_show_position_id_and_weight() -> None:
    lines = [line.split() for line in shown(EXAMPLE, each_token=True).splitlines()]
    assert ["3", "7", "0.5", "day", "1", "assistant", "content"] in lines


def test_a_character_that_several_tokens_share_is_shown_whole_and_what_a_message_spells_stays() -> None:
    shared = [token(piece, 1, 1, "assistant", "content") for piece in ("gr\\xc3", "\\xbc", "n \\xe4\\xb8")]
    assert "⟦grün \\xe4\\xb8⟧" in shown(PreviewExample(rendered_text="grün 世", tokens=shared))
    assert "⟦gr\\xc3\\xbcn" in shown(PreviewExample(rendered_text="gr\\xc3\\xbcn", tokens=shared))
    assert "\\xc3" in shown(PreviewExample(rendered_text="grün", tokens=shared), each_token=True)
