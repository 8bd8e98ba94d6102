"""What the kernel can learn: the next token, of everything (`lm`) or of the assistant's turns (`sft`)."""

from __future__ import annotations

from typing import Any

from torch import nn

from luna_kernel.contracts.data import Record
from luna_kernel.contracts.training import LossSum, Objective
from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.data.token_store import Sample
from luna_kernel.train.engine import TensorBatch


class NextToken(Objective):
    """Cross-entropy of the next token over the targets of the batch."""

    first_loss = "ln_vocab"

    def loss(self, model: nn.Module, batch: TensorBatch) -> LossSum:
        """Sum over targets of -log p(target); the model never holds all its logits at once."""
        output: Any = model(
            batch.tokens,
            batch.segment_ids,
            batch.positions,
            batch.condition,
            targets=batch.targets,
            weights=batch.weights,
        )
        return LossSum(output.sum_loss, batch.num_targets, output.losses, output.metrics)


class LanguageModeling(NextToken):
    """Every token counts, whoever says it."""

    def sample(self, record: Record, template: DialogueTemplate) -> Sample | None:
        """A plain text with its end token, or a dialogue in the template."""
        if record.text is not None:
            return Sample(template.render_text(record.text)[0])
        return Sample(template.render(record.messages)[0])


class SupervisedFineTuning(NextToken):
    """What the assistant says, thinks, and where it ends counts; of a plain text, all of it."""

    def sample(self, record: Record, template: DialogueTemplate) -> Sample | None:
        """The dialogue with its mask; None if the assistant says nothing in it."""
        if record.text is not None:
            return Sample(template.render_text(record.text)[0])
        ids, mask = template.render(record.messages)
        return Sample(ids, mask) if any(mask) else None
