"""Convert rows of a known format to conversations, each independently."""

from __future__ import annotations

from services.preprocess.wire.conversation import conversation
from turnloom.errors import InvalidInput
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import MalformedConversation, PreprocessError
from turnloom.reading.chat_formats import Format
from turnloom.reading.rows import RawRow
from turnloom.reading.selecting import document_of
from turnloom.wire.conversations import from_json


def conversation_of(row: RawRow, shape: Format) -> tuple[Conversation | PreprocessError, int]:
    """Return the conversation, or what is wrong with it, and its size in bytes as a message.

    It is read as if its sender had streamed it.
    """
    document = document_of(row, shape)
    if isinstance(document, InvalidInput):
        return MalformedConversation(_sentence(document)), 0
    try:
        message = from_json(document)
        return conversation(message), message.ByteSize()
    except InvalidInput as error:
        return MalformedConversation(error.message), 0
    except PreprocessError as error:
        return error, 0


def _sentence(error: InvalidInput) -> str:
    return f"{error.field}: {error.message}" if error.field else error.message
