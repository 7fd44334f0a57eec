"""The demo's results: the numbers, what they must satisfy, and the table that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from rich.table import Table
from rich.text import Text


@dataclass(slots=True)
class Findings:
    """All NLL in nats per trained token."""

    steps: int = 0  #: optimizer steps
    train_nll: float = 0.0  #: batch of the last step
    start_nll: float = 0.0  #: held-out conversations before step 1
    test_nll: float = 0.0  #: held-out conversations after the last step
    unigram_nll: float = 0.0  #: of these, by frequencies fitted on the trained tokens of the train split
    shuffled_nll: float = 0.0  #: of the same replies shuffled among the prompts, by the trained adapter
    verified: bool | None = None  #: two runs from one checkpoint gave the same numbers; None: not tried
    prompt: str = ""  #: last message of a held-out conversation before its first reply
    reply: str = ""  #: of the trained adapter to it, the likeliest tokens
    base_reply: str = ""  #: of the base model
    adapter: str = ""  #: folder
    plot: str = ""  #: file
    seconds: dict[str, float] = field(default_factory=dict)  #: wall time by phase

    def to_plain(self) -> dict[str, object]:
        """Return plain values for results.json."""
        return asdict(self)

    def shortcomings(self) -> Iterator[str]:
        """Yield expectations of the sample conversations that do not hold."""
        if self.test_nll > self.unigram_nll / 3:
            yield f"The test NLL {self.test_nll:.3f} is above a third of the unigram model's {self.unigram_nll:.3f}."
        if self.shuffled_nll < 2 * self.test_nll:
            yield (
                f"The NLL on shuffled replies, {self.shuffled_nll:.3f}, is not clearly above {self.test_nll:.3f},"
                " so the adapter does not use its prompts."
            )
        if not self.reply:
            yield "The trained adapter gave no reply."
        if self.verified is False:
            yield "Two runs from one checkpoint gave different numbers."

    def numbers(self) -> Table:
        """Build the table of NLLs."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("masked NLL, nats per trained token")
        table.add_column("", justify="right")
        rows = {
            f"train, last of {self.steps} steps": self.train_nll,
            "[bold]test, held-out conversations[/]": self.test_nll,
            "  before training": self.start_nll,
            "  same replies shuffled among the prompts": self.shuffled_nll,
            "  unigram model fitted on the train split": self.unigram_nll,
        }
        for name, value in rows.items():
            table.add_row(name, f"{value:.4f}")
        if self.verified is not None:
            table.add_row(
                "two runs from one checkpoint", "equal to the last bit" if self.verified else "[red]differ[/]"
            )
        return table

    def replies(self) -> Table:
        """Build the table of the prompt and both replies."""
        table = Table(box=None, pad_edge=False, show_header=False)
        if self.prompt:
            table.add_row("held-out prompt", Text(self.prompt))
            table.add_row("[bold]trained adapter[/]", Text(self.reply))
            table.add_row("base model", Text(self.base_reply))
        return table

    def times(self) -> str:
        """Return the seconds of each phase in one line."""
        phases = ", ".join(f"{name} {spent:.0f} s" for name, spent in self.seconds.items())
        return f"{phases}; together {sum(self.seconds.values()):.0f} s"
