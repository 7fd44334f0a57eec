"""The size limit of a dataset from a named source: the same as for one that a client streams."""

from __future__ import annotations

from dataclasses import dataclass

from services.preprocess.domain.source_errors import SourceTooLarge


@dataclass(frozen=True, slots=True)
class SizeLimit:
    """Limits of one dataset."""

    conversations: int  #: TURNLOOM_MAX_DATASET_CONVERSATIONS
    size: int  #: TURNLOOM_MAX_DATASET_BYTES: of the conversations as messages of the contract


def refuse_larger(conversations: int, size: int, limit: SizeLimit) -> None:
    """Refuse a dataset that is over a limit.

    Args:
        conversations: so far.
        size: bytes of these; 0 where they are not known yet.
        limit: of the dataset.

    Raises:
        SourceTooLarge
    """
    if conversations > limit.conversations:
        raise SourceTooLarge(
            f"The source has more than the {limit.conversations} conversations that a dataset takes.",
            "Take a part (limit, a filter), or raise TURNLOOM_MAX_DATASET_CONVERSATIONS of API and workers.",
        )
    if size > limit.size:
        raise SourceTooLarge(
            f"The source's conversations have more than the {limit.size} bytes that a dataset takes.",
            "Take a part (limit, a filter), or raise TURNLOOM_MAX_DATASET_BYTES of API and workers.",
        )
