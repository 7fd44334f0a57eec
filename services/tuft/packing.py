"""Pack a request's rows into passes: end to end without padding, with a limit on tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tinker import types
from torch import Tensor

from services.tuft.errors import Odd, UnknownToken

MODEL_INPUTS = frozenset({"target_logprobs"})  #: loss inputs that come from the model, ignored when a client sends them


@dataclass(frozen=True, slots=True)
class Row:
    """One datum on the host."""

    tokens: Tensor  #: int64 [n], n >= 1
    inputs: dict[str, Tensor]  #: what the loss reads, each [n]; target_tokens (int64) is among them

    @property
    def length(self) -> int:
        """Return the number of tokens that the model reads."""
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class PackedPass:
    """Rows of one forward pass, end to end. T tokens in R rows."""

    rows: tuple[int, ...]  #: their numbers in the request, in packed order
    lengths: tuple[int, ...]  #: tokens of each, sum T
    tokens: Tensor  #: int64 [T]
    positions: Tensor  #: int64 [T], from 0 in every row
    targets: Tensor  #: int64 [T]
    starts: Tensor  #: int32 [R + 1], where rows begin; ends with T


def read_rows(data: Sequence[types.Datum], vocabulary: int) -> list[Row]:
    """Read a request that packs: every loss input has one value a token.

    Args:
        data: the request.
        vocabulary: tokens that the model knows.

    Raises:
        Odd: rows that TuFT itself has to answer.
        UnknownToken: on a GPU it would end the process.
    """
    return [_read_row(number, datum, vocabulary) for number, datum in enumerate(data)]


def _read_row(number: int, datum: types.Datum, vocabulary: int) -> Row:
    try:
        tokens = torch.tensor(datum.model_input.to_ints(), dtype=torch.long)
    except ValueError as error:
        raise Odd("rows that are not plain tokens") from error
    if not len(tokens):
        raise Odd("rows without tokens")
    inputs = {name: value.to_torch() for name, value in datum.loss_fn_inputs.items() if name not in MODEL_INPUTS}
    if "target_tokens" not in inputs:
        raise Odd("rows without target_tokens")
    if any(value.shape != tokens.shape for value in inputs.values()):
        raise Odd("loss inputs that don't have one value a token")
    for name, ids in (("model_input", tokens), ("target_tokens", inputs["target_tokens"])):
        if ids.dtype != torch.long:
            raise Odd(f"{name} that are not whole numbers")
        if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
            wrong = int(ids[(ids < 0) | (ids >= vocabulary)][0])
            raise UnknownToken(
                f"datum {number}: {name} holds {wrong}, but the model's vocabulary has {vocabulary} tokens; "
                "tokenize with the model's own tokenizer"
            )
    return Row(tokens, inputs)


def balanced(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Spread rows over as few passes as `most` tokens allow, all about equally full.

    Args:
        lengths: tokens of each row.
        most: tokens of a pass; a row that is longer gets a pass of its own.

    Returns:
        Numbers of the rows of each pass, in falling order of length.
    """
    longest_first = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    count = max(1, -(-sum(lengths) // most))
    while True:
        passes: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for number in longest_first:
            emptiest = min(range(count), key=filled.__getitem__)
            passes[emptiest].append(number)
            filled[emptiest] += lengths[number]
        if all(total <= most or len(members) == 1 for total, members in zip(filled, passes, strict=True)):
            return [members for members in passes if members]
        count += 1


def pack(rows: Sequence[Row], numbers: Sequence[int]) -> PackedPass:
    """Lay the rows with these numbers end to end."""
    chosen = [rows[number] for number in numbers]
    lengths = [row.length for row in chosen]
    return PackedPass(
        rows=tuple(numbers),
        lengths=tuple(lengths),
        tokens=torch.cat([row.tokens for row in chosen]),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        targets=torch.cat([row.inputs["target_tokens"] for row in chosen]),
        starts=torch.tensor([0, *lengths]).cumsum(0).to(torch.int32),
    )
