"""A lint stream: conversations in, findings with the sender's positions and ids out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from services.preprocess.api.runner import Plan
from services.preprocess.datasets.build import histogram
from services.preprocess.wire.conversation import conversations
from services.preprocess.wire.dataset import histogram_message
from services.preprocess.wire.issues import issue
from turnloom.masks.domain.conversation import Conversation
from turnloom.masks.domain.errors import PreprocessError
from turnloom.masks.inspect.lint import EXPLANATIONS, FIRST_OFFENDERS, Linter
from turnloom.v1 import preprocess_pb2 as pb
from turnloom.v1 import types_pb2

UNREADABLE = "not_trainable"  #: code of what the linter is never shown, for it can't be read from the wire


class LintRun:
    """The state of one stream. It holds the linter's memory and a few offenders for each code."""

    def __init__(self, plan: Plan, max_offenders: int) -> None:
        self._limit = max_offenders or FIRST_OFFENDERS
        self._linter = Linter(plan.model, plan.options, self._limit)
        self._seen: Counter[str] = Counter()  # by split, unreadable ones included
        self._shown: Counter[str] = Counter()  # by split, as the linter counts
        self._offenders: dict[str, list[types_pb2.Issue]] = {}

    def add(self, sent: Sequence[types_pb2.Conversation], split: str) -> None:
        """Lint one chunk of "train" or "test"."""
        first, begun = self._seen[split], self._shown[split]
        readable: list[tuple[int, Conversation]] = []
        for offset, item in enumerate(conversations(sent)):
            if isinstance(item, PreprocessError):
                self._keep(split, UNREADABLE, issue(first + offset, sent[offset].id, item))
            else:
                readable.append((offset, item))
        for finding in self._linter.add([item for _, item in readable], split):
            offset = readable[finding.conversation_index - begun][0]
            found = types_pb2.Issue(
                conversation_index=first + offset,
                conversation_id=sent[offset].id,
                message=finding.sentence,
                field="" if finding.message_index is None else f"messages[{finding.message_index}]",
                message_index=finding.message_index,
            )
            self._keep(split, finding.code, found)
        self._seen[split] += len(sent)
        self._shown[split] += len(readable)

    @property
    def conversations(self) -> int:
        """Return the number of conversations linted so far, both splits."""
        return self._seen.total()

    def response(self) -> pb.LintConversationsResponse:
        """Return the findings so far, most frequent codes first."""
        report = self._linter.report()
        counts = Counter(report.counts)
        counts[UNREADABLE] += sum((self._seen - self._shown).values())
        summary = report.summary
        return pb.LintConversationsResponse(
            findings=[
                pb.LintFinding(
                    code=code, count=count, explanation=EXPLANATIONS[code], offenders=self._offenders.get(code, ())
                )
                for code, count in counts.most_common()
                if count
            ],
            conversations=self._seen["train"],
            examples=summary.examples,
            tokens=summary.tokens,
            loss_tokens=summary.loss_tokens,
            unchecked_examples=summary.unchecked_examples,
            length_histogram=histogram_message(histogram(summary.lengths)),
            loss_token_histogram=histogram_message(histogram(summary.loss_lengths)),
        )

    def _keep(self, split: str, code: str, found: types_pb2.Issue) -> None:
        """Keep an offender if there is room.

        One of the test set is marked as such, because its positions are counted separately.
        """
        kept = self._offenders.setdefault(code, [])
        if len(kept) < self._limit:
            found.code = code
            if split != "train":
                found.message = f"In the test set: {found.message}"
            kept.append(found)
