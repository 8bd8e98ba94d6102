"""What all layers with experts share: even load, and a report of what the router does.

Shape letters: N tokens, E experts.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from luna_kernel.contracts.layers import PADDING_SEGMENT, Context, Layer
from luna_kernel.contracts.routers import Routing

from .dispatch import count_experts
from .routing import statistics, switch_loss, z_loss


class BalanceConfig(Protocol):
    """The fields of a layer's configuration that are read here."""

    num_experts: int
    balance: str
    bias_rate: float
    balance_weight: float
    z_loss_weight: float


class BalancedLayer(Layer):
    """A layer with experts, their selection bias, and the count of their tokens since the last optimiser step.

    `prefix` is the first part of the names of its losses and metrics.
    """

    prefix = "moe"
    config: BalanceConfig

    def make_balance(self, config: BalanceConfig) -> None:
        """For the constructor: the bias (E,), a saved buffer, if `balance` is `bias`."""
        self.config = config
        self.expert_bias: Tensor | None
        self.register_buffer("expert_bias", torch.empty(config.num_experts) if config.balance == "bias" else None)
        self.tokens_per_expert: Tensor | None = None
        """(E,) int64, pairs since the last optimiser step. No buffer: it is no part of a checkpoint."""

    def reset_balance(self) -> None:
        """For `reset_parameters`: no bias, nothing counted."""
        if self.expert_bias is not None:
            self.expert_bias.zero_()
        self.tokens_per_expert = None

    def report(self, ctx: Context, routing: Routing, mask: Tensor | None) -> None:
        """Leave statistics, and in training losses, in the context, and count the load; `mask` (N,): not padding."""
        config = self.config
        for name, value in statistics(routing, mask).items():
            ctx.add_metric(f"{self.prefix}/{name}", value)
        if not self.training:
            return
        if config.z_loss_weight and routing.logits is not None:
            ctx.add_loss(f"{self.prefix}/z", config.z_loss_weight * z_loss(routing.logits, mask))
        if config.balance == "switch" and config.balance_weight:
            ctx.add_loss(f"{self.prefix}/balance", config.balance_weight * switch_loss(routing, mask))
        # Activation checkpointing runs the forward again inside the backward pass: those tokens were counted already.
        if config.balance == "bias" and (torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1):
            counts = count_experts(routing.experts, config.num_experts, mask)
            self.tokens_per_expert = counts if self.tokens_per_expert is None else self.tokens_per_expert + counts

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the selection bias by the load since the last optimiser step; the loop calls it once per step.

        b_e += rate · sign(mean load − load_e) (Wang et al. 2024, arXiv 2408.15664). Loads of all processes count.
        """
        counts = self.tokens_per_expert
        if self.expert_bias is None or counts is None:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        load = counts.to(torch.float64)
        self.expert_bias += self.config.bias_rate * torch.sign(load.mean() - load).to(self.expert_bias.dtype)
        self.tokens_per_expert = None


def token_mask(ctx: Context) -> Tensor | None:
    """(N,) bool, True where there is no padding; None if there is none at all."""
    return None if ctx.segment_ids is None else (ctx.segment_ids != PADDING_SEGMENT).reshape(-1)
