"""Head and cross-entropy in one, chunk by chunk: the (N, V) logits never exist at once.

The gradient of the logits is known as soon as the loss is (softmax minus one-hot), so the forward pass computes the
gradients of the input and of the weight right away and the backward pass only scales them. The idea is that of
Liger's and of Cut Cross-Entropy (Wijmans et al. 2024, arXiv 2411.09009).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 1 << 24
"""Size of one chunk's logits in the type of the matrices."""
BLOCK_BYTES = 1 << 20
"""Size of the float32 block in which a softmax is taken: it stays in a core's cache."""


class LinearCrossEntropy(torch.autograd.Function):
    """sum_i weights_i · cross_entropy(hidden_i @ weight.T, targets_i)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """hidden (N, D), weight (V, D), targets (N,) int64, weights (N,) float32 or None; a float32 scalar."""
        N, V = hidden.shape[0], weight.shape[0]
        dtype = _compute_dtype(hidden)
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        matrix = weight.to(dtype)
        grad_hidden = torch.empty(hidden.shape, dtype=dtype, device=hidden.device) if need_hidden else None
        grad_weight: Tensor | None = None
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        size = max(1, CHUNK_BYTES // (dtype.itemsize * V))
        with torch.autocast(hidden.device.type, enabled=False):
            for begin in range(0, N, size):
                rows = slice(begin, min(begin + size, N))
                x = hidden[rows].to(dtype)
                logits = x @ matrix.t()
                chunk_weights = None if weights is None else weights[rows]
                total += _loss_into_gradient(logits, targets[rows], chunk_weights)
                if grad_hidden is not None:
                    torch.mm(logits, matrix, out=grad_hidden[rows])
                if need_weight:
                    part = logits.t() @ x
                    grad_weight = part.float() if grad_weight is None else grad_weight.add_(part)
        if need_weight and grad_weight is None:  # no token counts: still a gradient, for who waits for one
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = (hidden.dtype, weight.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Scale what the forward pass computed."""
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = (grad_hidden * grad).to(ctx.dtypes[0])
        if grad_weight is not None:
            grad_weight = (grad_weight * grad).to(ctx.dtypes[1])
        return grad_hidden, grad_weight, None, None


def _loss_into_gradient(logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
    """The loss of logits (n, V), and in their place its gradient: weights · (softmax - one-hot). All in float32."""
    n, V = logits.shape
    size = max(1, BLOCK_BYTES // (4 * V)) if logits.device.type == "cpu" else n
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    for begin in range(0, n, size):
        rows = slice(begin, min(begin + size, n))
        block = logits[rows].float()  # no copy if they are float32 already
        index = targets[rows, None]
        largest = block.amax(-1, keepdim=True)
        at_target = block.gather(1, index)
        exponential = block.sub_(largest).exp_()
        norm = exponential.sum(-1, keepdim=True)
        losses = norm.log() + largest - at_target
        scale = norm.reciprocal()
        if weights is not None:
            losses, scale = losses * weights[rows, None], scale * weights[rows, None]
        total += losses.sum()
        exponential.scatter_add_(1, index, -norm).mul_(scale)
        if block.dtype != logits.dtype:
            logits[rows] = exponential
    return total


def _compute_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum over tokens of weights · cross-entropy, a float32 scalar, exact to the plain computation.

    Args:
        hidden: (B, T, D), after the last norm.
        weight: (V, D), the head.
        targets: (B, T) int64, in [0, V) also where the weight is 0.
        weights: (B, T); 0 or False leaves a token out, and it costs nothing. Of type bool, the others count 1.
            None: all count 1.
    """
    flat, index = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    scale: Tensor | None = None
    if weights is not None:
        flags = weights.reshape(-1)
        counted = flags.nonzero()[:, 0]
        scale = None if flags.dtype == torch.bool else flags.float()
        if counted.shape[0] < index.shape[0]:
            flat, index = flat[counted], index[counted]
            scale = None if scale is None else scale[counted]
    return LinearCrossEntropy.apply(flat, weight, index, scale)  # type: ignore[no-any-return, no-untyped-call]
