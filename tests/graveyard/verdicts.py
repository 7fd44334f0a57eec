"""Compares what came out with what must. Knows no engine."""

from __future__ import annotations

from tests.graveyard.case import Case, Expectation, Refused, Rows, Trained
from tests.graveyard.engine import Outcome, tokenizer_json
from tests.graveyard.notation import stretches_of, text_of, tokens_of


def complaint(expectation: Expectation, found: Outcome, case: Case) -> str:
    """What differs, for people; "" where nothing does."""
    if isinstance(expectation, Refused):
        missing = [word for word in expectation.words if word not in found.refusal]
        return f"no refusal with {missing}: {found.shown}" if missing or not found.refusal else ""
    if found.refusal:
        return f"refused: {found.refusal}"
    unsaid = [words for words in expectation.warns if not any(words in warning for warning in found.warnings)]
    if unsaid:
        return f"no warning with {unsaid}: {found.shown}"
    return _of_stretches(expectation, found) if isinstance(expectation, Trained) else _of_rows(expectation, found, case)


def _of_stretches(expectation: Trained, found: Outcome) -> str:
    stretches = tuple(stretch for row in found.rows for stretch in row.stretches)
    if stretches != expectation.stretches:
        return f"trained is {stretches}\nand not    {expectation.stretches}"
    whole = "\n".join(row.text for row in found.rows)
    lost = [text for text in expectation.shows if text not in whole]
    extra = [text for text in expectation.never if text in whole]
    return f"lost is {lost}, too much is {extra}: {found.shown}" if lost or extra else ""


def _of_rows(expectation: Rows, found: Outcome, case: Case) -> str:
    if len(found.rows) != len(expectation.lines):
        return f"{len(found.rows)} rows and not {len(expectation.lines)}: {found.shown}"
    for line, row in zip(expectation.lines, found.rows, strict=True):
        if (row.text, row.stretches) != (text_of(line), stretches_of(line)):
            return f"the row is {row.shown}\nand not    {line}"
        if case.tokenizer == "sentence_piece":  # its pieces depend on where they stand; the text says enough
            continue
        ids, weights = tokens_of(line, tokenizer_json(case.tokenizer))
        if (row.ids, row.weights) != (ids, weights):
            return f"{row.shown}\nis {row.ids} with {row.weights}\nand not {ids} with {weights}"
    return ""
