"""The generator and the three forms of what it makes.

Shape letters: B batch, T tokens, S 1 or T, D width of the model, C width of the condition, M hidden width, R rank.

There is no bias anywhere: a condition of zeros gives h = 0, and so a layer that is left as it is, to the bit, also
after training. The last head of each form is zero at birth: then any condition leaves the layer as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from luna_kernel.contracts.layers import Dims

from .config import GeneratorConfig


class HyperNetwork(nn.Module):
    """h = silu(W c): the part of the generator that all heads share (Ha et al. 2016, arXiv 1609.09106).

    Args:
        width: C.
        hidden: M.
        std: of W at birth, so that h has entries of about 1: 1 for a one-hot c, 1/sqrt(C) for a dense one.
    """

    def __init__(self, width: int, hidden: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden, width))
        self.std = std
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal, `std`."""
        nn.init.normal_(self.weight, std=self.std)

    def forward(self, c: Tensor) -> Tensor:
        """c (B, S, C) to h (B, S, M)."""
        return F.silu(F.linear(c, self.weight))


class LowRank(nn.Module):
    """y + scale · B(h) A(h) x, with A = Σ_m h_m A_m (R, D) and B = Σ_m h_m B_m (D, R), B_m = 0 at birth."""

    outputs = ("up",)

    def __init__(self, config: GeneratorConfig, dims: Dims) -> None:
        super().__init__()
        self.scale, self.rank, self.hidden = config.scale, config.rank, config.hidden
        self.std = (dims.d_model * config.hidden) ** -0.5
        self.down = nn.Parameter(torch.empty(config.rank, config.hidden, dims.d_model))
        self.up = nn.Parameter(torch.empty(dims.d_model, config.rank, config.hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A_m so that A x has entries of about 1; B_m zero."""
        nn.init.normal_(self.down, std=self.std)
        nn.init.zeros_(self.up)

    def forward(self, x: Tensor, y: Tensor, h: Tensor) -> Tensor:
        """x, y (B, T, D) and h (B, S, M) to (B, T, D).

        One h per row: the two matrices of each row are made once. One h per token: no matrix is made; A_m x is taken
        for all m at once and weighted, so that nothing of size T · R · D is held.
        """
        if h.shape[1] == 1 and x.shape[1] > 1:
            down = torch.einsum("rmd,bm->bdr", self.down, h[:, 0])
            up = torch.einsum("drm,bm->brd", self.up, h[:, 0])
            delta = x.to(down.dtype) @ down @ up
        else:
            parts = F.linear(x, self.down.flatten(0, 1)).unflatten(-1, (self.rank, self.hidden))
            u = (parts * h[..., None, :]).sum(-1)
            delta = F.linear((u[..., None] * h[..., None, :]).flatten(-2), self.up.flatten(1))
        return y + (self.scale * delta).to(y.dtype)

    def flops(self) -> float:
        """Per token, for an h of its own; a row's shared h needs 4 · R · D."""
        return 4.0 * self.rank * self.hidden * self.down.shape[-1] + 4.0 * self.rank * self.hidden


class Bases(nn.Module):
    """y + scale · U diag(s(h)) V x, with U (D, R) and V (R, D) learned, s = W h (R,), W = 0 at birth."""

    outputs = ("gate",)

    def __init__(self, config: GeneratorConfig, dims: Dims) -> None:
        super().__init__()
        self.scale = config.scale
        self.std = dims.d_model**-0.5
        self.down = nn.Parameter(torch.empty(config.rank, dims.d_model))
        self.up = nn.Parameter(torch.empty(dims.d_model, config.rank))
        self.gate = nn.Parameter(torch.empty(config.rank, config.hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """V x and U s with entries of about 1 and 0.1; W zero."""
        nn.init.normal_(self.down, std=self.std)
        nn.init.normal_(self.up, std=0.1)
        nn.init.zeros_(self.gate)

    def forward(self, x: Tensor, y: Tensor, h: Tensor) -> Tensor:
        """x, y (B, T, D) and h (B, S, M) to (B, T, D)."""
        delta = F.linear(F.linear(x, self.down) * F.linear(h, self.gate), self.up)
        return y + (self.scale * delta).to(y.dtype)

    def flops(self) -> float:
        """Per token."""
        return 4.0 * self.down.numel() + 2.0 * self.gate.numel()


class Film(nn.Module):
    """y ⊙ (1 + γ(h)) + β(h), both linear in h and zero at birth (Perez et al. 2018, arXiv 1709.07871)."""

    outputs = ("gain", "shift")

    def __init__(self, config: GeneratorConfig, dims: Dims) -> None:
        super().__init__()
        self.scale = config.scale
        self.gain = nn.Parameter(torch.empty(dims.d_model, config.hidden))
        self.shift = nn.Parameter(torch.empty(dims.d_model, config.hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both zero."""
        nn.init.zeros_(self.gain)
        nn.init.zeros_(self.shift)

    def forward(self, x: Tensor, y: Tensor, h: Tensor) -> Tensor:
        """x, y (B, T, D) and h (B, S, M) to (B, T, D); x is not read."""
        gain, shift = self.scale * F.linear(h, self.gain), self.scale * F.linear(h, self.shift)
        return y * (1 + gain).to(y.dtype) + shift.to(y.dtype)

    def flops(self) -> float:
        """Per token."""
        return 2.0 * (self.gain.numel() + self.shift.numel())


FORMS: dict[str, type[LowRank] | type[Bases] | type[Film]] = {"low_rank": LowRank, "bases": Bases, "film": Film}
"""`outputs` of a form: its parameters that are zero at birth, through which all that it does goes out."""
