"""The short causal convolution, one filter per channel, and the SiLU after it, on one stretch of tokens.

Shape letters: B rows, L tokens of the stretch, C channels, W width of the filter.

    pre_t = bias + Σ_j weight[:, W-1-j] · u_{t-j},   mixed = pre · σ(pre)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def same_run(runs: Tensor | None, width: int) -> list[Tensor | None]:
    """For each distance j < W: (B, L, 1) bool, whether the input j tokens back is of the same run; None: all are.

    Args:
        runs: (B, W-1 + L), see `sequence`.
        width: W.
    """
    if runs is None:
        return [None] * width
    length = runs.shape[1] - width + 1
    own = runs[:, width - 1 :]
    return [(runs[:, width - 1 - j : width - 1 - j + length] == own)[..., None] if j else None for j in range(width)]


def convolve(window: Tensor, taps: Tensor, bias: Tensor, same: list[Tensor | None]) -> Tensor:
    """pre (B, L, C) from window (B, W-1 + L, C), taps (W, C) whose last row meets the token itself, bias (C,).

    The taps are rows, each contiguous: columns of a (C, W) matrix would make every pass twice as slow.
    """
    width = taps.shape[0]
    length = window.shape[1] - width + 1
    total: Tensor = bias
    for j, mask in enumerate(same):
        shifted = window[:, width - 1 - j : width - 1 - j + length]
        if mask is not None:
            shifted = shifted * mask
        total = total.addcmul_(shifted, taps[-1 - j]) if j else torch.addcmul(total, shifted, taps[-1])
    return total


def convolve_backward(
    grad: Tensor, window: Tensor, taps: Tensor, same: list[Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of window, taps and bias from that of pre."""
    width, length = taps.shape[0], grad.shape[1]
    rows = []
    total = torch.empty_like(window)
    total[:, : width - 1] = 0
    torch.mul(grad, taps[-1], out=total[:, width - 1 :])
    for j, mask in enumerate(same):
        span = slice(width - 1 - j, width - 1 - j + length)
        masked = grad if mask is None else grad * mask
        rows.append((masked * window[:, span]).sum((0, 1)))
        if j:
            total[:, span].addcmul_(masked, taps[-1 - j])
    return total, torch.stack(rows[::-1]), grad.sum((0, 1))


def activate(u: Tensor) -> tuple[Tensor, Tensor]:
    """u · σ(u) and its derivative, both from one exponential."""
    slope = torch.sigmoid(u)
    value = u * slope
    # σ + uσ(1 − σ) = σ + value − value·σ
    return value, slope.addcmul_(value, slope, value=-1).add_(value)


def silu(u: Tensor) -> Tensor:
    """u · σ(u) alone, in place."""
    return F.silu(u, inplace=True)
