"""A matrix that knows its own first values."""

from __future__ import annotations

from torch import nn


class Linear(nn.Linear):
    """x (…, in) to (…, out), filled from a normal distribution of a given standard deviation; the bias from zeros.

    Args:
        std: `dims.init_std`, or `dims.residual_std` for a matrix that writes into the residual stream.
    """

    def __init__(self, in_features: int, out_features: int, *, std: float, bias: bool = False) -> None:
        self.std = std
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Fill weight and bias afresh."""
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
