"""Pages of events: every one once, newest first, whatever the size of a page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from services.rest.event_pages import event_page
from services.rest.gateway import LAST
from services.rest.problems import Problem
from turnloom.v1 import training_pb2 as tr

TIMES = st.lists(st.integers(0, 8), max_size=12).map(sorted)


@dataclass
class Known:
    """What a server would tell of one job; `read` counts the steps that were asked for."""

    told: list[tr.Event]
    trained: list[tr.Step]
    read: int = 0

    def events(self, _job: str) -> list[tr.Event]:
        return self.told

    def steps(self, _job: str, first: int = 1, until: int = LAST) -> Iterator[tr.Step]:
        for step in self.trained:
            if first <= step.step <= until:
                self.read += 1
                yield step


def known(events: list[int], steps: list[int]) -> Known:
    return Known(
        [tr.Event(id=f"{time}-{i}", time=Timestamp(seconds=time), message=str(i)) for i, time in enumerate(events)],
        [
            tr.Step(step=i, time=Timestamp(seconds=time), nll_sum=1.0, weight_sum=1.0)
            for i, time in enumerate(steps, start=1)
        ],
    )


def job(server: Known) -> tr.Job:
    return tr.Job(id="job-1", progress=tr.Progress(step=len(server.trained), planned_steps=99))


@given(TIMES, TIMES, st.integers(1, 7))
def test_pages_show_every_event_and_step_once_and_newest_first(events: list[int], steps: list[int], size: int) -> None:
    server = known(events, steps)
    shown, after, more = [], None, True
    while more:
        found = event_page(server, job(server), after, size)  # type: ignore[arg-type]  # what it asks of Turnloom
        assert len(found.data) == size or not found.has_more
        shown += found.data
        more, after = found.has_more, found.last_id
    assert len({event.id for event in shown}) == len(shown) == len(events) + len(steps)
    assert [event.created_at for event in shown] == sorted((*events, *steps), reverse=True)
    measured = [event.data["step"] for event in shown if event.type == "metrics"]
    assert measured == list(range(len(steps), 0, -1))


def test_a_page_behind_a_step_reads_no_more_steps_than_it_may_show() -> None:
    server = known([0], list(range(1, 5001)))
    event_page(server, job(server), "ftevent-step-4000", 20)  # type: ignore[arg-type]
    event_page(server, job(server), None, 20)  # type: ignore[arg-type]
    assert server.read <= 45


@pytest.mark.parametrize(
    "after",
    [
        "ftevent-9-9",
        "ftevent-step-3",
        "ftevent-step-x",
        "step",
        "ftevent-step-" + "9" * 5000,
        "ftevent-step-4294967297",
    ],
)
def test_a_cursor_that_is_no_event_is_refused(after: str) -> None:
    server = known([1], [1, 2])
    with pytest.raises(Problem, match="begin again without it"):
        event_page(server, job(server), after, 5)  # type: ignore[arg-type]
