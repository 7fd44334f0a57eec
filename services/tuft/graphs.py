"""Passes of a small model as CUDA graphs: launching their 4,000 kernels takes longer than the GPU takes to run them.

A graph holds one shape, so tokens, rows and the longest row are filled up to steps. Each shape is recorded when it
comes for the second time, and compared with the pass as written before it is used. All graphs share one pool of memory,
which is as large as the largest needs: one runs at a time, its backward part before the next one's forward part, and
what comes out of it is outside of the pool. Passes that are not recorded yet run layer by layer, so that the card need
not hold two passes. Whatever goes wrong ends recording for good, and passes run as they are written.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from services.tuft import memory
from services.tuft.adapters import Operands

log = logging.getLogger("turnloom.tuft")

#: Parameters times tokens of a pass that an H200 takes longer to compute than its host takes to launch.
WORK: Final = 1.5e13
MOST: Final = 32  #: graphs; the one that was not used for longest goes
PARTS: Final = 16  #: tokens are filled up to a sixteenth of the power of two below them
ROWS: Final = 16  #: the number of rows is filled up to a multiple of it
SHORTEST: Final = 2048  #: tokens; the longest row counts as that or a power of two: for attention that costs nothing
LONGEST: Final = 65_536  #: tokens of a pass that is recorded
HIDDEN: Final = 0.02  #: largest relative error of hidden states against the pass as written: bf16 rounds to 0.004
COSINE: Final = 0.9995  #: least, of the gradients

VARIABLE: Final = "TURNLOOM_TUFT_GRAPHS"  #: 0: no pass is recorded

Shape: TypeAlias = tuple[int, int, int, tuple[object, ...]]


class Decoding(Protocol):
    """What layers.Decoder does."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of hidden states."""

    def __call__(
        self, tokens: Tensor, positions: Tensor, starts: Tensor, longest: int, operands: Operands, *,
        gradient: bool, recompute: bool = False,
    ) -> Tensor:  # fmt: skip
        """Compute hidden states, [T, width]."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Memory that a graph reads."""

    tokens: Tensor  #: int64 [T]
    positions: Tensor  #: int64 [T]
    starts: Tensor  #: int32 [R + 1]
    stacks: tuple[Tensor, ...]  #: the layers' operands

    @property
    def length(self) -> int:
        """Return T."""
        return len(self.tokens)

    def fill(self, tokens: Tensor, positions: Tensor, starts: Tensor, stacks: Sequence[Tensor]) -> None:
        """Write a pass. What follows its tokens is one more row of whatever was there before; then come empty rows."""
        with torch.no_grad():
            self.tokens[: len(tokens)].copy_(tokens)
            self.positions[: len(positions)].copy_(positions)
            self.starts.fill_(len(self.tokens))
            self.starts[: len(starts)].copy_(starts)
            for mine, given in zip(self.stacks, stacks, strict=True):
                mine.copy_(given)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Memory of what goes on to and comes from the head; graphs of the same operands write to the same."""

    hidden: Tensor  #: [T, width]
    by_hidden: Tensor  #: the loss's gradient
    by_stacks: tuple[Tensor, ...]  #: gradients of Inputs.stacks

    def first(self, length: int) -> Outputs:
        """Return the part for so many tokens."""
        return Outputs(self.hidden[:length], self.by_hidden[:length], self.by_stacks)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A pass on fixed memory."""

    inputs: Inputs
    outputs: Outputs
    forward: Callable[[], None]  #: from `inputs` to `outputs.hidden`
    backward: Callable[[], None]  #: from `outputs.by_hidden` to `outputs.by_stacks`; after `forward`


Work: TypeAlias = Callable[[Inputs], Tensor]
Record: TypeAlias = Callable[[Work, Inputs, Outputs], Recorded]


