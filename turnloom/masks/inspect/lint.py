"""Report errors and oddities in conversations before training on them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from turnloom.masks.domain.conversation import JSON, Conversation, Message
from turnloom.masks.domain.errors import (
    HistoryDropped,
    NoAssistantTurn,
    NothingToTrain,
    PreprocessError,
    TooLong,
    UnknownRole,
)
from turnloom.masks.domain.example import PreprocessedConversation
from turnloom.masks.domain.length_statistics import Statistics, Summary
from turnloom.masks.domain.options import ControlTokens, Options
from turnloom.masks.model import Model
from turnloom.masks.pipeline import preprocess_batch, ready
from turnloom.masks.rows.weights import ASSISTANT
from turnloom.masks.template.message_checks import KNOWN_ROLES
from turnloom.plural import counted

#: Every code, what it means and what to do.
EXPLANATIONS: Final[Mapping[str, str]] = {
    "not_trainable": "the conversation can't be preprocessed; the sentence of each offender says why",
    "zero_weight": "no token would carry weight; look at roles, train_on and weights",
    "truncated_answer": "trained tokens are cut away by max_length; raise it, or shorten the conversation",
    "empty_assistant": "an assistant message has neither text nor tool calls; leave it out",
    "empty_user": "a user message has no text, so the reply answers nothing; look at the source's columns",
    "last_not_assistant": "the last message is not the assistant's and teaches nothing; leave it out or add the reply",
    "unknown_role": "the role is none that chat templates know; use system, developer, user, assistant or tool",
    "history_dropped": "the template renders earlier turns differently later on, so it is split into several examples",
    "duplicate": "the same messages occurred before; leave one out, or the copy counts twice",
    "train_test_overlap": "the same messages are in the training and the test set; the test result would be too good",
    "control_tokens_in_content": "text spells a control token, which is encoded as ordinary text unless allowed",
    "content_parts_repr": "text looks like a printed list of content parts; send the parts themselves",
    "template_warning": "the template leaves something out or changes it; the sentence says what, and where",
    "too_long": "an example is longer than max_length; it is cut or refused as truncation says",
    "non_nfc": "text is not in Unicode's composed form (NFC); what people type to a model usually is",
}
#: Errors that have a code of their own.
ERROR_CODES: Final[Mapping[type[PreprocessError], str]] = {
    NothingToTrain: "zero_weight",
    NoAssistantTurn: "zero_weight",
    UnknownRole: "unknown_role",
    TooLong: "too_long",
    HistoryDropped: "history_dropped",
}
#: How printed content parts begin, in Python and in JSON.
PARTS_PRINTED: Final = ("[{'type': 'text'", '[{"type": "text"', "[{'type':'text'", '[{"type":"text"')
#: How a warning about a message begins.
_PLACE: Final = re.compile(r"messages\[(\d+)\]")
FIRST_OFFENDERS: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found in one conversation."""

    code: str  #: a key of EXPLANATIONS
    conversation_index: int  #: in order of adding, counted within its split
    message_index: int | None
    sentence: str
    split: str = "train"


@dataclass(frozen=True, slots=True)
class LintReport:
    """What was found, and what training would get."""

    conversations: Mapping[str, int]  #: by split
    counts: Mapping[str, int]  #: conversations that have the code, most frequent first
    first: Mapping[str, Sequence[Finding]]  #: the first offenders by code
    summary: Summary  #: of the examples of the training split


