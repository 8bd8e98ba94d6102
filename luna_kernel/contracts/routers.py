"""Routers: what sends tokens to experts.

Shape letters: B batch, T tokens of a row, N = B·T, D d_model, E experts, K experts per token.

A router is nested in a layer with experts: the layer's class says `nested = {"router": "router"}`, is handed what makes
the router, calls it once as `router(dims, num_experts, top_k)`, and keeps the result as `self.router`.

    class First(Router):
        def __init__(self, config, dims, num_experts, top_k):
            super().__init__(config, dims, num_experts, top_k)
            self.weight = nn.Parameter(torch.empty(num_experts, dims.d_model))
            self.reset_parameters()

        def reset_parameters(self):
            nn.init.normal_(self.weight, std=self.dims.init_std)

        def forward(self, x, ctx, bias=None, extra=None):
            logits = x @ self.weight.to(x.dtype).t()
            ...
            return Routing(experts, weights, probabilities, logits)

The task's loss must reach it, so the layer multiplies each expert's *output* by its weight.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

from torch import Tensor

from .dims import Dims
from .layers import Context, ModelPart

__all__ = ["Router", "Routing"]


class Routing(NamedTuple):
    """Where each token goes. All floats are of the type of x: float32, or float64 in a float64 model."""

    experts: Tensor
    """(N, K) int64, the chosen experts of each token, none twice."""
    weights: Tensor
    """(N, K), non-negative, what each chosen expert's output is multiplied by; a gradient goes through."""
    probabilities: Tensor
    """(N, E), non-negative, each row sums to 1: how likely the router finds each expert, the bias not counted. For
    balance and statistics. A router without scores gives 1/K to the chosen ones."""
    logits: Tensor | None
    """(N, E), the scores that the probabilities come from, for the z-loss; None for a router that has none."""


class Router(ModelPart):
    """Chooses K of E experts for every token.

    A token's choice may depend on that token, on what was before it, and on `ctx`; never on a later token, on another
    row or on padding. No token is dropped: what a layer cannot take is the layer's own affair.
    """

    def __init__(self, config: Any, dims: Dims, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.config, self.dims, self.num_experts = config, dims, num_experts
        self.top_k = top_k
        """K of the next pass. `limit_experts` lowers it in a model that is in use; read it, not a copy of it."""
        self.built_top_k = top_k
        """K that the weights were trained with."""

    @abstractmethod
    def forward(self, x: Tensor, ctx: Context, bias: Tensor | None = None, extra: Tensor | None = None) -> Routing:
        """Route the tokens of one pass.

        Args:
            x: (N, D), the rows of the layer's input, row after row of the batch; float32 or float64, with autocast off:
                in bfloat16 near-equal experts swap places. Cast weights to its type.
            ctx: of the layer. `ctx.condition_rows(name)` gives a condition as (N, C), `ctx.tokens` the ids (B, T). The
                router may leave losses and metrics there, under a name of its own.
            bias: (E,), moves the choice and never the weights (Wang et al. 2024, arXiv 2408.15664); the layer owns it.
            extra: (N, E), scores of the layer's own, added to the router's before the choice. A router without scores
                leaves both out of account.
        """

    def flops_per_token(self) -> float:
        """Forward operations per token; the default counts every parameter of a matrix once."""
        return float(sum(2 * weight.numel() for weight in self.parameters() if weight.dim() >= 2))
