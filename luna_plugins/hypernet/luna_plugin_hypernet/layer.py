"""The adapter whose weights come from a condition vector, or from the text so far.

Shape letters: B batch, T tokens, S 1 or T, D width of the model, C width of the condition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from luna_kernel.contracts.layers import Context, Dims, Modulator
from luna_kernel.model.linear import Linear

from .config import HyperConfig
from .generator import FORMS, HyperNetwork
from .summary import MeanState, running_mean


class HyperAdapter(Modulator):
    """y changed by an update that a small network generates from c; see `generator`.

    c is a condition, one vector per sample, or with `source: text` the mean over the sample's tokens so far of P x,
    brought to root mean square 1.
    """

    def __init__(self, config: HyperConfig, dims: Dims) -> None:
        super().__init__()
        self.config, self.dims = config, dims
        self.reader: Linear | None = None
        std = 1.0
        if config.source == "text":
            self.reader, std = Linear(dims.d_model, config.width, std=dims.d_model**-0.5), config.width**-0.5
        self.network = HyperNetwork(config.width, config.hidden, std)
        self.form = FORMS[config.form](config, dims)

    def output_parameters(self) -> tuple[str, ...]:
        """What is zero at birth."""
        return tuple(f"form.{name}" for name in self.form.outputs)

    def conditions(self) -> dict[str, int]:
        """The condition, unless the text is read."""
        return {self.config.condition: self.config.width} if self.reader is None else {}

    def make_state(self, batch: int, max_length: int, dtype: torch.dtype, device: torch.device) -> MeanState | None:
        """The sum over the text so far, if it is read."""
        return None if self.reader is None else MeanState.empty(batch, self.config.width, device)

    def forward(self, x: Tensor, y: Tensor, ctx: Context) -> Tensor:
        """x, y (B, T, D) to (B, T, D)."""
        if self.reader is None:
            c = condition_of(ctx, self.config.condition, self.config.width, x)
        else:
            mean = running_mean(self.reader(x), ctx.segment_ids, ctx.state)
            c = F.rms_norm(mean, mean.shape[-1:], eps=1e-5).to(x.dtype)
        return self.form(x, y, self.network(c))

    def flops_per_token(self, context_length: int) -> float:
        """Operations per token that it adds."""
        reader = 0 if self.reader is None else 2 * self.reader.weight.numel()
        return reader + 2.0 * self.network.weight.numel() + self.form.flops()


def condition_of(ctx: Context, name: str, width: int, like: Tensor) -> Tensor:
    """The condition as (B, S, C), S 1 or T, of the type of `like` (B, T, D); zeros if nobody gave it."""
    value = ctx.condition.get(name)
    if value is None:
        return like.new_zeros(like.shape[0], 1, width)
    return (value if value.dim() == 3 else value[:, None]).to(like.dtype)
