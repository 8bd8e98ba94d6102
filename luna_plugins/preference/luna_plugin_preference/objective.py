"""The objectives `dpo` and `kto`. Both compare the model with the one that the run started from (`reference.py`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from luna_kernel.contracts.data import Message, Record
from luna_kernel.contracts.training import LossSum, Objective
from luna_kernel.data.batches import Batch, Batches
from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.data.token_store import Sample
from luna_kernel.train.engine import TensorBatch

from .config import DpoConfig, KtoConfig
from .losses import divergence_of, dpo_losses, kto_losses
from .reference import Reference, start_model
from .sequences import Rows, as_rows, log_probabilities, prompt_and_answer, render_answer, tell_apart

if TYPE_CHECKING:
    from luna_kernel.train.loop import TrainRun

LIKED = "liked"
"""The condition under which the token store keeps whether an answer was liked; no model reads it."""


class Preference(Objective):
    """What both have in common: terms are samples, not tokens."""

    def prepare(self, run: TrainRun) -> None:
        """Compute the reference, or read it."""
        self.reference = Reference.of(run)

    def num_terms(self, batch: Batch) -> int:
        """Samples: each is one piece."""
        return batch.end - batch.start


class DirectPreference(Preference):
    """DPO: a sample is a pair, the better answer first."""

    first_loss = "ln_2"
    sequences_per_sample = 2

    def __init__(self, config: DpoConfig | None = None) -> None:
        super().__init__(config or DpoConfig())

    def sample(self, record: Record, template: DialogueTemplate) -> Sample | None:
        """Prompt and better answer, then prompt and worse answer; None of a record that is no pair."""
        parts = prompt_and_answer(record)
        if parts is None or record.rejected is None or record.rejected == parts[1].content:
            return None
        limit = self.config.max_tokens
        chosen = render_answer(template, parts[0], parts[1], limit)
        rejected = render_answer(template, parts[0], Message("assistant", record.rejected), limit)
        if chosen is None or rejected is None:
            return None
        return Sample([*chosen[0], *rejected[0]], [*chosen[1], *rejected[1]])

    def loss(self, model: nn.Module, batch: TensorBatch) -> LossSum:
        """The sum over pairs; metrics are means over them."""
        rows = tell_apart(batch)
        reference = self.reference.matrix(rows, 2)
        sums, counts, output = log_probabilities(model, rows)
        ratios = sums.view(-1, 2) - reference
        config: DpoConfig = self.config
        losses = dpo_losses(ratios[:, 0], ratios[:, 1], beta=config.beta, label_smoothing=config.label_smoothing)
        if config.sft_weight:
            losses = losses - config.sft_weight * (sums / counts).view(-1, 2)[:, 0]
        rewards = config.beta * ratios.detach()
        metrics = {
            **output.metrics,
            "dpo/chosen_reward": rewards[:, 0].mean(),
            "dpo/rejected_reward": rewards[:, 1].mean(),
            "dpo/margin": (rewards[:, 0] - rewards[:, 1]).mean(),
            "dpo/accuracy": (rewards[:, 0] > rewards[:, 1]).float().mean(),
        }
        return LossSum(losses.sum(), len(ratios), output.losses, metrics)


@dataclass(frozen=True)
class Mismatch:
    """A prompt with the answer to another one."""

    ids: list[int]
    mask: list[bool]
    reference: float
    """Its log-probability under the reference, nats."""


class KahnemanTversky(Preference):
    """KTO: a sample is one answer that was liked or not.

    The divergence z_0 is estimated as in the paper, from prompts with answers to other prompts; which other is drawn
    once, the next sample in the store, so that the reference need not be asked again.
    """

    first_loss = ""

    def __init__(self, config: KtoConfig | None = None) -> None:
        super().__init__(config or KtoConfig())
        self.liked: dict[str, bool] = {}
        self.mismatches: dict[str, Mismatch] = {}

    def sample(self, record: Record, template: DialogueTemplate) -> Sample | None:
        """Prompt and answer, with the judgement beside them; None of what nobody judged."""
        parts = prompt_and_answer(record)
        if parts is None or record.desirable is None:
            return None
        rendered = render_answer(template, parts[0], parts[1], self.config.max_tokens)
        if rendered is None:
            return None
        return Sample(
            *rendered, condition={**(record.condition or {}), LIKED: {"yes" if record.desirable else "no": 1}}
        )

    def prepare(self, run: TrainRun) -> None:
        """Read the judgements, and compute the references of answers and of mismatched answers."""
        super().prepare(run)
        model: nn.Module | None = None
        for batches in (run.batches, run.valid):
            if batches is None:
                continue
            self._read_judgements(batches)
            missing = [key for key in self.mismatches if f"kl-{key}" not in self.reference.values]
            if missing and model is None:
                model = start_model(run)
            if model is not None:
                self._read_mismatches(model, missing, run)
        if model is not None:
            self.reference.save(run)
        for key, item in self.mismatches.items():
            self.mismatches[key] = replace(item, reference=self.reference.values[f"kl-{key}"][0])

    def _read_judgements(self, batches: Batches) -> None:
        store = batches.store
        names = [name if condition == LIKED else "" for condition, name in store.dimensions]
        samples = [store.sample(index) for index in range(store.num_samples)]
        for index, (ids, mask) in enumerate(samples):
            key = _key_of(ids.tolist(), mask.tolist())
            self.liked[key] = "yes" in [names[number] for number in store.condition(index)[0]]
            if len(samples) > 1:
                other, other_mask = samples[(index + 1) % len(samples)]
                prompt = ids[: int(mask.argmax())].tolist()
                answer = other[int(other_mask.argmax()) :].tolist()
                mismatch = [*prompt, *answer][: batches.sequence_length + 1]
                if len(mismatch) > len(prompt):
                    flags = [False] * len(prompt) + [True] * (len(mismatch) - len(prompt))
                    self.mismatches[key] = Mismatch(mismatch, flags, 0.0)

    def _read_mismatches(self, model: nn.Module, keys: list[str], run: TrainRun) -> None:
        with torch.no_grad(), run.engine.autocast():
            for key in keys:
                item = self.mismatches[key]
                sums, _, _ = log_probabilities(model, as_rows([(item.ids, item.mask)], run.engine.device))
                self.reference.values[f"kl-{key}"] = sums.tolist()

    def loss(self, model: nn.Module, batch: TensorBatch) -> LossSum:
        """The sum over answers; the divergence is that of the micro-batch."""
        rows = tell_apart(batch)
        reference = self.reference.matrix(rows, 1)[:, 0]
        sums, _, output = log_probabilities(model, rows)
        ratios = sums - reference
        liked = torch.tensor([self.liked[key] for key in rows.keys], device=ratios.device)
        config: KtoConfig = self.config
        divergence = divergence_of(self._mismatched(model, rows))
        weights = (config.desirable_weight, config.undesirable_weight)
        losses = kto_losses(ratios, liked, divergence, beta=config.beta, weights=weights)
        rewards = config.beta * ratios.detach()
        metrics = {**output.metrics, "kto/divergence": divergence}
        for name, some in (("liked", liked), ("disliked", ~liked)):
            if bool(some.any()):
                metrics[f"kto/{name}_reward"] = rewards[some].mean()
        return LossSum(losses.sum(), len(ratios), output.losses, metrics)

    def _mismatched(self, model: nn.Module, rows: Rows) -> Tensor:
        """log π(y'|x) − log π_ref(y'|x) (N,), without gradient."""
        found = [self.mismatches[key] for key in rows.keys if key in self.mismatches]
        if not found:
            return rows.weights.new_zeros(0, dtype=torch.float32)
        with torch.no_grad():
            padded = as_rows([(item.ids, item.mask) for item in found], rows.weights.device)
            sums, _, _ = log_probabilities(model, padded)
        return sums - sums.new_tensor([item.reference for item in found])


def _key_of(ids: list[int], mask: list[bool]) -> str:
    """The key of a sample that is alone in its row, the same as in any other."""
    return as_rows([(ids, mask)]).keys[0]
