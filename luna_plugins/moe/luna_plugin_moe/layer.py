"""Mixture of experts, in place of a block's feed-forward layer.

Shape letters: B batch, T tokens, N = B·T, D width, E experts, K chosen, F hidden width of an expert.

The output of a token depends on nothing but that token and its conditions, so the layer is causal, needs no decode
state, and gives the same in a batch, alone, in prefill and in decoding. A capacity, which would end that, works in
training only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.contracts.routers import Router, Routing

from .balance import BalancedLayer, token_mask
from .config import MoEConfig
from .dispatch import Plan, make_plan
from .experts import run_experts
from .routing import token_mean


class SparseExperts(BalancedLayer):
    """y = Σ_{k∈S} w_k E_k(x) [+ E_shared(x)], with S and w from the router (Shazeer et al. 2017, arXiv 1701.06538).

    Args:
        router: builds the router.
    """

    nested: ClassVar[Mapping[str, str]] = {"router": "router"}
    config: MoEConfig

    def __init__(self, config: MoEConfig, dims: Dims, *, router: Callable[..., Router]) -> None:
        super().__init__()
        self.make_balance(config)
        d, experts, halves = dims.d_model, config.num_experts, 2 if config.activation == "swiglu" else 1
        hidden = expert_width(config, dims)
        self.router = router(dims, experts, config.top_k)
        self.w13 = nn.Parameter(torch.empty(experts, halves * hidden, d))
        self.w2 = nn.Parameter(torch.empty(experts, d, hidden))
        if config.shared_dim:
            self.shared_w13 = nn.Parameter(torch.empty(halves * config.shared_dim, d))
            self.shared_w2 = nn.Parameter(torch.empty(d, config.shared_dim))
        self.stds = (dims.init_std, dims.residual_std)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill every weight afresh."""
        inner, last = self.stds
        self.router.reset_parameters()
        nn.init.normal_(self.w13, std=inner)
        nn.init.normal_(self.w2, std=last)
        if self.config.shared_dim:
            nn.init.normal_(self.shared_w13, std=inner)
            nn.init.normal_(self.shared_w2, std=last)
        self.reset_balance()

    def output_parameters(self) -> tuple[str, ...]:
        """The experts' last matrices."""
        return ("w2", "shared_w2") if self.config.shared_dim else ("w2",)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Map x (B, T, D) to (B, T, D). Padding (segment 0) passes through, and counts in no loss and no statistic."""
        flat = x.reshape(-1, x.shape[-1])
        device = x.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        mask = token_mask(ctx)
        with torch.autocast(device, enabled=False):
            exact, work = flat.to(torch.promote_types(x.dtype, torch.float32)), flat.to(low)
            routing = self.router(exact, ctx, self.expert_bias)
            plan = self._plan(routing, mask)
            y = run_experts(work, self.w13, self.w2, routing.weights, plan).y
            if self.config.shared_dim:
                y = y + self._shared(work)
            if self.training or x.shape[1] > 1:  # one token at a time is decoding: nobody reads statistics there
                self.report(ctx, routing, mask)
                if plan.kept is not None:
                    ctx.add_metric("moe/dropped", self._dropped(plan, mask))
        return y.to(x.dtype).view_as(x)

    def _plan(self, routing: Routing, mask: Tensor | None) -> Plan:
        """Who works on what; in training, `capacity_factor` times the even share of what is no padding at most."""
        experts, factor = routing.experts, self.config.capacity_factor
        if factor is None or not self.training:
            return make_plan(experts, self.config.num_experts)
        tokens = torch.tensor(experts.shape[0], device=experts.device) if mask is None else mask.sum()
        capacity = torch.ceil(factor * tokens * self.config.top_k / self.config.num_experts).clamp_min(1)
        return make_plan(experts, self.config.num_experts, capacity, mask)

    @staticmethod
    def _dropped(plan: Plan, mask: Tensor | None) -> Tensor:
        """The share of the pairs of what is no padding that no expert worked on."""
        assert plan.kept is not None
        first = torch.cumsum(plan.counts, 0) - plan.counts
        expert = torch.bucketize(plan.inverse, torch.cumsum(plan.counts, 0), right=True)
        lost = (plan.inverse - first[expert] >= plan.kept[expert]).float().mean(1)
        return token_mean(lost, mask)

    def _shared(self, x: Tensor) -> Tensor:
        inner = F.linear(x, self.shared_w13.to(x.dtype))
        if self.config.activation == "gelu":
            return F.linear(F.gelu(inner), self.shared_w2.to(x.dtype))
        gate, value = inner.chunk(2, dim=-1)
        return F.linear(F.silu(gate) * value, self.shared_w2.to(x.dtype))

    def flops_per_token(self, context_length: int) -> float:
        """Forward operations per token: the router, the chosen experts, their sum, the shared expert."""
        _, d, hidden = self.w2.shape
        matrices = 3 if self.config.activation == "swiglu" else 2
        active = self.config.top_k * (matrices * d * hidden + d) + matrices * d * self.config.shared_dim
        return self.router.flops_per_token() + 2.0 * active


def expert_width(config: MoEConfig, dims: Dims) -> int:
    """F: as configured, or such that as many parameters work on a token as in the dense SwiGLU layer."""
    if config.expert_dim is not None:
        return config.expert_dim
    share = dims.ffn_dim / config.top_k * (1.5 if config.activation == "gelu" else 1.0)
    return max(16, math.floor(share / 16 + 0.5) * 16)
