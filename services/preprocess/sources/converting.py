"""Rows of a known format as conversations, each by itself. Knows no file and no model."""

from __future__ import annotations

from services.preprocess.conversation import Conversation
from services.preprocess.conversation_wire import conversation
from services.preprocess.errors import PreprocessError
from services.preprocess.refusals import MalformedConversation
from turnloom.conversations import JSON, from_json
from turnloom.errors import InvalidInput
from turnloom.formats import Format
from turnloom.rows import RawRow


def document_of(row: RawRow, shape: Format) -> dict[str, JSON]:
    """The row as {"messages": [...], ...}.

    Raises:
        MalformedConversation: without its place.
    """
    if row.mistake:
        raise MalformedConversation(row.mistake)
    try:
        return shape.document(row.value)
    except InvalidInput as error:
        raise MalformedConversation(_sentence(error)) from error


def conversation_of(row: RawRow, shape: Format) -> Conversation | PreprocessError:
    """The conversation, read as if its sender had streamed it; or what is wrong with it."""
    try:
        return conversation(from_json(document_of(row, shape)))
    except InvalidInput as error:
        return MalformedConversation(error.message)
    except PreprocessError as error:
        return error


def _sentence(error: InvalidInput) -> str:
    return f"{error.field}: {error.message}" if "[" in error.field else error.message