class CudaRecorder:
    """Records CUDA graphs."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, work: Work, inputs: Inputs, outputs: Outputs) -> Recorded:
        """Record the pass and its backward part; `work` has run before, so that nothing is compiled meanwhile."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(forward, pool=self._pool):
            hidden = work(inputs)
            outputs.hidden.copy_(hidden.detach())
        with torch.cuda.graph(backward, pool=self._pool):
            found = torch.autograd.grad(hidden, inputs.stacks, outputs.by_hidden)
            for mine, one in zip(outputs.by_stacks, found, strict=True):
                mine.copy_(one)
        return Recorded(inputs, outputs, forward.replay, backward.replay)


class _Replay(torch.autograd.Function):
    """A recorded pass as a node of autograd."""

    @staticmethod
    def forward(ctx: Any, recorded: Recorded, *_: Tensor) -> Tensor:
        ctx.recorded = recorded
        recorded.forward()
        return recorded.outputs.hidden.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_hidden: Tensor) -> tuple[Tensor | None, ...]:
        recorded: Recorded = ctx.recorded
        recorded.outputs.by_hidden.copy_(by_hidden)
        recorded.backward()
        return None, *(one.clone() for one in recorded.outputs.by_stacks)  # the next pass writes there


class GraphedDecoder:
    """A decoder whose passes are recorded where that pays."""

    def __init__(self, decoder: Decoding, parameters: int, record: Record) -> None:
        """Nothing is recorded yet.

        Args:
            decoder: layers.Decoder.
            parameters: of the model.
            record: CudaRecorder().
        """
        self._decoder, self._parameters = decoder, parameters
        self._record: Record | None = record
        self._seen: set[Shape] = set()
        self._recorded: OrderedDict[Shape, Recorded] = OrderedDict()
        self._stacks: dict[tuple[object, ...], tuple[Tensor, ...]] = {}  #: that all graphs of such operands read
        self._outputs: dict[tuple[object, ...], Outputs] = {}  #: that they write, for the longest pass
        self.recorded = 0  #: graphs so far
        self.replayed = 0  #: passes

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of weights and hidden states."""
        return self._decoder.dtype

    def __call__(
        self, tokens: Tensor, positions: Tensor, starts: Tensor, longest: int, operands: Operands, *,
        gradient: bool, recompute: bool = False,
    ) -> Tensor:  # fmt: skip
        """Compute hidden states as layers.Decoder does."""
        if gradient and not recompute and self._pays(len(tokens), operands):
            recompute = True
            found = self._graph(tokens, positions, starts, longest, operands)
            if found is not None:
                stacks = operands.of_layers()
                found.inputs.fill(tokens, positions, starts, stacks)
                self.replayed += 1
                hidden: Tensor = _Replay.apply(found, *stacks)  # type: ignore[no-untyped-call]
                return hidden[: len(tokens)]
        return self._decoder(tokens, positions, starts, longest, operands, gradient=gradient, recompute=recompute)

    def end(self, reason: str) -> None:
        """Give the graphs' memory back, and record no more."""
        if self._record is not None:
            log.warning("turnloom: passes are launched kernel by kernel from now on: %s", reason)
        self._record = None
        self._recorded.clear()
        self._stacks.clear()
        self._outputs.clear()

    def _pays(self, tokens: int, operands: Operands) -> bool:
        short = tokens * self._parameters <= WORK and tokens * (1 + 1 / PARTS) < LONGEST
        return self._record is not None and short and bool(operands.of_layers())

    def _graph(
        self, tokens: Tensor, positions: Tensor, starts: Tensor, longest: int, operands: Operands
    ) -> Recorded | None:
        """Return the graph for this pass; None: it comes for the first time, or can't be recorded."""
        shape = shape_of(len(tokens), len(starts) - 1, longest, operands)
        if shape in self._recorded:
            self._recorded.move_to_end(shape)
            return self._recorded[shape]
        if shape not in self._seen:
            self._seen.add(shape)
            return None
        try:
            made = self._made(shape, tokens, positions, starts, operands)
        except Exception as error:  # any doubt means the pass as it is written
            self.end(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])
            memory.release()
            return None
        while len(self._recorded) >= MOST:
            self._recorded.popitem(last=False)
        self._recorded[shape] = made
        self.recorded += 1
        return made

    def _made(self, shape: Shape, tokens: Tensor, positions: Tensor, starts: Tensor, operands: Operands) -> Recorded:
        """Record a shape and compare; the pass at hand is what it is tried on.

        Raises:
            ValueError: it computes something else.
        """
        length, rows, longest, signature = shape
        stacks = operands.of_layers()
        if signature not in self._stacks:
            self._stacks[signature] = tuple(torch.zeros_like(one).requires_grad_() for one in stacks)
        inputs = Inputs(
            tokens.new_zeros(length), positions.new_zeros(length), starts.new_zeros(rows + 1), self._stacks[signature]
        )
        inputs.fill(tokens, positions, starts, stacks)

        def work(given: Inputs, *, recompute: bool = False) -> Tensor:
            of_given = operands.with_layers(given.stacks)
            return self._decoder(
                given.tokens, given.positions, given.starts, longest, of_given, gradient=True, recompute=recompute
            )

        written = work(inputs, recompute=True)
        draw = torch.Generator(written.device).manual_seed(0)  # not the stream that new adapters are drawn from
        seed = torch.randn(written.shape, generator=draw, dtype=written.dtype, device=written.device)
        expected = written.detach().clone(), torch.autograd.grad(written, inputs.stacks, seed)
        del written
        assert self._record is not None
        made = self._record(work, inputs, self._outputs_of(signature, expected[0], inputs.stacks))
        made.forward()
        made.outputs.by_hidden.copy_(seed)
        made.backward()
        _compare(expected[0], expected[1], made.outputs)
        return made

    def _outputs_of(self, signature: tuple[object, ...], hidden: Tensor, stacks: Sequence[Tensor]) -> Outputs:
        """Return where a pass with such hidden states writes; the first one makes it for the longest."""
        if signature not in self._outputs:
            most = max(len(hidden), int(WORK / self._parameters * (1 + 1 / PARTS)) + 1)
            ours, by_ours = (hidden.new_zeros(min(most, LONGEST), hidden.shape[1]) for _ in range(2))
            by_stacks = tuple(torch.zeros_like(one.detach()) for one in stacks)
            self._outputs[signature] = Outputs(ours, by_ours, by_stacks)
        return self._outputs[signature].first(len(hidden))


