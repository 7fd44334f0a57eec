"""Format numbers, times and states for people."""

from __future__ import annotations

import math
import time

from google.protobuf.timestamp_pb2 import Timestamp

from turnloom.plural import counted
from turnloom.v1 import datasets_pb2, training_pb2, types_pb2

STATE_COLOURS = {
    "SUCCEEDED": "green",
    "READY": "green",
    "RUNNING": "cyan",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "PAUSED": "yellow",
    "ok": "green",
    "warning": "yellow",
    "failed": "red",
    "skipped": "dim",
}


def count(number: float) -> str:
    """Format a count: 1234567 as 1.23M, all digits below 10,000."""
    return f"{number:.0f}" if number < 10_000 else "".join(_scaled(number))


def many(number: int, noun: str) -> str:
    """Format a count with its noun: 1 token, 1.23M tokens."""
    return counted(number, noun, shown=count(number))


def not_compared(examples: int) -> str:
    """Say that a self-check was skipped for so many examples."""
    return (
        f"The token ids of {many(examples, 'example')} were not compared with the text: tokenization hf, a tokenizer"
        " that loses text, or text that it has no tokens for."
    )


def size(number: float) -> str:
    """Format bytes with decimal prefixes: 512 B, 1.27 kB, 35 MB."""
    if number < 1000:
        return f"{number:.0f} B"
    figure, prefix = _scaled(number)
    return f"{figure} {prefix}B"


def _scaled(number: float) -> tuple[str, str]:
    """Return three digits and the prefix for 1000 or more."""
    power = min(3, math.floor(math.log10(number * 1.0005)) // 3)  # 999,500 and more is 1M, not 1e+03k
    return f"{number / 1000**power:.3g}", " kMG"[power]


def duration(seconds: float) -> str:
    """Format a duration: 12 s, 3:45, 2:03:45."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def money(amount: float, currency: str) -> str:
    """Format an amount: 12.30 EUR, or "less than 0.01 EUR" below a hundredth."""
    return f"less than 0.01 {currency}" if 0 < amount < 0.01 else f"{amount:.2f} {currency}"


def seconds(moment: Timestamp) -> float:
    """Return seconds since 1970; 0 where the field is absent."""
    return moment.seconds + moment.nanos / 1e9


def buckets(histogram: types_pb2.Histogram) -> str:
    """List the non-empty buckets with their bounds: "120 with 32 to 63, 7 with 4096 or more"."""
    uppers = list(histogram.upper_bounds)
    lowers = [0, *uppers]
    words = [
        f"{number} with {low} to {high - 1}"
        for number, low, high in zip(histogram.counts, lowers, uppers, strict=False)
        if number
    ]
    if uppers and histogram.counts[-1]:
        words.append(f"{histogram.counts[-1]} with {uppers[-1]} or more")
    return ", ".join(words) or "none"


def ago(moment: Timestamp) -> str:
    """Return the time since a moment; "-" where the field is absent."""
    return f"{duration(time.time() - seconds(moment))} ago" if moment.seconds else "-"


def clock(moment: Timestamp) -> str:
    """Return local date and time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds(moment)))


def job_state(job: training_pb2.Job) -> str:
    """Return the short state: RUNNING for JOB_STATE_RUNNING."""
    return training_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")


def dataset_state(dataset: datasets_pb2.Dataset) -> str:
    """Return the short state: READY for DATASET_STATE_READY."""
    return datasets_pb2.DatasetState.Name(dataset.state).removeprefix("DATASET_STATE_")


def coloured(state: str) -> str:
    """Return the state in its colour, as rich markup."""
    colour = STATE_COLOURS.get(state)
    return f"[{colour}]{state}[/]" if colour else state
