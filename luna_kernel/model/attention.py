"""Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245) with optional QK-norm and sliding window.

Queries, keys and values are one matrix, `qkv`, in this order. The fast causal path is taken only when queries and keys
are the same tokens of one sample; else the mask is explicit: earlier slot, same segment, within the window or among
the sinks, the first tokens of a sample (Xiao et al. 2023, arXiv 2309.17453; here they keep their true positions, so
that a pass with a cache equals one without).
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from luna_kernel.contracts.layers import Context, Dims, Layer, Pairs, Position

from .attention_config import AttentionConfig
from .kv_cache import KVCache
from .linear import Linear
from .norm import RMSNorm
from .short_attention import attend


class Attention(Layer):
    """x (B, T, D) to (B, T, D).

    Attributes:
        window, sinks: how far a token sees; `limit_cache` narrows them for a generation.
    """

    def __init__(self, config: AttentionConfig, dims: Dims) -> None:
        super().__init__()
        if dims.num_heads % dims.num_kv_heads:
            raise ValueError(f"num_heads {dims.num_heads} is no multiple of num_kv_heads {dims.num_kv_heads}")
        self.num_heads, self.num_kv_heads, self.head_dim = dims.num_heads, dims.num_kv_heads, dims.head_dim
        self.window = config.window
        self.sinks = config.sinks
        width = (dims.num_heads + 2 * dims.num_kv_heads) * dims.head_dim
        self.qkv = Linear(dims.d_model, width, std=dims.init_std, bias=config.qkv_bias)
        self.out = Linear(dims.num_heads * dims.head_dim, dims.d_model, std=dims.residual_std, bias=config.out_bias)
        self.q_norm = RMSNorm(dims.head_dim, dims.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(dims.head_dim, dims.norm_eps) if config.qk_norm else None

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """See the class; `ctx.state` is a `KVCache` or None."""
        B, T, _ = x.shape
        q, k, v = self._project(x, ctx)
        cache: KVCache | None = ctx.state
        marks = self._marks(ctx, cache)
        if cache is not None:
            k, v = cache.append(k, v, ctx.positions, ctx.segment_ids, marks)
            q = q.to(k.dtype)
            if T == 1 and self.window is not None and not self.sinks and cache.segments is None:
                k, v = k[:, :, -self.window :], v[:, :, -self.window :]
        mask, is_causal = self._mask(q, k.shape[2], ctx, cache, marks)
        y = attend(q, k, v, mask, is_causal=is_causal)
        out: Tensor = self.out(y.transpose(1, 2).reshape(B, T, -1).to(x.dtype))
        return out

    def weights(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """How much each token takes from each: for looking at, not a part of a pass.

        Args:
            x: (B, T, D), all tokens of the rows; what `ctx.state` holds is left out of account.
            ctx: of the pass.

        Returns:
            (B, H, T, T), each row sums to 1, float32 at least; and the values (B, H, T, Dh) that they weigh: their
            product, through `out`, is what `forward` gives for x.
        """
        q, k, v = self._project(x, ctx)
        alone = dataclasses.replace(ctx, state=None)
        mask, is_causal = self._mask(q, k.shape[2], alone, None, self._marks(alone, None))
        k, v = (each.repeat_interleave(self.num_heads // self.num_kv_heads, 1) for each in (k, v))
        exact = torch.promote_types(q.dtype, torch.float32)
        scores = (q.to(exact) @ k.to(exact).mT) / math.sqrt(self.head_dim)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1), v

    def _project(self, x: Tensor, ctx: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, Dh), keys and values (B, Hk, T, Dh), normed and turned."""
        B, T, _ = x.shape
        H, Hk = self.num_heads, self.num_kv_heads
        q, k, v = self.qkv(x).view(B, T, H + 2 * Hk, self.head_dim).transpose(1, 2).split((H, Hk, Hk), 1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if ctx.position is not None:
            q, k = ctx.position.rotate(q, k, ctx)
        return q, k, v

    def output_parameters(self) -> tuple[str, ...]:
        """The output's matrix, and its bias."""
        return ("out.weight",) if self.out.bias is None else ("out.weight", "out.bias")

    def make_state(self, batch: int, max_length: int, dtype: torch.dtype, device: torch.device) -> KVCache:
        """An empty cache."""
        return KVCache((batch, self.num_kv_heads, self.head_dim), max_length, dtype, device, self.window, self.sinks)

    def flops_per_token(self, context_length: int) -> float:
        """The matrices, and scores and weighted sum over the tokens in sight."""
        seen = context_length if self.window is None else min(context_length, self.window + self.sinks)
        return super().flops_per_token(context_length) + 4.0 * self.num_heads * self.head_dim * seen

    def _marks(self, ctx: Context, cache: KVCache | None) -> Tensor | None:
        """The position scheme's marks of this pass, the same for all layers."""
        if ctx.position is None or type(ctx.position).marks is Position.marks:
            return None
        if "position_marks" not in ctx.shared:
            last = None if cache is None else cache.last_marks
            ctx.shared["position_marks"] = ctx.position.marks(ctx, last)
        return ctx.shared["position_marks"]  # type: ignore[no-any-return]

    def _mask(
        self, q: Tensor, S: int, ctx: Context, cache: KVCache | None, marks: Tensor | None
    ) -> tuple[Tensor | None, bool]:
        """The mask, True or a finite bias where a query may look, (B or 1, H or 1, T, S); and whether plain causality
        says it all."""
        T = q.shape[2]
        segments = ctx.segment_ids if cache is None else cache.segments
        in_sight = self.window is None or self.window >= S
        biased = ctx.position is not None and type(ctx.position).bias is not Position.bias
        if segments is None and in_sight and not biased:
            if T == 1:
                return None, False
            if T == S:
                return None, True
        key = ("attention_mask", self.window, self.sinks, T, S, q.dtype if biased or T == 1 else None)
        if key not in ctx.shared:
            mask = self._visible(q.device, T, S, ctx, cache)
            bias = self._bias(S, ctx, cache, marks) if biased else None
            if bias is None and T == 1:  # a mask of True and False every layer would turn into this by itself
                bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device)
            ctx.shared[key] = mask if bias is None else bias.to(q.dtype).masked_fill(~mask, float("-inf"))
        return ctx.shared[key], False

    def _bias(self, S: int, ctx: Context, cache: KVCache | None, marks: Tensor | None) -> Tensor | None:
        """What the position scheme adds to the scores, (B or 1, H or 1, T, S)."""
        assert ctx.position is not None
        queries = keys = ctx.positions[:1] if ctx.positions.stride(0) == 0 else ctx.positions
        key_marks = marks
        if cache is not None:
            kept = slice(cache.length - S, cache.length)
            queries, keys = ctx.positions, cache.positions[:, kept]
            key_marks = None if cache.marks is None else cache.marks[:, kept]
        return ctx.position.bias(ctx, Pairs(queries, keys, marks, key_marks))

    def _visible(self, device: torch.device, T: int, S: int, ctx: Context, cache: KVCache | None) -> Tensor:
        """True where query i may see key j, (B or 1, 1, T, S); query i stands in slot S - T + i."""
        segments = ctx.segment_ids if cache is None else cache.segments
        if T == 1 and segments is not None and self.window is None:  # the newest token comes after all of them
            return (segments[:, S - 1 : S] == segments[:, :S])[:, None, None]
        query = torch.arange(S - T, S, device=device)[:, None]
        slot = torch.arange(S, device=device)
        visible = (slot <= query)[None]
        if segments is None:
            if self.window is not None:
                visible = visible & ((query - slot < self.window) | (slot < self.sinks))
            return visible[:, None]
        segments = segments[:, :S]
        visible = visible & (segments[:, S - T :, None] == segments[:, None, :])
        if self.window is not None:
            positions = ctx.positions if cache is None else cache.positions[:, :S]
            near = ctx.positions[:, :, None] - positions[:, None, :] < self.window
            visible = visible & (near | (positions < self.sinks)[:, None] | (slot == query))
        return visible[:, None]
