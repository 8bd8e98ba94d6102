"""Routers that need nothing but the token.

Shape letters: N tokens, D width, E experts, K chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.contracts.routers import Router, Routing

from .config import HashConfig, TopKConfig
from .routing import choose


class TopKRouter(Router):
    """The K experts with the largest s + b, s the softmax or sigmoid of ℓ = W_r x (Shazeer et al. 2017)."""

    config: TopKConfig

    def __init__(self, config: TopKConfig, dims: Dims, num_experts: int, top_k: int) -> None:
        super().__init__(config, dims, num_experts, top_k)
        self.weight = nn.Parameter(torch.empty(num_experts, dims.d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Normal, `init_std`."""
        nn.init.normal_(self.weight, std=self.dims.init_std)

    def logits(self, x: Tensor, ctx: Context) -> Tensor:
        """ℓ (N, E) of x (N, D), a transposed (E, N): what is done over few experts is done for many tokens at once."""
        return (self.weight.to(x.dtype) @ x.t()).t()

    def forward(self, x: Tensor, ctx: Context, bias: Tensor | None = None, extra: Tensor | None = None) -> Routing:
        """See `Router`."""
        logits = self.logits(x, ctx)
        summed = logits if extra is None else logits + extra
        return choose(summed, bias, self.top_k, self.config.scores, self.built_top_k)


class HashRouter(Router):
    """Experts by the token's id alone, each with weight 1/K: no weights, nothing to learn, the same for ever.

    Hash layers (Roller et al. 2021, arXiv 2106.04426). An id goes to the K experts of which `mix(id, expert)` is
    largest (rendezvous hashing, Thaler and Ravishankar 1998), so that they are distinct and evenly spread over ids.
    """

    config: HashConfig

    def forward(self, x: Tensor, ctx: Context, bias: Tensor | None = None, extra: Tensor | None = None) -> Routing:
        """See `Router`; bias and extra are left out of account.

        Raises:
            ValueError: the context has no tokens.
        """
        if ctx.tokens is None:
            raise ValueError("router hash: the context has no tokens")
        ids = ctx.tokens.reshape(-1, 1)
        experts = torch.arange(self.num_experts, device=ids.device)
        chosen = torch.topk(_mix(ids * self.num_experts + experts, self.config.seed), self.top_k, dim=-1).indices
        share = x.new_full(chosen.shape, 1 / self.top_k)
        probabilities = x.new_zeros(chosen.shape[0], self.num_experts).scatter(1, chosen, share)
        return Routing(chosen, share, probabilities, None)


def _mix(value: Tensor, seed: int) -> Tensor:
    """Integers that look random, 0 to 2³²−1, of integers: xorshift and multiplication by odd constants, modulo 2³²."""
    low = 0xFFFFFFFF
    mixed = (value + seed * 0x9E3779B1) & low
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        mixed = ((mixed ^ (mixed >> 16)) * factor) & low
    return mixed ^ (mixed >> 16)
