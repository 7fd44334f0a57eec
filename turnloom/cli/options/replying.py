"""Options of replies while a job trains, and the file of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from turnloom.cli.options.groups import LARGEST
from turnloom.errors import InvalidInput
from turnloom.v1 import types_pb2
from turnloom.wire.conversations import from_json


class ReplyFields(TypedDict, total=False):
    """Fields of a job that ask for replies."""

    sample_prompts: Sequence[types_pb2.Conversation]
    sample_every: int
    sample_max_tokens: int


@dataclass(frozen=True, slots=True)
class Replying:
    """Prompts that the adapter answers while it trains."""

    sample_prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts to answer at the end, at most 16: conversations, or .txt with one a line."),
    ] = None
    sample_every: Annotated[int, typer.Option(help="Answer them every so many steps, too.", min=0, max=LARGEST)] = 0
    sample_max_tokens: Annotated[
        int | None, typer.Option(help="Of such a reply, 1 to 512. Default: 128.", min=1, max=LARGEST)
    ] = None

    def over(self, path: str, every: int, max_tokens: int) -> Replying:
        """Return these options over those of a job file; empty and 0: the file has none."""
        return Replying(
            self.sample_prompts or (Path(path) if path else None),
            self.sample_every or every,
            self.sample_max_tokens or max_tokens,
        )

    def fields(self) -> ReplyFields:
        """Return the job's fields, and only those that were given.

        Raises:
            InvalidInput: the file can't be read, or an option says nothing without it.
        """
        if self.sample_prompts is None:
            if self.sample_every or self.sample_max_tokens:
                raise InvalidInput(
                    "--sample-every and --sample-max-tokens say nothing without --sample-prompts.",
                    hint="Add --sample-prompts FILE.",
                    field="--sample-prompts",
                )
            return {}
        return {
            "sample_prompts": prompts(self.sample_prompts),
            "sample_every": self.sample_every,
            "sample_max_tokens": self.sample_max_tokens or 0,
        }


def prompts(path: Path) -> list[types_pb2.Conversation]:
    """Read prompts: a text file has one a line; of a conversation the replies at its end are left out.

    Raises:
        InvalidInput: the file can't be read, has no prompt, or a conversation has nothing to answer.
    """
    if path.suffix == ".txt":
        try:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InvalidInput(
                f"{path} can't be read: {why}.", hint="Name a text file, one prompt a line.", field="--sample-prompts"
            ) from error
        found = [from_json({"messages": [{"role": "user", "content": line}]}) for line in lines]
    else:
        from turnloom.reading.local_sources import read  # noqa: PLC0415  # brings numpy

        found = [_asking(conversation, f"{path}, conversation {n}") for n, conversation in enumerate(read(path), 1)]
    if not found:
        raise InvalidInput(f"{path}: has no prompt.", hint="Write one a line.", field="--sample-prompts")
    return found


def _asking(conversation: types_pb2.Conversation, place: str) -> types_pb2.Conversation:
    while conversation.messages and conversation.messages[-1].role == "assistant":
        del conversation.messages[-1]
    if not conversation.messages:
        raise InvalidInput(f"{place}: has nothing to answer.", hint="Begin it with a user's message.")
    return conversation
