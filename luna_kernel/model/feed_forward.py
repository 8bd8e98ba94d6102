"""Gated feed-forward layer: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, SwiGLU)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from luna_kernel.contracts.layers import Context, Dims, Layer

from .feed_forward_config import SwiGLUConfig
from .linear import Linear


class SwiGLU(Layer):
    """x (B, T, D) to (B, T, D). Gate and up are one matrix, `gate_up`, gate first."""

    def __init__(self, config: SwiGLUConfig, dims: Dims) -> None:
        super().__init__()
        hidden = config.hidden_dim or dims.ffn_dim
        self.gate_up = Linear(dims.d_model, 2 * hidden, std=dims.init_std, bias=config.bias)
        self.down = Linear(hidden, dims.d_model, std=dims.residual_std, bias=config.bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """See the class."""
        gate, up = self.gate_up(x).chunk(2, -1)
        y: Tensor = self.down(F.silu(gate) * up)
        return y
