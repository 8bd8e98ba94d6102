"""Mixture of Collaborative Experts, in place of a block's feed-forward layer.

Shape letters: B batch, T tokens, N = B·T, D width, E experts, K chosen, F hidden width of an expert.

Three stages, each switchable: a context (experts confer before the choice), a sparse dispatch without dropping, a
fusion (the chosen confer after it). The output of a token depends on nothing but that token, so the layer is causal,
needs no decode state, and gives the same in a batch, alone, in prefill and in decoding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from luna_plugin_moe.balance import BalancedLayer, token_mask
from luna_plugin_moe.dispatch import combine, expert_mlp, make_plan
from torch import Tensor, nn

from luna_kernel.base.errors import ConfigError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.layers import Context, Dims
from luna_kernel.contracts.routers import Router, Routing

from .collaboration import FullContext, Fusion, ProbeContext
from .config import MoCConfig

t = catalogue(__package__)


class CollaborativeExperts(BalancedLayer):
    """y = Σ_{k∈S} w_k E_k(x) + B Σ_k w_k m_k, with S the top K of softmax(W_r x + ⟨v, c⟩) + b.

    Args:
        router: builds the router, which gives W_r x and the choice.

    Raises:
        ConfigError: `context: full` with a number of heads that does not divide the model's width.
    """

    nested: ClassVar[Mapping[str, str]] = {"router": "router"}
    prefix = "moc"
    config: MoCConfig

    def __init__(self, config: MoCConfig, dims: Dims, *, router: Callable[..., Router]) -> None:
        super().__init__()
        self.make_balance(config)
        d, experts = dims.d_model, config.num_experts
        hidden = config.expert_dim or max(16, round(dims.ffn_dim / config.top_k / 16) * 16)
        self.router = router(dims, experts, config.top_k)
        self.w13 = nn.Parameter(torch.empty(experts, 2 * hidden, d))
        self.w2 = nn.Parameter(torch.empty(experts, d, hidden))
        if config.shared_dim:
            self.shared_w13 = nn.Parameter(torch.empty(2 * config.shared_dim, d))
            self.shared_w2 = nn.Parameter(torch.empty(d, config.shared_dim))
        self.context: ProbeContext | FullContext | None = None
        if config.context == "low_rank":
            self.context = ProbeContext(d, experts, config.probe_rank, config.context_heads or 1)
        elif config.context == "full":
            heads = config.context_heads or dims.num_heads
            if d % heads:
                raise ConfigError(t("full.heads", size=d, heads=heads), hint=t("full.heads.hint", size=d))
            self.context = FullContext(d, heads, dims.norm_eps)
        self.fusion = Fusion(d, config.fusion_dim) if config.fusion == "attend" else None
        self.stds = (dims.init_std, dims.residual_std)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the weights: the experts and the router as a plain mixture's, what confers with zeros at its end."""
        inner, last = self.stds
        self.router.reset_parameters()
        nn.init.normal_(self.w13, std=inner)
        nn.init.normal_(self.w2, std=last)
        if self.config.shared_dim:
            nn.init.normal_(self.shared_w13, std=inner)
            nn.init.normal_(self.shared_w2, std=last)
        if self.context is not None:
            self.context.reset_parameters()
        if self.fusion is not None:
            self.fusion.reset_parameters()
        self.reset_balance()

    def output_parameters(self) -> tuple[str, ...]:
        """The experts' last matrices: what the fusion adds is made of their outputs, and it has no bias."""
        return ("w2", "shared_w2") if self.config.shared_dim else ("w2",)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Map x (B, T, D) to (B, T, D). Padding (segment 0) passes through, and counts in no loss and no statistic."""
        flat = x.reshape(-1, x.shape[-1])
        device = x.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        mask = token_mask(ctx)
        with torch.autocast(device, enabled=False):
            exact, work = flat.to(torch.promote_types(x.dtype, torch.float32)), flat.to(low)
            probes = None
            if isinstance(self.context, FullContext):
                spoken = self._all_experts(work)  # (E, N, D)
                routing = self.router(exact, ctx, self.expert_bias, self.context(spoken).to(exact.dtype))
                table = spoken.flatten(0, 1)
                index = routing.experts * flat.shape[0] + torch.arange(flat.shape[0], device=x.device)[:, None]
            else:
                scores = None
                if self.context is not None:
                    scores, probes = self.context(exact)
                routing = self.router(exact, ctx, self.expert_bias, scores)
                plan = make_plan(routing.experts, self.config.num_experts)
                w13: Tensor = self.w13
                w2: Tensor = self.w2
                if torch.is_grad_enabled():  # cast once for both passes; without gradients only what runs is cast
                    w13, w2 = w13.to(low), w2.to(low)
                table, index = expert_mlp(work, w13, w2, plan), plan.inverse
            y = combine(table, routing.weights, index)
            if self.fusion is not None:
                y = y + self.fusion(table, routing.weights, index)
            if self.config.shared_dim:
                y = y + self._shared(work)
            if self.training or x.shape[1] > 1:  # one token at a time is decoding: nobody reads statistics there
                self.report(ctx, routing, mask)
                if isinstance(self.context, ProbeContext) and probes is not None and self.config.calibration_weight:
                    self._calibrate(ctx, self.context, probes, table, routing, index, mask)
        return y.to(x.dtype).view_as(x)

    def _all_experts(self, x: Tensor) -> Tensor:
        """Every expert on every token: x (N, D) -> (E, N, D), in two matrix products."""
        experts, d, hidden = self.w2.shape
        both = F.linear(x, self.w13.to(x.dtype).view(-1, d)).view(-1, experts, 2, hidden)
        act = F.silu(both[:, :, 0]) * both[:, :, 1]
        return torch.bmm(act.transpose(0, 1), self.w2.to(x.dtype).transpose(1, 2))

    def _shared(self, x: Tensor) -> Tensor:
        gate, value = F.linear(x, self.shared_w13.to(x.dtype)).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * value, self.shared_w2.to(x.dtype))

    def _calibrate(
        self,
        ctx: Context,
        context: ProbeContext,
        probes: Tensor,
        table: Tensor,
        routing: Routing,
        index: Tensor,
        mask: Tensor | None,
    ) -> None:
        shape = (*index.shape, probes.shape[-1])
        said = F.linear(table.detach(), context.sketch.to(table.dtype)).index_select(0, index.reshape(-1)).view(shape)
        chosen = probes.gather(1, routing.experts.unsqueeze(-1).expand(shape))
        loss, fit = context.calibration(chosen, said.to(probes.dtype), mask)
        ctx.add_metric("moc/calibration_r2", fit)
        if self.training:
            ctx.add_loss("moc/calibration", self.config.calibration_weight * loss)

    def flops_per_token(self, context_length: int) -> float:
        """Forward operations per token; with `context: full` all experts run and all are counted."""
        experts, d, hidden = self.w2.shape
        running = experts if self.config.context == "full" else self.config.top_k
        sparse = running * 3 * d * hidden + self.config.top_k * d + 3 * d * self.config.shared_dim
        total = self.router.flops_per_token() + 2.0 * sparse
        if isinstance(self.context, ProbeContext):
            total += self.context.flops()
        elif isinstance(self.context, FullContext):
            total += self.context.flops(experts)
        if self.fusion is not None:
            total += self.fusion.flops(self.config.top_k)
        return total

    @classmethod
    def migrate(
        cls, weights: dict[str, Tensor], node: dict[str, Any], from_version: int
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Version 1 had its linear router's matrix as `router`; now it is the `weight` of a router of its own."""
        if from_version == 1:
            weights = {"router.weight" if name == "router" else name: value for name, value in weights.items()}
            node = {**node, "router": {"name": "topk"}}
        return weights, node
