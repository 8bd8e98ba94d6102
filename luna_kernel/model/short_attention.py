"""Attention over short texts in bfloat16 on a processor, with a backward pass of its own.

PyTorch's backward pass on the CPU goes through tiles and converts each of them to float32 and back. Up to some hundred
tokens a head's whole matrix of scores stays in the cache of a core, and the plain form is faster: five batched matrix
products, for which processors have bfloat16 units, and PyTorch's own softmax and its gradient in between.
`benchmarks/short_attention.py` measures both. The forward pass is PyTorch's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .decode_attention import attend_newest

LONGEST = 512
"""Tokens up to which the plain form is faster; beyond, half of its scores are of the future and thrown away."""
SCORES = 1 << 20
"""Scores that are computed at a time: two bytes each, they fit into the cache."""


class ShortAttention(torch.autograd.Function):
    """q (B, H, T, Dh), k and v (B, Hk, T, Dh), mask (B or 1, H or 1, T, T) or None for causality, to (B, H, T, Dh)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √Dh + mask) v."""
        ctx.save_for_backward(q, k, v, mask)
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, enable_gqa=q.shape[1] != k.shape[1]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """With P = softmax(S): dV = Pᵀ dO; dP = dO Vᵀ; dS = P ∘ (dP - rowsum(P ∘ dP)); dQ = dS K; dK = dSᵀ Q."""
        q, k, v, mask = ctx.saved_tensors
        B, H, T, Dh = q.shape
        groups = H // k.shape[1]
        bias = _bias(mask, T, q.dtype)
        # Laid out as `qkv` is, (B, T, heads, Dh), so that the gradient of the split is a view's and not a copy's.
        grads = [torch.empty(B, T, x.shape[1], Dh, dtype=x.dtype).transpose(1, 2) for x in (q, k, v)]
        size = max(1, SCORES // (H * T * T))
        for begin in range(0, B, size):
            rows = slice(begin, min(B, begin + size))
            own = bias if bias.shape[0] == 1 else bias[rows]
            parts = _gradients(grad[rows], q[rows], _heads(k[rows], groups), _heads(v[rows], groups), own)
            grads[0][rows] = parts[0]
            for whole, part in zip(grads[1:], parts[1:], strict=True):
                whole[rows] = part if groups == 1 else part.view(rows.stop - begin, -1, groups, T, Dh).sum(2)
        return grads[0], grads[1], grads[2], None


def _gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of some rows; all (b, H, T, Dh), bias (b or 1, H or 1, T, T)."""
    b, H, T, Dh = q.shape
    scale = 1.0 / math.sqrt(Dh)
    flat = [x.reshape(b * H, T, Dh) for x in (q * scale, k, v, grad)]
    scaled, keys, values, gradient = flat
    scores = torch.bmm(scaled, keys.mT)
    scores.view(b, H, T, T).add_(bias)
    weights = torch.softmax(scores, -1)
    grad_v = torch.bmm(weights.mT, gradient)
    grad_weights = torch.bmm(gradient, values.mT, out=scores)
    grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, scores.dtype)
    grad_q = torch.bmm(grad_scores, keys).mul_(scale)
    grad_k = torch.bmm(grad_scores.mT, scaled)
    return grad_q.view(b, H, T, Dh), grad_k.view(b, H, T, Dh), grad_v.view(b, H, T, Dh)


def _heads(x: Tensor, groups: int) -> Tensor:
    return x if groups == 1 else x.repeat_interleave(groups, 1)


def _bias(mask: Tensor | None, T: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: -inf where a query must not look."""
    if mask is None:
        return torch.full((1, 1, T, T), float("-inf"), dtype=dtype).triu_(1)
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))
    return mask


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, is_causal: bool) -> Tensor:
    """`F.scaled_dot_product_attention` for any number of tokens, through `ShortAttention` or `attend_newest` where they
    are faster.

    Args:
        q: (B, H, T, Dh).
        k, v: (B, Hk, S, Dh), H a multiple of Hk.
        mask: (B or 1, H or 1, T, S), True or a finite bias where a query may look, and somewhere in each row.
        is_causal: whether causality is all; `mask` is None then.
    """
    T, S = q.shape[2], k.shape[2]
    short = q.dtype == torch.bfloat16 and q.device.type == "cpu" and 1 < T == S <= LONGEST
    wanted = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    learnt_bias = mask is not None and mask.requires_grad
    if short and wanted and not learnt_bias and (is_causal or mask is not None) and not torch.compiler.is_compiling():
        return ShortAttention.apply(q, k, v, mask)  # type: ignore[no-any-return, no-untyped-call]
    low = q.dtype in (torch.bfloat16, torch.float16) and k.dtype == v.dtype == q.dtype
    if T == 1 and low and q.device.type == "cpu" and not wanted and not torch.compiler.is_compiling():
        return attend_newest(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1])
