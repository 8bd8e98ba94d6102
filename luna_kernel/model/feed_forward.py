"""Gated feed-forward layer: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, SwiGLU)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from luna_kernel.contracts.layers import Context, Dims, Layer

from .feed_forward_config import SwiGLUConfig
from .linear import Linear


class GatedSiLU(torch.autograd.Function):
    """x (…, 2F), gate before up, to silu(gate) * up (…, F). Keeps x alone, and writes both gradients in one place."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """See the class."""
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """d up = g · silu(gate); d gate = g · up · silu'(gate)."""
        (x,) = ctx.saved_tensors
        gate, up = x.chunk(2, -1)
        out = torch.empty_like(x)
        out_gate, out_up = out.chunk(2, -1)
        torch.mul(F.silu(gate), grad, out=out_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=out_gate)
        return out


def gated_silu(x: Tensor) -> Tensor:
    """silu of the first half of x (…, 2F) times the second, (…, F)."""
    if torch.compiler.is_compiling():  # the compiler fuses the plain formula
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up
    return GatedSiLU.apply(x)  # type: ignore[no-any-return, no-untyped-call]


class SwiGLU(Layer):
    """x (B, T, D) to (B, T, D). Gate and up are one matrix, `gate_up`, gate first."""

    def __init__(self, config: SwiGLUConfig, dims: Dims) -> None:
        super().__init__()
        hidden = config.hidden_dim or dims.ffn_dim
        self.gate_up = Linear(dims.d_model, 2 * hidden, std=dims.init_std, bias=config.bias)
        self.down = Linear(hidden, dims.d_model, std=dims.residual_std, bias=config.bias)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """See the class."""
        y: Tensor = self.down(gated_silu(self.gate_up(x)))
        return y

    def output_parameters(self) -> tuple[str, ...]:
        """The last matrix, and its bias."""
        return ("down.weight",) if self.down.bias is None else ("down.weight", "down.bias")
