"""What follows the scan: the skip, the gate and the norm, norm((y + D x) ⊙ silu(z)), and its gradient.

Shape letters: B rows, L tokens, I = H·P, H heads, P channels of a head. All in float32 at least.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .convolution import activate


def gate(y: Tensor, x: Tensor, z: Tensor, skip: Tensor, norm: Tensor, eps: float) -> Tensor:
    """RMSNorm((y + skip ⊙ x) ⊙ silu(z)) ⊙ norm.

    Args:
        y, x, z: (..., I).
        skip: (I,), of each channel.
        norm: (I,).
        eps: added to the mean square.
    """
    v = torch.addcmul(y, x, skip).mul_(F.silu(z))
    return v.mul_(_scale(v, eps)).mul_(norm)


def gate_backward(
    grad: Tensor, y: Tensor, x: Tensor, z: Tensor, skip: Tensor, norm: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of y (times `skip` also that of x), z, skip and norm.

    With u = y + skip·x, s = silu(z), v = u·s, n = v·scale, dn = grad·norm:
    dv = scale·(dn − n·mean(dn·n)), du = dv·s, dz = dv·u·silu′(z).
    """
    s, slope = activate(z)
    u = torch.addcmul(y, x, skip)
    n = u * s
    scale = _scale(n, eps)
    n.mul_(scale)
    product = grad * n
    grad_norm = product.sum((0, 1))
    mean = (product @ norm).div_(-n.shape[-1])[..., None]
    dv = torch.mul(grad, norm, out=product).addcmul_(n, mean).mul_(scale)
    dz = slope.mul_(u).mul_(dv)
    du = dv.mul_(s)
    grad_skip = torch.mul(du, x, out=u).sum((0, 1))
    return du, dz, grad_skip, grad_norm


def _scale(v: Tensor, eps: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return norm.square_().div_(v.shape[-1]).add_(eps).rsqrt_()
