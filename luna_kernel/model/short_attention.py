"""Attention over short texts on a processor, with a backward pass of its own.

Up to some hundred tokens a head's whole matrix of scores stays in the cache of a core, and the plain form is faster
than PyTorch's tiles: batched matrix products, and PyTorch's own softmax and its gradient in between. In bfloat16 this
is so of the backward pass, where PyTorch converts each tile to float32 and back; the forward pass is PyTorch's. In
float32 it is so of both where oneDNN multiplies (`linear.float32_by_onednn`): there each product of a tile is made
ready anew, which takes longer than the product. `benchmarks/short_attention.py` measures both.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .decode_attention import attend_newest
from .linear import float32_goes_by_onednn

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
        if q.dtype == torch.float32:
            return attend_plainly(q, k, v, mask)
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
        # Laid out as `qkv` is, (B, T, heads, Dh), so that the gradient of the split is a view's and not a copy's.
        grads = [torch.empty(B, T, x.shape[1], Dh, dtype=x.dtype).transpose(1, 2) for x in (q, k, v)]
        for rows, own in _some_rows(q, mask):
            parts = _gradients(grad[rows], q[rows], _heads(k[rows], groups), _heads(v[rows], groups), own)
            grads[0][rows] = parts[0]
            for whole, part in zip(grads[1:], parts[1:], strict=True):
                whole[rows] = part if groups == 1 else part.view(rows.stop - rows.start, -1, groups, T, Dh).sum(2)
        return grads[0], grads[1], grads[2], None


def _gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of some rows; all (b, H, T, Dh), bias (b or 1, H or 1, T, T)."""
    b, H, T, Dh = q.shape
    scale = 1.0 / math.sqrt(Dh)
    scaled, keys, values, gradient = (x.reshape(b * H, T, Dh) for x in (q * scale, k, v, grad))
    scores = _scores(scaled, keys, bias, H)
    weights = torch.softmax(scores, -1)
    grad_v = torch.bmm(weights.mT, gradient)
    grad_weights = torch.bmm(gradient, values.mT, out=scores)
    grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, scores.dtype)
    grad_q = torch.bmm(grad_scores, keys).mul_(scale)
    grad_k = torch.bmm(grad_scores.mT, scaled)
    return grad_q.view(b, H, T, Dh), grad_k.view(b, H, T, Dh), grad_v.view(b, H, T, Dh)


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √Dh + mask) v by whole matrices of scores, some rows at a time, without gradients.

    Args:
        q: (B, H, T, Dh).
        k, v: (B, Hk, T, Dh).
        mask: (B or 1, H or 1, T, T), None for causality.
    """
    B, H, T, Dh = q.shape
    groups = H // k.shape[1]
    out = torch.empty(B, T, H, Dh, dtype=q.dtype).transpose(1, 2)  # the heads of a token side by side, as they are read
    for rows, bias in _some_rows(q, mask):
        parts = (q[rows] / math.sqrt(Dh), _heads(k[rows], groups), _heads(v[rows], groups))
        scaled, keys, values = (x.reshape(-1, T, Dh) for x in parts)
        out[rows] = torch.bmm(torch.softmax(_scores(scaled, keys, bias, H), -1), values).view(-1, H, T, Dh)
    return out


def _some_rows(q: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """Rows whose scores fit into the cache together, and what is added to these scores."""
    B, H, T, _ = q.shape
    bias = _bias(mask, T, q.dtype)
    size = max(1, SCORES // (H * T * T))
    for begin in range(0, B, size):
        rows = slice(begin, min(B, begin + size))
        yield rows, bias if bias.shape[0] == 1 else bias[rows]


def _scores(scaled: Tensor, keys: Tensor, bias: Tensor, heads: int) -> Tensor:
    """(b·H, T, T) of scaled and keys (b·H, T, Dh), with bias (b or 1, H or 1, T, T)."""
    scores = torch.bmm(scaled, keys.mT)
    scores.view(-1, heads, *scores.shape[1:]).add_(bias)
    return scores


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
    here = q.device.type == "cpu" and 1 < T == S <= LONGEST and not torch.compiler.is_compiling()
    exact = here and q.dtype == k.dtype == v.dtype == torch.float32 and float32_goes_by_onednn()
    wanted = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    learnt_bias = torch.is_grad_enabled() and mask is not None and mask.requires_grad
    if here and (is_causal or mask is not None) and not learnt_bias:
        if wanted and (exact or q.dtype == torch.bfloat16):
            return ShortAttention.apply(q, k, v, mask)  # type: ignore[no-any-return, no-untyped-call]
        if exact:
            return attend_plainly(q, k, v, mask)
    low = q.dtype in (torch.bfloat16, torch.float16) and k.dtype == v.dtype == q.dtype
    if T == 1 and low and q.device.type == "cpu" and not wanted and not torch.compiler.is_compiling():
        return attend_newest(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1])
