"""Activation checkpointing: a block keeps its input alone, and runs again in the backward pass (Chen et al. 2016,
arXiv 1604.06174).

The same operations on the same numbers give the same gradients, to the bit: random generators are put back, and what
the second run leaves in the context is thrown away. What a layer counts in its forward pass, it must not count when
`ctx.recomputing`. A tensor with a gradient that the layers share, such as a learned bias of the scores, is made by each
block for itself: kept once for all, it would be what checkpointing is there to let go.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from luna_kernel.contracts.layers import Context


def run_block(block: nn.Module, x: Tensor, ctx: Context) -> Tensor:
    """block(x, ctx), x (B, T, D), in training without a state; of its activations only x is kept."""
    entry = dataclasses.replace(ctx, shared=dict(ctx.shared))
    again = False

    def run(x: Tensor) -> tuple[Tensor, Context]:
        own = dataclasses.replace(entry, shared=dict(entry.shared), losses={}, reported={}, recomputing=again)
        return block(x, own), own

    y, left = checkpoint(run, x, use_reentrant=False)
    again = True
    for name, value in left.losses.items():
        ctx.add_loss(name, value)
    ctx.reported.update(left.reported)
    ctx.shared.update({key: value for key, value in left.shared.items() if not _has_gradient(value)})
    result: Tensor = y
    return result


def _has_gradient(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_gradient, value))
    return isinstance(value, Tensor) and value.requires_grad
