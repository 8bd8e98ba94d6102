"""The short causal convolution, one filter per channel, and the SiLU after it.

Shape letters: B batch, T tokens, C channels, W width of the filter.

Four multiply-adds per number are bound by memory, not by arithmetic; so a stretch of tokens goes through all of them
while it is in the processor's cache, and the backward pass keeps the input alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS_AT_ONCE = 1 << 17
"""Numbers in one stretch of all rows of the batch."""


def convolve(u: Tensor, before: Tensor, weight: Tensor, bias: Tensor, runs: Tensor | None) -> Tensor:
    """silu(bias + Σ_j weight[:, W-1-j] · u_{t-j}).

    Args:
        u: (B, T, C).
        before: (B, W-1, C) the inputs before the first, zeros where there were none; dtype of u.
        weight: (C, W), the last column meets the token itself.
        bias: (C,).
        runs: (B, T) int64, see `scan`: a token sees only inputs of its own run; `before` is run 0.

    Returns:
        (B, T, C) in the dtype of u; computed in float32 at least.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        result: Tensor = _conv_op(u, before, weight, bias, runs)
        return result
    return _conv(u, before, weight, bias, runs)


def _same_run(runs: Tensor | None, width: int) -> list[Tensor | None]:
    """For each distance j < W: (B, T, 1) bool, whether the input j tokens back is of the same run; None: all are."""
    if runs is None:
        return [None] * width
    longer = F.pad(runs, (width - 1, 0))
    length = runs.shape[1]
    return [(longer[:, width - 1 - j : width - 1 - j + length] == runs)[..., None] if j else None for j in range(width)]


def _stretches(u: Tensor, before: Tensor, exact: torch.dtype) -> Any:
    """For each stretch of tokens: its slice, and its inputs (B, W-1 + stretch, C) with those before it."""
    reach = before.shape[1]
    size = max(NUMBERS_AT_ONCE // (u.shape[0] * u.shape[2]), 2 * reach, 1)
    for start in range(0, u.shape[1], size):
        part = slice(start, min(start + size, u.shape[1]))
        if start >= reach:
            yield part, u[:, start - reach : part.stop].to(exact)
        else:
            yield part, torch.cat([before[:, start:], u[:, : part.stop]], dim=1).to(exact)


def _filter(inputs: Tensor, weight: Tensor, bias: Tensor, same: list[Tensor | None], part: slice) -> Tensor:
    """The convolution alone, on one stretch."""
    width, length = weight.shape[1], part.stop - part.start
    total: Tensor = bias
    for j in range(width):
        shifted = inputs[:, width - 1 - j : width - 1 - j + length]
        mask = same[j]
        if mask is not None:
            shifted = shifted * mask[:, part]
        total = (
            torch.addcmul(total, shifted, weight[:, -1 - j]) if j == 0 else total.addcmul_(shifted, weight[:, -1 - j])
        )
    return total


def _conv(u: Tensor, before: Tensor, weight: Tensor, bias: Tensor, runs: Tensor | None) -> Tensor:
    exact = torch.promote_types(u.dtype, torch.float32)
    weight, bias = weight.to(exact), bias.to(exact)
    same = _same_run(runs, weight.shape[1])
    y = u.new_empty(u.shape)
    for part, inputs in _stretches(u, before, exact):
        y[:, part] = F.silu(_filter(inputs, weight, bias, same, part), inplace=True)
    return y


@torch.library.custom_op("luna_ssm::convolve", mutates_args=())
def _conv_op(u: Tensor, before: Tensor, weight: Tensor, bias: Tensor, runs: Tensor | None) -> Tensor:
    return _conv(u, before, weight, bias, runs)


@_conv_op.register_fake
def _(u: Tensor, before: Tensor, weight: Tensor, bias: Tensor, runs: Tensor | None) -> Tensor:
    return u.new_empty(u.shape)


@torch.library.custom_op("luna_ssm::convolve_backward", mutates_args=())
def _conv_backward_op(
    grad: Tensor, u: Tensor, before: Tensor, weight: Tensor, bias: Tensor, runs: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    exact = torch.promote_types(u.dtype, torch.float32)
    w, b = weight.to(exact), bias.to(exact)
    width = w.shape[1]
    same = _same_run(runs, width)
    columns = [torch.zeros_like(b) for _ in range(width)]
    grad_bias = torch.zeros_like(b)
    grad_u, grad_before = u.new_empty(u.shape), before.new_empty(before.shape)
    # A token's gradient comes from itself and the W-1 after it, so the stretches go backwards and hand on a rest.
    rest = torch.zeros(u.shape[0], width - 1, u.shape[2], dtype=exact, device=u.device)
    for part, inputs in reversed(list(_stretches(u, before, exact))):
        length = part.stop - part.start
        pre = _filter(inputs, w, b, same, part)
        pre = torch.ops.aten.silu_backward(grad[:, part].to(exact), pre)
        grad_bias += pre.sum((0, 1))
        total = torch.zeros_like(inputs)
        total[:, length:] = rest
        for j in range(width):
            span = slice(width - 1 - j, width - 1 - j + length)
            mask = same[j]
            masked = pre if mask is None else pre * mask[:, part]
            columns[j] += (masked * inputs[:, span]).sum((0, 1))
            total[:, span].addcmul_(masked, w[:, -1 - j])
        grad_u[:, part] = total[:, width - 1 :]
        rest = total[:, : width - 1]
    grad_before.copy_(rest)
    return grad_u, grad_before, torch.stack(columns[::-1], dim=1).to(weight.dtype), grad_bias.to(bias.dtype)


@_conv_backward_op.register_fake
def _(
    grad: Tensor, u: Tensor, before: Tensor, weight: Tensor, bias: Tensor, runs: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return u.new_empty(u.shape), before.new_empty(before.shape), torch.empty_like(weight), torch.empty_like(bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _back(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return (*_conv_backward_op(grad, *ctx.saved_tensors), None)


_conv_op.register_autograd(_back, setup_context=_save)
