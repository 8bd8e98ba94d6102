"""Sending tokens to their experts and back: nothing is dropped unless a capacity is given, so no token sees another.

Shape letters: N tokens, K experts per token, M = N·K, E experts, D width, R rows of a table.

The work itself is in `experts.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from luna_kernel.model.operator import operator

ROWS_AT_ONCE = 1024
"""Rows of one elementwise pass, so that they stay in the processor's cache."""


class Plan(NamedTuple):
    """Which row goes where."""

    order: Tensor
    """(M,) the pairs (token · K + slot), sorted by expert; stable, so equal routing gives equal order."""
    inverse: Tensor
    """(N, K) the sorted row of each pair."""
    counts: Tensor
    """(E,) rows of each expert."""
    kept: Tensor | None = None
    """(E,) how many of them, the first ones, it works on; None: all. What the others give is zero."""


def make_plan(experts: Tensor, num_experts: int, capacity: Tensor | None = None, mask: Tensor | None = None) -> Plan:
    """Sort the pairs by expert.

    Args:
        experts: (N, K) int64.
        num_experts: E.
        capacity: a scalar, the most rows that an expert takes, the first tokens first; None: it takes all.
        mask: (N,) bool, tokens that count: only padding is turned away before the last of these.
    """
    flat = experts.reshape(-1)
    counts = count_experts(experts, num_experts)
    kept = None
    key = flat
    if capacity is not None:
        kept = counts.minimum(capacity.to(counts.dtype))
        if mask is not None:
            key = 2 * flat + (~mask).repeat_interleave(experts.shape[1])
    order = torch.argsort(key, stable=True)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(flat.numel(), device=flat.device))
    return Plan(order, inverse.view_as(experts), counts, kept)


def count_experts(experts: Tensor, num_experts: int, mask: Tensor | None = None) -> Tensor:
    """(E,) int64: how many of the pairs `experts` (N, K) each expert has; `mask` (N,) leaves tokens out."""
    flat = experts.reshape(-1)
    ones = torch.ones_like(flat) if mask is None else mask.to(flat.dtype).repeat_interleave(experts.shape[1])
    return flat.new_zeros(num_experts).scatter_add_(0, flat, ones)


def sum_rows(table: Tensor, index: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ_k weights[n, k] · table[index[n, k]] -> (N, D), summed in slot order, so the result is deterministic."""
    if not index.numel():
        return table.new_zeros(index.shape[0], table.shape[1])
    return F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")


def combine(table: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """The weighted sum of the chosen experts' outputs, in float32 at least.

    Args:
        table: (R, D) outputs.
        weights: (N, K) float32 (float64 with a float64 table).
        index: (N, K) int64 rows of the table; no row occurs twice.

    Returns:
        (N, D), Σ_k weights[n, k] · table[index[n, k]], in the dtype of `weights`.
    """
    y: Tensor = _combine_op(table, weights, index)
    return y


@operator("luna_moe::combine")
def _combine_op(table: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    return sum_rows(table.to(weights.dtype), index, weights)


@_combine_op.register_fake
def _(table: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    return weights.new_empty(index.shape[0], table.shape[1])


@torch.library.custom_op("luna_moe::combine_backward", mutates_args=())
def _combine_backward_op(grad: Tensor, table: Tensor, weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    grad_table = torch.empty_like(table) if table.shape[0] == index.numel() else torch.zeros_like(table)
    grad_weights = torch.empty_like(weights)
    at_once = ROWS_AT_ONCE if grad.device.type == "cpu" else max(1, index.shape[0])
    for start in range(0, index.shape[0], at_once):
        part = slice(start, start + at_once)
        for slot in range(index.shape[1]):
            rows = index[part, slot]
            grad_weights[part, slot] = (grad[part] * table.index_select(0, rows)).sum(-1)
            grad_table.index_copy_(0, rows, (grad[part] * weights[part, slot, None]).to(table.dtype))
    return grad_table, grad_weights


@_combine_backward_op.register_fake
def _(grad: Tensor, table: Tensor, weights: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(table), torch.empty_like(weights)


def _save_combine(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _back_combine(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return (*_combine_backward_op(grad.contiguous(), *ctx.saved_tensors), None)


_combine_op.register_autograd(_back_combine, setup_context=_save_combine)
