"""A look at the data before the first step, at what most often goes wrong unseen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from luna_kernel.base.messages import catalogue, number_text
from luna_kernel.data.dialogue import DialogueTemplate
from luna_kernel.data.token_store import TokenStore
from luna_kernel.train.loop import TrainRun

t = catalogue(__package__)

SHOWN_TOKENS = 160
MAX_OVERLAP_SAMPLES = 200_000
"""Beyond it the overlap of the splits is not looked for: it reads every sample."""


@dataclass(frozen=True)
class Preflight:
    """What was found."""

    shown: str
    """The first sample as text, supervised stretches between ⟦ ⟧."""
    supervised: float
    """Share of tokens that are targets."""
    overlap: int | None
    """Held-out samples that are in the training data too; None: not looked for."""
    first_loss: float
    """Nats per token of the model as it is, on the first batch."""
    expected_loss: float | None
    """What an untrained model's would be; None if the model is trained or the objective does not say."""
    remarks: tuple[str, ...]
    """What looks wrong."""

    def lines(self) -> list[str]:
        """The findings, for people."""
        expected = (
            "" if self.expected_loss is None else t("preflight.expected", value=number_text(self.expected_loss, 2))
        )
        return [
            t("preflight.sample", text=self.shown),
            t("preflight.supervised", share=f"{self.supervised:.0%}"),
            t("preflight.first_loss", value=number_text(self.first_loss, 2)) + expected,
            *self.remarks,
        ]


def preflight(
    run: TrainRun, template: DialogueTemplate, train: TokenStore, valid: TokenStore | None, *, fresh: bool
) -> Preflight:
    """Look at the first sample, the masks, the splits and the first loss; changes nothing.

    Args:
        run: before its first step.
        template: shows the sample.
        train: the training store.
        valid: the held-out store, if any.
        fresh: the model is untrained.
    """
    ids, mask = train.sample(0)
    shown = template.show(ids[:SHOWN_TOKENS].tolist(), mask[:SHOWN_TOKENS].tolist())
    if len(ids) > SHOWN_TOKENS:
        shown += " …"
    overlap = None
    if valid is not None and train.num_samples + valid.num_samples <= MAX_OVERLAP_SAMPLES:
        overlap = len(train.digests() & valid.digests())
    first = first_loss(run)
    known = {"ln_2": math.log(2), **({"ln_vocab": math.log(train.vocab_size)} if fresh else {})}
    expected = known.get(run.objective.first_loss)
    remarks = []
    supervised = train.num_targets / train.num_tokens
    if supervised < 0.01:
        remarks.append(t("preflight.little_supervised"))
    if overlap and valid is not None:
        remarks.append(t("preflight.overlap", count=overlap, total=valid.num_samples))
    if not math.isfinite(first) or (expected is not None and not 0.5 < first / expected < 1.5):
        remarks.append(t("preflight.odd_loss"))
    return Preflight(shown, supervised, overlap, first, expected, tuple(remarks))


def first_loss(run: TrainRun) -> float:
    """Nats per token on the first micro-batch, with random generators and gradients left alone."""
    batch = run.batches.at(run.position)
    was_training = run.model.training
    run.model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for part in run.engine.micro_batches(batch, run.config.batch_size):
                if part.num_targets:
                    with run.engine.autocast():
                        output = run.objective.loss(run.model, part)
                    return float(output.total) / output.num_tokens
    finally:
        run.model.train(was_training)
    return math.nan
