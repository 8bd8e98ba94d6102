"""The callback `freeze`: the embedding and the lower blocks are not trained.

Their activations need not be kept and the optimiser keeps no moments for them. A head that is tied to the embedding
stays as it is too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import Parameter

from luna_kernel.contracts.training import Callback
from luna_kernel.model.decoder import Decoder

from .config import FreezeConfig

if TYPE_CHECKING:
    from luna_kernel.train.loop import TrainRun


class Freeze(Callback):
    """Freezes the lower part of a model for the length of a run."""

    name = "freeze"

    def __init__(self, config: FreezeConfig) -> None:
        super().__init__(config)
        self.frozen: list[Parameter] = []

    def start(self, run: TrainRun) -> None:
        """Freeze. An optimiser leaves alone what has no gradient, its weight decay included."""
        assert isinstance(run.model, Decoder)
        blocks = list(run.model.blocks)
        count = int(len(blocks) * self.config.share)
        above = {id(weight) for block in blocks[count:] for weight in block.parameters()}
        below = [run.model.embedding, *blocks[:count]]
        for weight in (weight for module in below for weight in module.parameters()):
            if weight.requires_grad and id(weight) not in above:
                weight.requires_grad_(False)
                self.frozen.append(weight)
        run.metrics["freeze/parameters"] = float(sum(weight.numel() for weight in self.frozen))

    def end(self, run: TrainRun, reason: str) -> None:
        """Make them trainable again: a frozen parameter would be a surprise for whoever gets the model next."""
        for weight in self.frozen:
            weight.requires_grad_(True)
        self.frozen = []
