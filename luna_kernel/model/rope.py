"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864, equation 34), half rotation.

A head's Dh numbers are Dh/2 pairs (x_i, x_{i + Dh/2}); pair i at position p turns by p · theta^(-2i/Dh). No table and
no buffer: the angles of a pass are computed once, in float32, from its positions, so there is no length limit and
nothing that a cast to bfloat16 could spoil.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luna_kernel.contracts.layers import Context, Dims, Position

from .rope_config import RotaryConfig
from .rope_scaling import frequencies, magnitude


class Rotation(torch.autograd.Function):
    """Turn x (B, H, T, Dh) by cos, sin (B or 1, 1, T, Dh/2). The gradient is turned back; x is not kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """See the class."""
        ctx.save_for_backward(cos, sin)
        return turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """A rotation's transpose is the rotation by the opposite angle, a scaled one's too."""
        cos, sin = ctx.saved_tensors
        return turn(grad, cos, -sin), None, None


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of x (B, H, T, Dh); the result has the strides of x if x is dense."""
    first, second = x.chunk(2, -1)
    y = torch.empty_like(x)
    out_first, out_second = y.chunk(2, -1)
    torch.mul(first, cos, out=out_first)
    out_first.addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out_second)
    out_second.addcmul_(first, sin)
    return y


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # the compiler fuses the plain formula, and does not know `out=` on a slice
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return Rotation.apply(x, cos, sin)  # type: ignore[no-untyped-call,no-any-return]


class RotaryPosition(Position):
    """RoPE with optional scaling of the wavelengths."""

    def __init__(self, config: RotaryConfig, dims: Dims) -> None:
        super().__init__()
        if dims.head_dim % 2:
            raise ValueError(f"RoPE turns pairs: head_dim must be even, not {dims.head_dim}")
        if config.scaling == "ntk" and dims.head_dim < 4:
            raise ValueError("RoPE scaling `ntk` needs two pairs: head_dim must be 4 or more")
        self.config = config
        self.head_dim = dims.head_dim

    def frequencies(self, device: torch.device) -> Tensor:
        """Radians per token of each pair, (Dh/2,), float32."""
        return frequencies(self.config, self.head_dim, device)

    def angles(self, ctx: Context, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin of this pass, each (B or 1, 1, T, Dh/2); computed once for all layers."""
        key = ("rope", id(self), dtype)
        if key not in ctx.shared:
            # An expanded view (stride 0) says that all rows are alike: then one row of angles serves them all.
            positions = ctx.positions[:1] if ctx.positions.stride(0) == 0 else ctx.positions
            angle = positions[:, None, :, None].float() * self.frequencies(positions.device)
            scale = magnitude(self.config)
            ctx.shared[key] = ((angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype))
        return ctx.shared[key]  # type: ignore[no-any-return]

    def rotate(self, q: Tensor, k: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
        """Turn q (B, H, T, Dh) and k (B, Hk, T, Dh) by `ctx.positions`."""
        cos, sin = self.angles(ctx, q.dtype)
        return _rotate(q, cos, sin), _rotate(k, cos, sin)
