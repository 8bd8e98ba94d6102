"""Routers that need nothing but the token.

Shape letters: N tokens, D width, E experts, K chosen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.contracts.routers import Router, Routing

from .config import TopKConfig
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
        """ℓ (N, E) of x (N, D)."""
        return F.linear(x, self.weight.to(x.dtype))

    def forward(self, x: Tensor, ctx: Context, bias: Tensor | None = None, extra: Tensor | None = None) -> Routing:
        """See `Router`."""
        logits = self.logits(x, ctx)
        return choose(logits if extra is None else logits + extra, bias, self.top_k, self.config.scores)
