"""Routers: what sends tokens to experts.

Shape letters: N tokens (batch and time flattened), D d_model, E experts, K experts per token.

A router's weights and its scores are float32 whatever the model's type is: at bfloat16 near-equal experts swap places.
The task's loss must reach it, so the layer multiplies each expert's *output* by its weight.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from torch import Tensor, nn

from .dims import Dims


class Routing(NamedTuple):
    """Where each token goes."""

    experts: Tensor
    """(N, K) int64, the chosen experts of each token, none twice."""
    weights: Tensor
    """(N, K) float32, non-negative, what each chosen expert's output is multiplied by; a gradient goes through."""
    scores: Tensor
    """(N, E) float32, the scores before the choice: for balance, z-loss and reports."""


class Router(nn.Module, ABC):
    """Chooses K of E experts for every token. No token is dropped, in training or later."""

    def __init__(self, config: Any, dims: Dims, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.config, self.dims, self.num_experts, self.top_k = config, dims, num_experts, top_k

    @abstractmethod
    def forward(self, x: Tensor) -> Routing:
        """Route x (N, D). A token's choice depends on that token only: batch order and padding change nothing."""
