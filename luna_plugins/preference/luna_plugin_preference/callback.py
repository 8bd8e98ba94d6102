"""The callback `replay`: a model that learns new answers repeats older texts between the steps, so as not to forget.

A repetition is an optimiser step of its own on the next-token loss (of an assistant's turns; of a plain text, all). Its
data are fixed by seed and position, and the position is kept in checkpoints: a resumed run repeats the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from luna_kernel.contracts.training import Callback
from luna_kernel.data.batches import Batches
from luna_kernel.data.tokenizer import Tokenizer
from luna_kernel.train.corpus import Corpus, make_stores
from luna_kernel.train.objectives import SupervisedFineTuning

from .config import ReplayConfig

if TYPE_CHECKING:
    from luna_kernel.train.loop import TrainRun


class Replay(Callback):
    """Repeats older texts."""

    name = "replay"

    def __init__(self, config: ReplayConfig) -> None:
        super().__init__(config)
        self.position = 0
        self.objective = SupervisedFineTuning()
        self.batches: Batches

    def start(self, run: TrainRun) -> None:
        """Read the data."""
        assert run.plugins is not None
        stores = make_stores(
            Corpus.find(self.config.data, run.plugins.registry),
            None,
            Tokenizer.load(run.folder / "tokenizer"),
            self.objective,
            {"name": "sft"},
            valid_fraction=0.0,
            seed=run.config.seed,
            say=lambda _: None,
        )
        limit = run.model.dims.max_positions
        length = min(int(limit), int(stores.train.lengths.max()))
        self.batches = Batches(stores.train, self.config.batch_size, length, seed=run.config.seed)

    def step_end(self, run: TrainRun, metrics: Mapping[str, float]) -> None:
        """Every so many steps: one step on the older data, at the learning rate of the step before."""
        if run.step % self.config.every or run.skipped_in_a_row:
            return
        batch = self.batches.at(self.position)
        self.position = batch.end
        total = 0.0
        for part in run.engine.micro_batches(batch, len(batch.tokens)):
            with run.engine.autocast():
                output = self.objective.loss(run.model, part)
            value = output.total
            if output.losses:
                value = value + torch.stack([loss.float() for loss in output.losses.values()]).sum() * output.num_tokens
            (value / max(1, batch.num_targets)).backward()
            total += float(output.total.detach())
        run.engine.sum_gradients(run.model)
        run.metrics["replay/loss"] = total / max(1, batch.num_targets)
        self._update(run)

    def _update(self, run: TrainRun) -> None:
        parameters = [parameter for parameter in run.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.clip_grad_norm_(parameters, run.config.grad_clip or float("inf"))
        groups = [group for optimizer in run.optimizers for group in optimizer.param_groups]
        rates = [group["lr"] for group in groups]
        if bool(norm.isfinite()):
            for group in groups:
                group["lr"] *= self.config.lr_scale
            for optimizer in run.optimizers:
                optimizer.step()
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
        for optimizer in run.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """How far it has read."""
        return {"position": self.position}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on there."""
        self.position = int(state["position"])
