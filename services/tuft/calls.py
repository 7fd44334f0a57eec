"""The passes of one request, and what is left of them once its answer is known.

An answer needs the forward passes only. The last backward pass is launched in a thread while the answer travels, and
the server brings the next request: launching is what a small model waits for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from services.tuft import memory, passes
from services.tuft.adapters import Accumulator, Layout
from services.tuft.graphs import Decoding
from services.tuft.packing import Row, balanced

log = logging.getLogger("turnloom.tuft")


class Call:
    """One request's rows on their way through the model; not shared between threads at the same time."""

    def __init__(
        self, decoder: Decoding, layout: Layout, rows: Sequence[Row], loss: passes.Loss,
        shrink: Callable[[int], None], *, backward: bool,
    ) -> None:  # fmt: skip
        """Nothing is launched yet. `shrink` hears of each pass that ran out of memory: its number of tokens."""
        self._decoder, self._layout, self._rows, self._loss = decoder, layout, rows, loss
        self._shrink, self._backward = shrink, backward
        self._gradients = Accumulator()
        self._waiting: list[list[int]] = []  #: numbers of the rows of passes to come, the next one last
        #: Rows of the pass whose backward part is not launched, and what launches it.
        self._left: tuple[list[int], Callable[[], list[Tensor]]] | None = None
        self.answers: list[passes.Answer] = []

    def start(self, most: int) -> None:
        """Launch all but the last backward pass, in passes of at most `most` tokens.

        Raises:
            torch.OutOfMemoryError: a single row does not fit.
        """
        self._waiting = balanced([row.length for row in self._rows], most)[::-1]
        self._work(leave_last=True)

    def finish(self) -> None:
        """Launch the backward pass that was left, if any; add all gradients to the parameters'. Raises as start()."""
        if self._left is not None and not self._finished_pass():
            answers = self.answers[:]  # they are out already; what is run again gives gradients only
            self._again(self._left[0])
            self._work(leave_last=False)
            self.answers = answers
        self._left = None
        self._gradients.commit(self._layout.masters)

    def _finished_pass(self) -> bool:
        """Launch what was left; False: it ran out of memory, and nothing holds its values any more."""
        assert self._left is not None
        numbers, backward = self._left
        self._left = numbers, _nothing
        try:
            self._gradients.add(_told(backward))
        except torch.OutOfMemoryError:
            log.warning("out of memory in a backward pass (rows: %d); it is cut and run again", len(numbers))
            return False
        return True

    def _work(self, *, leave_last: bool) -> None:
        while self._waiting:
            numbers = self._waiting.pop()
            try:
                self._pass(numbers, leave=leave_last and not self._waiting)
                continue
            except torch.OutOfMemoryError:
                log.warning("out of memory in a pass (rows: %d); it is cut and run again", len(numbers))
            self._again(numbers)  # out of the except block: its traceback held what the pass had allocated

    def _again(self, numbers: list[int]) -> None:
        """Cut a pass that ran out of memory; run a single row layer by layer before it fails."""
        memory.release()
        lengths = [self._rows[number].length for number in numbers]
        if len(numbers) == 1:
            self._shrink(0)
            try:
                self._pass(numbers, leave=False, recompute=self._backward)
            except torch.OutOfMemoryError:
                memory.release()
                raise
            return
        self._shrink(sum(lengths))
        halves = balanced(lengths, -(-sum(lengths) // 2))
        self._waiting += [[numbers[place] for place in half] for half in halves[::-1]]

    def _pass(self, numbers: list[int], *, leave: bool, recompute: bool = False) -> None:
        started = _told(
            lambda: passes.start(
                self._decoder, self._layout, self._rows, numbers, self._loss,
                backward=self._backward, recompute=recompute,
            )
        )  # fmt: skip
        if leave and self._backward:
            self._left = numbers, started.backward
        elif self._backward:
            self._gradients.add(_told(started.backward))
        self.answers.append(started.answer)


def _nothing() -> list[Tensor]:
    return []


def _told(work: Callable[[], passes.Value]) -> passes.Value:
    """Run it; out of memory is one error, whichever library ran out."""
    try:
        return work()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not memory.ran_out(error):
            raise
        raise torch.OutOfMemoryError(str(error)) from error
