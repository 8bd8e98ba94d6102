"""The adapter `lora`: a linear layer y = W x + b becomes y = W x + b + (alpha / r) · B A x, W and b frozen.

A is (r, in), uniform in ±1/√in; B is (out, r) and begins at zero, so that the output is the old one to the bit. Neither
decays. Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685), section 4.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luna_kernel.contracts.growth import Adapter
from luna_kernel.contracts.training import Hint

from .config import LowRankConfig


class LowRank(Adapter):
    """x (…, in) to (…, out).

    Args:
        config: rank and scale.
        wrapped: the layer to adapt; it is frozen.
    """

    def __init__(self, config: LowRankConfig, wrapped: nn.Linear) -> None:
        super().__init__(config, wrapped)
        wrapped.requires_grad_(False)
        rank = min(config.rank, wrapped.in_features, wrapped.out_features)
        self.scale = config.alpha / rank
        bound = wrapped.in_features**-0.5
        kind = {"dtype": wrapped.weight.dtype, "device": wrapped.weight.device}
        self.a = nn.Parameter(torch.empty(rank, wrapped.in_features, **kind).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.zeros(wrapped.out_features, rank, **kind))

    def forward(self, x: Tensor) -> Tensor:
        """The wrapped layer's result and the learnt difference; the product B A is never built."""
        y: Tensor = self.wrapped(x)
        return y + self.scale * nn.functional.linear(nn.functional.linear(x, self.a), self.b)

    def merged(self) -> nn.Linear:
        """The wrapped layer with scale · B A added to its weight, in float32."""
        with torch.no_grad():
            added = self.scale * (self.b.float() @ self.a.float())
            self.wrapped.weight.copy_(self.wrapped.weight.float() + added)
        return self.wrapped

    def optimizer_hints(self) -> dict[str, Hint]:
        """A learning rate of their own, no decay; Muon, which would make every step full rank, leaves them to AdamW."""
        hint: Hint = {"lr_scale": self.config.lr_scale, "weight_decay": False, "matrix": False}
        return {"a": hint, "b": hint}
