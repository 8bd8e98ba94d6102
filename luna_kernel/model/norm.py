"""Root-mean-square norm: y = x / sqrt(mean(x²) + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467).

Written as one function with its own gradient: PyTorch's CPU version is a chain of small operations, each of which
walks over memory and keeps its result for the backward pass. Under autocast the result has autocast's type, because
every matrix behind a norm would cast it anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 1 << 17
"""Numbers that the backward pass works on at a time: with its two buffers they stay in a core's cache."""


class RMSNormFunction(torch.autograd.Function):
    """x (…, D), weight (D,) to (…, D) of type `dtype`; keeps x and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        """See the class."""
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return torch.mul(x * scale, weight, out=torch.empty(x.shape, dtype=dtype, device=x.device))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """With n = x·scale: dn = g·w, dx = scale·(dn - n·mean(dn·n)), dw = sum over rows of g·n."""
        x, weight, scale = ctx.saved_tensors
        D = x.shape[-1]
        rows, gradients, scales = x.reshape(-1, D), grad.reshape(-1, D), scale.reshape(-1, 1)
        exact = torch.promote_types(x.dtype, torch.float32)
        full = weight.to(exact)
        grad_x, grad_weight = torch.empty(rows.shape, dtype=exact), torch.zeros(D, dtype=exact)
        size = max(1, CHUNK // D)
        buffers = torch.empty(2, min(size, rows.shape[0]), D, dtype=exact)
        for begin in range(0, rows.shape[0], size):
            part = slice(begin, begin + size)
            out, own = grad_x[part], scales[part]
            unit = torch.mul(rows[part], own, out=buffers[0, : out.shape[0]])
            product = torch.mul(out.copy_(gradients[part]), unit, out=buffers[1, : out.shape[0]])
            share = torch.mv(product, full)[:, None].div_(D)
            grad_weight += product.sum(0)
            out.mul_(full).addcmul_(unit, share, value=-1).mul_(own)
        return grad_x.view(x.shape).to(x.dtype), grad_weight.to(weight.dtype), None, None


class RMSNorm(nn.Module):
    """x (…, D) to (…, D); the statistics are taken in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones."""
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        dtype = x.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        # Compilers and GPUs have a fused kernel; without gradients there is nothing to keep.
        if torch.compiler.is_compiling() or x.device.type != "cpu" or not torch.is_grad_enabled():
            return F.rms_norm(x.float(), (x.shape[-1],), self.weight.float(), self.eps).to(dtype)
        return RMSNormFunction.apply(x, self.weight, self.eps, dtype)  # type: ignore[no-any-return,no-untyped-call]