class Linter:
    """A linter of conversations in batches; memory grows by a short hash for each."""

    def __init__(self, model: Model, options: Options, max_offenders: int = FIRST_OFFENDERS) -> None:
        self._model = model
        # A refusal would hide what else is wrong; control tokens are reported under their own code.
        self._options = replace(options, control_tokens=_lenient(options.control_tokens))
        self._max_offenders = max_offenders
        self._seen: dict[str, dict[bytes, int]] = {}
        self._conversations: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._first: dict[str, list[Finding]] = {}
        self._statistics = Statistics()

    def add(self, conversations: Sequence[Conversation], split: str = "train") -> list[Finding]:
        """Check the next conversations of a split, and return the findings.

        A conversation that is in an earlier split too is an overlap. Only the training split enters the statistics.

        Raises:
            InvalidOption: the options are wrong whatever the conversation.
        """
        outcomes = preprocess_batch(conversations, self._options, self._model)
        found: list[Finding] = []
        for conversation, outcome in zip(conversations, outcomes, strict=True):
            index = self._conversations[split]
            self._conversations[split] += 1
            if split == "train" and isinstance(outcome, PreprocessedConversation):
                self._statistics.add(outcome)
            raw = [
                *self._repeats(conversation, index, split),
                *_of_text(self._ready(conversation)),
                *self._of_outcome(outcome),
            ]
            mine = [replace(finding, conversation_index=index, split=split) for finding in raw]
            self._count(mine)
            found += mine
        return found

    def report(self) -> LintReport:
        """Return everything found so far."""
        return LintReport(
            conversations=dict(self._conversations),
            counts=dict(self._counts.most_common()),
            first={code: tuple(findings) for code, findings in self._first.items()},
            summary=self._statistics.summary(),
        )

    def _count(self, findings: Sequence[Finding]) -> None:
        self._counts.update({finding.code for finding in findings})
        for finding in findings:
            listed = self._first.setdefault(finding.code, [])
            if len(listed) < self._max_offenders:
                listed.append(finding)

    def _repeats(self, conversation: Conversation, index: int, split: str) -> Iterator[Finding]:
        key = _key(conversation)
        for other, seen in self._seen.items():
            if key in seen and other != split:
                yield _finding("train_test_overlap", None, f"is the {other} split's conversation {seen[key]}")
        mine = self._seen.setdefault(split, {})
        if key in mine:
            yield _finding("duplicate", None, f"repeats conversation {mine[key]}")
        mine.setdefault(key, index)

    def _ready(self, conversation: Conversation) -> Conversation:
        """Return the conversation as the template gets it; unchanged where that fails and is reported as refused."""
        try:
            return ready(conversation, self._options, self._model)
        except (PreprocessError, RecursionError):
            return conversation

    def _of_outcome(self, outcome: PreprocessedConversation | PreprocessError) -> Iterator[Finding]:
        if isinstance(outcome, PreprocessError):
            code = ERROR_CODES.get(type(outcome), "not_trainable")
            yield Finding(code, 0, outcome.message_index, str(outcome))
            if isinstance(outcome, NothingToTrain) and outcome.field == "max_length":
                yield Finding("truncated_answer", 0, None, str(outcome))
                yield Finding("too_long", 0, None, str(outcome))
            return
        for warning in outcome.warnings:
            place = _PLACE.match(warning)
            yield _finding("template_warning", int(place[1]) if place else None, warning)
        cut = sum(example.truncated_tokens for example in outcome.examples)
        cut_loss = sum(example.truncated_loss_tokens for example in outcome.examples)
        if cut:
            yield _finding("too_long", None, f"max_length={self._options.max_length} cuts {counted(cut, 'token')}")
        if cut_loss:
            text = f"max_length={self._options.max_length} cuts {counted(cut_loss, 'trained token')}"
            yield _finding("truncated_answer", None, text)
        if len(outcome.examples) > 1:
            yield _finding("history_dropped", None, f"becomes {len(outcome.examples)} examples")
        for span in outcome.escaped:
            index = span.message_index if span.message_index >= 0 else None
            yield _finding(
                "control_tokens_in_content", index, f"{span.text!r} at character {span.offset} of the rendered text"
            )


def _lenient(policy: ControlTokens) -> ControlTokens:
    return ControlTokens.ESCAPE if policy is ControlTokens.REJECT else policy


def _finding(code: str, message_index: int | None, sentence: str) -> Finding:
    return Finding(code, 0, message_index, sentence)


def _key(conversation: Conversation) -> bytes:
    """Return a hash of messages and tools, whatever the order of keys; equal hashes mean the same conversation."""
    text = json.dumps([conversation.messages, conversation.tools], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _of_text(conversation: Conversation) -> Iterator[Finding]:
    for index, message in enumerate(conversation.messages):
        role = message.get("role")
        if role not in KNOWN_ROLES:
            yield _finding("unknown_role", index, f"messages[{index}].role is {role!r}")
        if role == ASSISTANT and not _says_something(message):
            yield _finding("empty_assistant", index, f"messages[{index}] has neither text nor tool calls")
        if role == "user" and not _says_something(message):
            yield _finding("empty_user", index, f"messages[{index}] has no text")
        texts = list(_texts(message))
        if any(text.lstrip().startswith(PARTS_PRINTED) for text in texts):
            yield _finding(
                "content_parts_repr", index, f"messages[{index}] begins like a printed list of content parts"
            )
        if not all(unicodedata.is_normalized("NFC", text) for text in texts):
            yield _finding("non_nfc", index, f"messages[{index}] holds text that is not NFC")
    if conversation.messages and conversation.messages[-1].get("role") != ASSISTANT:
        last = len(conversation.messages) - 1
        yield _finding("last_not_assistant", last, f"messages[{last}] is the {conversation.messages[-1].get('role')}'s")


def _says_something(message: Message) -> bool:
    return bool(message.get("tool_calls")) or any(text.strip() for text in _strings(message.get("content")))


def _texts(message: Message) -> Iterator[str]:
    for key in ("content", "reasoning_content", "thinking"):
        yield from _strings(message.get(key))


def _strings(content: JSON) -> Iterable[str]:
    """Return the texts of a content, which is a text or a list of parts."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, Sequence):
        return []
    texts = [part.get("text") for part in content if isinstance(part, Mapping)]
    return [text for text in texts if isinstance(text, str)]


def lint(conversations: Sequence[Conversation], options: Options, model: Model) -> LintReport:
    """Check the conversations of one training set."""
    linter = Linter(model, options)
    for first in range(0, len(conversations), 256):
        linter.add(conversations[first : first + 256])
    return linter.report()
