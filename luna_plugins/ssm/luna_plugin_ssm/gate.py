"""What follows the scan: the skip, the gate and the norm, norm((y + D x) ⊙ silu(z)).

Shape letters: R rows (batch and tokens), H heads, P channels of a head, I = H·P.

Written as one function with its own gradient, a stretch of rows at a time: as a chain of PyTorch's operations it would
walk over memory some fifteen times and keep six results of full size for the backward pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NUMBERS_AT_ONCE = 1 << 16
"""Numbers in one stretch, so that its half a dozen intermediate results stay in the processor's cache."""


def gated_norm(y: Tensor, x: Tensor, z: Tensor, skip: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm((y + skip · x) ⊙ silu(z)) ⊙ weight.

    Args:
        y, x: (..., H, P) of one dtype.
        z: (..., H·P) of the same dtype.
        skip: (H,).
        weight: (H·P,).
        eps: added to the mean square.

    Returns:
        (..., H·P) in the dtype of y; computed in float32 at least.
    """
    if torch.compiler.is_compiling() or y.device.type != "cpu" or not torch.is_grad_enabled():
        exact = torch.promote_types(y.dtype, torch.float32)
        gated = (y + skip[:, None].to(y.dtype) * x).flatten(-2).to(exact) * F.silu(z.to(exact))
        return F.rms_norm(gated, (gated.shape[-1],), weight.to(exact), eps).to(y.dtype)
    result: Tensor = _GatedNorm.apply(y, x, z, skip, weight, eps)  # type: ignore[no-untyped-call]
    return result


class _GatedNorm(torch.autograd.Function):
    """Keeps its inputs and one number per row."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, z: Tensor, skip: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = torch.promote_types(y.dtype, torch.float32)
        out = y.new_empty(z.shape)
        flat = out.view(-1, z.shape[-1])
        scale = torch.empty(flat.shape[0], 1, dtype=exact)
        w, d = weight.to(exact), skip.to(exact).repeat_interleave(y.shape[-1])
        rows = [t.reshape(flat.shape) for t in (y, x, z)]
        for part in _stretches(flat):
            ys, xs, zs = (t[part].to(exact) for t in rows)
            v = torch.addcmul(ys, xs, d).mul_(F.silu(zs))
            mean = torch.linalg.vector_norm(v, dim=-1, keepdim=True).square_().div_(v.shape[-1])
            scale[part] = mean.add_(eps).rsqrt_()
            flat[part] = v.mul_(scale[part]).mul_(w)
        ctx.save_for_backward(y, x, z, skip, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None]:
        """With v = u·s, n = v·scale, dn = g·w: dv = scale·(dn − n·mean(dn·n)), du = dv·s, dz = dv·u·silu′(z)."""
        y, x, z, skip, weight, scale = ctx.saved_tensors
        exact = scale.dtype
        w, d = weight.to(exact), skip.to(exact).repeat_interleave(y.shape[-1])
        grads = [y.new_empty(y.shape), y.new_empty(x.shape), y.new_empty(z.shape)]
        flat = grads[2].view(-1, z.shape[-1])
        rows = [t.reshape(flat.shape) for t in (y, x, z, grad)]
        dy, dx, dz = (t.view(flat.shape) for t in grads)
        dd, dw = torch.zeros_like(w), torch.zeros_like(w)
        for part in _stretches(flat):
            ys, xs, zs, g = (t[part].to(exact) for t in rows)
            u, s = torch.addcmul(ys, xs, d), F.silu(zs)
            n = (u * s).mul_(scale[part])
            product = g * n
            dw += product.sum(0)
            mean = torch.mv(product, w).div_(n.shape[1])[:, None]
            dv = (g * w).addcmul_(n, mean, value=-1).mul_(scale[part])
            dz[part] = torch.ops.aten.silu_backward(u.mul_(dv), zs)
            du = dv.mul_(s)
            dy[part] = du
            dx[part] = du * d
            dd += du.mul_(xs).sum(0)
        grad_skip = dd.view(len(skip), -1).sum(1).to(skip.dtype)
        return grads[0], grads[1], grads[2], grad_skip, dw.to(weight.dtype), None


def _stretches(flat: Tensor) -> list[slice]:
    size = max(NUMBERS_AT_ONCE // flat.shape[1], 1)
    return [slice(start, start + size) for start in range(0, flat.shape[0], size)]
