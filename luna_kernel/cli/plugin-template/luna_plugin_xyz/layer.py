"""The layer: y = W_out relu(W_in x)².

Shape letters: B batch, T tokens, D d_model, F hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luna_kernel.contracts.layers import Context, Dims, Layer

from .config import XyzConfig


class Xyz(Layer):
    """Two matrices with a squared ReLU between them (So et al., Primer, 2021, arXiv:2109.08668)."""

    def __init__(self, config: XyzConfig, dims: Dims) -> None:
        super().__init__()
        width = max(1, round(config.expansion * dims.d_model))
        self.w_in = nn.Parameter(torch.empty(width, dims.d_model))  # (F, D)
        self.w_out = nn.Parameter(torch.empty(dims.d_model, width))  # (D, F)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill the weights; called once here, and again when the layer was made on the meta device."""
        for weight in (self.w_in, self.w_out):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def forward(self, x: Tensor, ctx: Context) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        hidden = torch.relu(nn.functional.linear(x, self.w_in)).square()  # (B, T, F)
        return nn.functional.linear(hidden, self.w_out)
