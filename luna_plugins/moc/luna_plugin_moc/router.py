"""The preliminary meeting as a router, for every layer with experts."""

from __future__ import annotations

from luna_plugin_moe.router import TopKRouter
from torch import Tensor

from luna_kernel.contracts.layers import Context, Dims

from .config import ContextualConfig
from .context import ProbeContext, usual_rank


class ContextualRouter(TopKRouter):
    """ℓ_e = W_r,e·x + ⟨v, c_e⟩: c are the experts' low-rank probes after they attended to each other, v is 0 at birth.

    The probes learn from the task alone: their calibration needs the experts' outputs, which only layer `moc` shows.
    """

    config: ContextualConfig

    def __init__(self, config: ContextualConfig, dims: Dims, num_experts: int, top_k: int) -> None:
        super().__init__(config, dims, num_experts, top_k)
        rank = config.probe_rank or usual_rank(dims.d_model, config.heads)
        self.context = ProbeContext(dims.d_model, num_experts, rank, config.heads)
        self.context.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill every weight afresh."""
        super().reset_parameters()
        if hasattr(self, "context"):
            self.context.reset_parameters()

    def logits(self, x: Tensor, ctx: Context) -> Tensor:
        """ℓ (N, E) of x (N, D)."""
        return super().logits(x, ctx) + self.context(x)[0]

    def flops_per_token(self) -> float:
        """Forward operations per token."""
        return 2.0 * self.weight.numel() + self.context.flops()
