"""What can be wrong with a conversation, its template or a model: one sentence a class. Imports no protocol.

PreprocessError
├── EmptyConversation
├── MalformedConversation
├── UnknownRole
├── NoAssistantTurn
├── UnsupportedContent
├── TemplateError
│   ├── TemplateRefused
│   └── TemplateLimit
├── LayoutError
│   ├── UnlocatableTurn
│   ├── Interleaved
│   ├── ContentNotCovered
│   └── HistoryDropped
├── TokenizingError
│   ├── ControlTokenRejected
│   ├── TooLong
│   ├── NothingToTrain
│   ├── RoundTripFailed
│   └── InvalidTraining
├── InvalidOption
└── ModelNotUsable
"""

from __future__ import annotations


class PreprocessError(Exception):
    """A conversation that can't become an example."""

    def __init__(self, message: str, *, message_index: int | None = None, field: str = "") -> None:
        """Keep the sentence and its place.

        Args:
            message: one sentence: what, where, the value or limit, and what to do.
            message_index: position in the conversation, None where no single message is at fault.
            field: key inside the message, or the option, that is at fault.
        """
        place = "" if message_index is None else f"messages[{message_index}]{'.' + field if field else ''}: "
        super().__init__(place + message)
        self.message = place + message
        self.message_index = message_index
        self.field = field

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the sentence with its place; workers send refusals to each other."""
        return _unpickled, (type(self), self.message, self.message_index, self.field)


def _unpickled(kind: type[PreprocessError], message: str, message_index: int | None, field: str) -> PreprocessError:
    error = kind(message)
    error.message_index, error.field = message_index, field
    return error


class EmptyConversation(PreprocessError):
    """There are no messages."""


class MalformedConversation(PreprocessError):
    """One conversation can't be read: bad JSON in a field, or a weight that is not a number. Others may be fine."""


class UnknownRole(PreprocessError):
    """A role that is not a plain word, or that the template silently drops."""


class NoAssistantTurn(PreprocessError):
    """No message of the conversation can be trained."""


class UnsupportedContent(PreprocessError):
    """Content that is not text: images, audio, or a type chat templates do not read."""


class TemplateError(PreprocessError):
    """The chat template can't be compiled or does something that can't be followed."""


class TemplateRefused(TemplateError):
    """The template itself raised on this conversation; its own words are in the message."""


class TemplateLimit(TemplateError):
    """A client's template used more time, memory or output than the sandbox allows."""


class LayoutError(PreprocessError):
    """The text was rendered, but which characters the model would emit can't be proved."""


class UnlocatableTurn(LayoutError):
    """The start or the end of a turn can't be determined."""


class Interleaved(LayoutError):
    """The template mixes the text of two messages."""


class ContentNotCovered(LayoutError):
    """The template leaves out or rewrites text that was to be trained."""


class HistoryDropped(LayoutError):
    """Earlier turns are not rendered as they were sampled, and the options forbid what would be needed."""


class TokenizingError(PreprocessError):
    """The text was rendered and laid out, but no training row can be made of it."""


class ControlTokenRejected(TokenizingError):
    """Text of a message spells a control token, and the options forbid it."""


class TooLong(TokenizingError):
    """An example is longer than max_length, and the options forbid cutting it."""


class NothingToTrain(TokenizingError):
    """No token of the conversation would carry weight."""


class RoundTripFailed(TokenizingError):
    """The token ids do not decode to the rendered text."""


class InvalidTraining(TokenizingError):
    """What the sender said about training a message is impossible: its weight, or how many entries there are."""


class InvalidOption(PreprocessError):
    """An option has a meaningless value, or one that other options forbid."""


class ModelNotUsable(PreprocessError):
    """A prepared model folder is incomplete, was changed, or holds a tokenizer that can't be used exactly."""
