"""Attention and a state space side by side on the same input: y = Σ_i β_i ⊙ RMSNorm_i(m_i(x)).

The norms make the branches comparable, whatever their scale; β is learned per channel. Branches are added, not
concatenated, so nothing of width 2D is needed. Parallel hybrids: Hymba (Dong et al. 2024, arXiv 2411.13676), Falcon-H1
(2025, arXiv 2507.22448).
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims, Layer
from luna_kernel.model.attention import Attention

from .config import HybridConfig
from .layer import StateSpace
from .state import HybridState


class Hybrid(Layer):
    """Mixer (B, T, D) -> (B, T, D)."""

    def __init__(self, config: HybridConfig, dims: Dims) -> None:
        super().__init__()
        self.eps = dims.norm_eps
        self.birth_mix = 0.5 / math.sqrt(2 * dims.num_layers)
        self.attention = Attention(config.attention, dims)
        self.ssm = StateSpace(config.ssm, dims)
        self.mix = nn.Parameter(torch.empty(2, dims.d_model))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Fill the branches and the mix.

        The norm of a RMSNorm and the mix β would be one number too many per channel, so β carries both. At birth both
        branches weigh the same, scaled down by the depth as any writer into the residual stream.
        """
        self.attention.reset_parameters()
        self.ssm.reset_parameters()
        nn.init.constant_(self.mix, self.birth_mix)

    def output_parameters(self) -> tuple[str, ...]:
        """The mix; behind zeroed branches the norms would blow the first gradients up."""
        return ("mix",)

    def make_state(self, batch: int, max_length: int, dtype: torch.dtype, device: torch.device) -> HybridState:
        """The branches' states."""
        return HybridState(
            self.attention.make_state(batch, max_length, dtype, device),
            self.ssm.make_state(batch, max_length, dtype, device),
        )

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        state: HybridState | None = ctx.state
        total = torch.zeros_like(x)
        branches = ((self.attention, state and state.attention), (self.ssm, state and state.ssm))
        for (branch, own), mix in zip(branches, self.mix.to(x.dtype), strict=True):
            y = branch(x, dataclasses.replace(ctx, state=own)).to(x.dtype)
            total = torch.addcmul(total, F.rms_norm(y, (x.shape[-1],), eps=self.eps), mix)
        return total

    def flops_per_token(self, context_length: int) -> float:
        """Both branches."""
        branches = self.attention.flops_per_token(context_length) + self.ssm.flops_per_token(context_length)
        return branches + 4.0 * self.mix.shape[1]
