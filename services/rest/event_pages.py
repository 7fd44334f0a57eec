"""Events and measured steps of a job, merged newest first; a page reads only the steps around it."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import islice
from typing import TypeAlias

from services.rest.bodies import JobEvent, Page
from services.rest.gateway import LAST, Turnloom
from services.rest.paging import cut, unknown_cursor
from services.rest.views import STEP, message_event, step_event
from turnloom.v1 import training_pb2 as tr

#: Nanoseconds, events before steps of the same time, the place among events or the step.
Place: TypeAlias = tuple[int, int, int]


def event_page(turnloom: Turnloom, job: tr.Job, after: str | None, limit: int) -> Page[JobEvent]:
    """Return up to `limit` events, newest first, that came before the one with the id `after`.

    Raises:
        Problem: no event has that id.
    """
    messages = [(_place(event.time, 0, index), event) for index, event in enumerate(turnloom.events(job.id))]
    before, steps = _window(turnloom, job, messages, after, limit + 1)
    planned = job.progress.planned_steps
    older = [(place, message_event(event)) for place, event in messages if before is None or place < before]
    measured = [(place, step_event(step, planned)) for place, step in steps if before is None or place < before]
    newest: Iterator[tuple[Place, JobEvent]] = merge(
        reversed(older), reversed(measured), key=lambda item: item[0], reverse=True
    )
    return cut([event for _, event in islice(newest, limit + 1)], limit)


def _window(
    turnloom: Turnloom, job: tr.Job, messages: list[tuple[Place, tr.Event]], after: str | None, count: int
) -> tuple[Place | None, list[tuple[Place, tr.Step]]]:
    """Return the place of `after`, and the last `count` steps that stand before it."""
    if not after:
        last = job.progress.step
        return None, _steps(turnloom, job, max(1, last - count + 1), LAST)
    if after.startswith(STEP):
        digits = after.removeprefix(STEP)
        number = int(digits) if digits.isdecimal() and len(digits) <= len(str(LAST)) else 0
        found = _steps(turnloom, job, max(1, number - count), number) if 0 < number <= LAST else []
        if not found or found[-1][1].step != number:
            raise unknown_cursor(after)
        return found[-1][0], found[:-1]
    place = next((place for place, event in messages if f"ftevent-{event.id}" == after), None)
    if place is None:
        raise unknown_cursor(after)
    behind: list[tuple[Place, tr.Step]] = []
    for step in turnloom.steps(job.id):
        if _of(step) > place:
            break
        behind = [*behind[1 - count :], (_of(step), step)] if len(behind) >= count else [*behind, (_of(step), step)]
    return place, behind


def _steps(turnloom: Turnloom, job: tr.Job, first: int, until: int) -> list[tuple[Place, tr.Step]]:
    return [(_of(step), step) for step in turnloom.steps(job.id, first, until)]


def _of(step: tr.Step) -> Place:
    return _place(step.time, 1, step.step)


def _place(time: object, kind: int, index: int) -> Place:
    return int(time.seconds) * 10**9 + int(time.nanos), kind, index  # type: ignore[attr-defined]  # a Timestamp
