"""Show a preview as coloured text: what is trained, who said it, what was escaped, split or cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text

from turnloom.display.words import not_compared
from turnloom.plural import counted
from turnloom.v1 import preprocess_pb2

BYTES = re.compile(r"(?:\\x[89a-f][0-9a-f])+")  # as the server writes tokens that are parts of characters
VISIBLE = str.maketrans({"\n": "↵", "\t": "→", "\r": "␍"})


def style(weight: float) -> str:
    """Return the colour of a token by its weight."""
    if weight == 0:
        return "dim"
    if weight == 1:
        return "bold green"
    return "bold yellow" if weight < 1 else "bold magenta"


def show(preview: preprocess_pb2.PreviewConversationResponse, console: Console, *, each_token: bool) -> None:
    """Print every example of the conversation, and the legend.

    Args:
        preview: the server's answer.
        console: where to print.
        each_token: one line per token instead of running text.
    """
    brackets = console.color_system is None  # colours don't show in a file
    for example in preview.examples:
        trained = sum(token.weight > 0 for token in example.tokens)
        many = f"Example {example.part + 1} of {len(preview.examples)}: " if len(preview.examples) > 1 else ""
        console.print(Text(f"{many}{counted(len(example.tokens), 'token')}, {trained} trained", style="bold underline"))
        console.print(_rows(example) if each_token else _running(example, brackets=brackets), highlight=False)
        for line in _remarks(example):
            console.print(Text(line, style="yellow"), soft_wrap=True)
        console.print()
    for warning in preview.warnings:
        console.print(Text(f"Note: {warning}", style="yellow"), soft_wrap=True)
    if preview.unchecked_examples:
        console.print(Text(f"Note: {not_compared(preview.unchecked_examples)}", style="yellow"), soft_wrap=True)
    console.print(legend(brackets=brackets), soft_wrap=True)


def legend(*, brackets: bool) -> Text:
    """Return the legend of the colours."""
    text = Text("Trained: ")
    text.append("⟦weight 1⟧" if brackets else "weight 1", style=style(1))
    for label, weight in (("below 1", 0.5), ("above 1", 2.0), ("prompt, not trained", 0.0)):
        text.append("  ").append(label, style=style(weight))
    return text.append("   ↵ is a line break")


def _running(example: preprocess_pb2.PreviewExample, *, brackets: bool) -> Table:
    """Return the text in stretches of one message and kind, a line for each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for _ in range(3):
        table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for (index, role, kind), stretch in _stretches(example.tokens):
        text = Text()
        for weight, same in groupby(stretch, key=lambda token: token.weight):
            piece = _whole("".join(token.text for token in same), example.rendered_text).translate(VISIBLE)
            text.append(f"⟦{piece}⟧" if brackets and weight > 0 else piece, style=style(weight))
        table.add_row(index, role, kind, text)
    return table


def _whole(text: str, rendered: str) -> str:
    """Join characters whose bytes were spread over tokens; text that only looks like bytes stays."""

    def character(found: re.Match[str]) -> str:
        if found[0] in rendered:
            return found[0]
        try:
            return bytes.fromhex(found[0].replace("\\x", "")).decode()
        except UnicodeDecodeError:
            return found[0]

    return BYTES.sub(character, text)


def _stretches(
    tokens: Sequence[preprocess_pb2.PreviewToken],
) -> Iterator[tuple[tuple[str, str, str], list[preprocess_pb2.PreviewToken]]]:
    """Group neighbouring tokens of one message, role and kind; the template's own text has no message."""

    def owner(token: preprocess_pb2.PreviewToken) -> tuple[str, str, str]:
        return str(token.message_index) if token.HasField("message_index") else "", token.role, token.kind

    return ((key, list(stretch)) for key, stretch in groupby(tokens, key=owner))


def _rows(example: preprocess_pb2.PreviewExample) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("position", "id", "weight"):
        table.add_column(heading, justify="right")
    for heading in ("token", "message", "role", "kind"):
        table.add_column(heading)
    for position, token in enumerate(example.tokens):
        table.add_row(
            str(position),
            str(token.id),
            f"{token.weight:g}",
            Text(token.text.translate(VISIBLE), style=style(token.weight)),
            str(token.message_index) if token.HasField("message_index") else "",
            token.role,
            token.kind,
        )
    return table


def _remarks(example: preprocess_pb2.PreviewExample) -> Iterator[str]:
    for escaped in example.escaped:
        yield (
            f"messages[{escaped.message_index}] spells the control token {escaped.text}"
            f" (character {escaped.offset}); it was encoded as ordinary text."
        )
    if example.truncated_tokens:
        yield (
            f"max_length cut {counted(example.truncated_tokens, 'token')} away, {example.truncated_loss_tokens} of them"
            " trained."
        )
