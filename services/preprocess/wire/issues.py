"""Convert errors of single conversations to issues and violations on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from services.preprocess.domain.error_codes import MAX_VIOLATIONS, code_of
from services.preprocess.domain.refusals import InvalidRequest, Violation
from turnloom.masks.domain.errors import MalformedConversation, PreprocessError
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.v1 import types_pb2 as pb


def field_of(error: PreprocessError) -> str:
    """Return the path of the field inside its conversation: "messages[3].content"; empty: the whole of it.

    Without a message the engine's field may be an option (max_length), which lies outside the conversation.
    """
    if error.message_index is None:
        return error.field if isinstance(error, MalformedConversation) else ""
    return f"messages[{error.message_index}]{'.' + error.field if error.field else ''}"


def issue(index: int, identifier: str, error: PreprocessError) -> pb.Issue:
    """Return what is wrong with conversation `index`."""
    return pb.Issue(
        conversation_index=index,
        conversation_id=identifier[:256],
        code=code_of(error),
        message=str(error),
        field=field_of(error),
        message_index=error.message_index,
    )


def issues(
    first_index: int, sent: Sequence[pb.Conversation], results: Sequence[PreprocessedConversation | PreprocessError]
) -> list[pb.Issue]:
    """Return one issue per bad conversation, in order."""
    pairs = enumerate(zip(sent, results, strict=True), start=first_index)
    return [issue(i, item.id, result) for i, (item, result) in pairs if isinstance(result, PreprocessError)]


def warnings(first_index: int, results: Sequence[PreprocessedConversation | PreprocessError]) -> list[pb.Warning]:
    """Return the remarks on good conversations, in order."""
    return [
        pb.Warning(conversation_index=index, message=sentence)
        for index, result in enumerate(results, start=first_index)
        if isinstance(result, PreprocessedConversation)
        for sentence in result.warnings
    ]


def refuse_bad(field: str, results: Iterable[PreprocessedConversation | PreprocessError]) -> None:
    """Raise InvalidRequest naming the bad conversations of an all-or-nothing request, the first one first."""
    bad = [(index, result) for index, result in enumerate(results) if isinstance(result, PreprocessError)]
    if bad:
        raise InvalidRequest([violation(f"{field}[{index}]", error) for index, error in bad[:MAX_VIOLATIONS]])


def violation(place: str, error: PreprocessError) -> Violation:
    """Return the error of the conversation at `place` as a violation; its sentence already begins with the message."""
    inside = field_of(error)
    sentence = str(error).removeprefix(f"{inside}: ")
    return Violation(f"{place}.{inside}" if inside else place, sentence)
