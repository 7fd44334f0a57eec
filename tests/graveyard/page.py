"""Makes docs/graveyard.md of the cases."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.graveyard.case import Case, Expectation, Rows, Trained
from tests.graveyard.kinds import CASES, KINDS

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "graveyard.md"
_INTRODUCTION: Final = """\
# The graveyard: reported bugs, and what Turnloom does

Bugs of masks and data that users reported against other trainers, libraries and servers, each tried
on Turnloom with an input of our own. The same cases are tests: `tests/graveyard`. Each runs through
the readers and the engine, alone, again as a replay, and between neighbours in a batch. Text, token
ids and weights are compared with what the report says is right.

Rows are shown as in [masks.md](masks.md): `⟦` and `⟧` enclose what is trained, `0⟦` begins a reply
that is not, `↵` is a newline; text in `⌊` and `⌋` spells a control token and is encoded as ordinary
text. Templates are small ones of ours, or the published one that is named.

"""
_MADE_BY: Final = "This page is generated: `python -m tests.graveyard`."


def page() -> str:
    """The text of docs/graveyard.md."""
    others = sum(len(case.also) for case in CASES)
    open_ = sum(bool(case.wrong_today) for case in CASES)
    counts = (
        f"{len(CASES)} cases of {len(CASES) + others} reports. In {len(CASES) - open_} Turnloom gives the right rows or"
        f" refuses; {open_ or 'none'} {'is' if open_ == 1 else 'are'} marked as not right yet. {_MADE_BY}"
    )
    parts = [_INTRODUCTION + _wrapped(counts)]
    for heading, cases in KINDS.items():
        parts += [f"## {heading}", *(_entry(case) for case in cases)]
    return "\n\n".join(parts) + "\n"


def _entry(case: Case) -> str:
    also = f" Also {', '.join(_link(report) for report in case.also)}." if case.also else ""
    lines = [f"**{_link(case.report)}** {case.said}{also}", f"*Turnloom:* {case.does}"]
    if case.wrong_today:
        lines.append(f"**Not right yet:** {case.wrong_today}.")
    shown = list(_shown(case.expect))
    if shown:
        lines.append("```text\n" + "\n".join(shown) + "\n```")
    return "\n\n".join(line if line.startswith("```") else _wrapped(line) for line in lines)


def _shown(expectation: Expectation) -> Iterator[str]:
    """The rows, or the stretches that are trained; nothing for a refusal, which `does` says."""
    if isinstance(expectation, Rows):
        yield from expectation.lines
    elif isinstance(expectation, Trained):
        for stretch in expectation.stretches:
            yield "… ⟦" + stretch.replace("\n", "↵") + "⟧ …"


def _link(report: str) -> str:
    repository, _, number = report.partition("#")
    return f"[{report}](https://github.com/{repository}/issues/{number})"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