def _compare(hidden: Tensor, by_stacks: Sequence[Tensor], made: Outputs) -> None:
    away = float((made.hidden.float() - hidden.float()).norm() / hidden.float().norm())
    ours, theirs = (torch.cat([one.flatten().float() for one in each]) for each in (made.by_stacks, by_stacks))
    cosine = float(torch.nn.functional.cosine_similarity(ours, theirs, 0))
    if not (away <= HIDDEN and cosine >= COSINE):
        raise ValueError(f"a graph differs from the pass as written: hidden {away:.2g}, cosine {cosine:.6f}")


def recomputes(decoder: Decoding, operands: Operands, device: torch.device) -> bool:
    """Try a short pass layer by layer, as passes run that are not recorded yet; False: it fails here."""
    ids = torch.arange(PARTS, device=device)
    starts = torch.tensor([0, PARTS], dtype=torch.int32, device=device)
    try:
        hidden = decoder(ids, ids, starts, PARTS, operands, gradient=True, recompute=True)
        torch.autograd.grad(hidden.float().sum(), operands.of_layers())
    except Exception:  # any doubt means passes as they are written
        log.exception("a pass layer by layer failed; no pass is recorded")
        return False
    return True


def shape_of(tokens: int, rows: int, longest: int, operands: Operands) -> Shape:
    """Return the shape that a pass is filled up to, and which operands it has.

    Args:
        tokens: of the pass.
        rows: of the pass; there is room for one more, which holds what is filled up.
        longest: tokens of the longest row.
        operands: the adapter's.
    """
    part = max(1, (1 << (tokens - 1).bit_length()) // 2 // PARTS)
    length = -(-tokens // part) * part
    longest = max(SHORTEST, 1 << (max(longest, length - tokens) - 1).bit_length())
    return length, -(-(rows + 1) // ROWS) * ROWS, longest, operands.signature()
