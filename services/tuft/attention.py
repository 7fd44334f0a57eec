"""Causal attention within packed rows: FlashAttention's kernel on a GPU, else row by row."""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attend(query: Tensor, key: Tensor, value: Tensor, starts: Tensor, longest: int, scale: float) -> Tensor:
    """Compute attention of each token over its own row up to itself.

    Args:
        query: [T, heads, head size].
        key: [T, key heads, head size]; heads is a multiple of key heads.
        value: as key.
        starts: int32 [R + 1], where rows begin; ends with T.
        longest: tokens of the longest row.
        scale: of the products, before softmax.

    Returns:
        [T, heads, head size].
    """
    if query.is_cuda:
        attended = torch.ops.aten._flash_attention_forward(
            query, key, value, starts, starts, longest, longest, 0.0, True, False, scale=scale
        )
        return cast(Tensor, attended[0])
    ends = starts.tolist()
    rows = [
        scaled_dot_product_attention(
            query[begin:end].transpose(0, 1)[None],
            key[begin:end].transpose(0, 1)[None],
            value[begin:end].transpose(0, 1)[None],
            is_causal=True,
            scale=scale,
            enable_gqa=True,
        )
        for begin, end in itertools.pairwise(ends)
        if end > begin
    ]
    return torch.cat([row[0].transpose(0, 1) for row in rows])
