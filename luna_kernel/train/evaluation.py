"""Measuring on held-out data: bits per byte, which does not depend on the tokenizer, and perplexity beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from luna_kernel.contracts.training import Objective
from luna_kernel.data.batches import Batches
from luna_kernel.train.engine import Engine


def evaluate(
    model: nn.Module,
    objective: Objective,
    batches: Batches,
    engine: Engine,
    byte_lengths: np.ndarray[tuple[int], np.dtype[np.int64]],
    *,
    limit: int | None = None,
) -> dict[str, float]:
    """The loss over the targets of `batches`, each once.

    Args:
        model: left in training mode if it was; random generators are left as they were.
        objective: gives the summed loss.
        batches: the held-out store's, unshuffled.
        engine: where to compute.
        byte_lengths: (V,) bytes of text of each token; 0 for control tokens.
        limit: at most so many pieces.

    Returns:
        `valid/loss` (nats per token), `valid/perplexity` (its exponential), `valid/bits_per_byte`: all bits of all
        targets over the bytes of text that they stand for, `valid/tokens`; and what layers report by
        `ctx.add_metric`, as `valid/<name>`: the mean over this process's batches, weighted by their targets.
    """
    was_training = model.training
    model.eval()
    nats, tokens, length = 0.0, 0, 0
    reports: list[tuple[int, Mapping[str, Tensor]]] = []
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for batch in batches.one_pass(limit):
                tokens += objective.num_terms(batch)
                length += int((byte_lengths[batch.targets] * (batch.weights > 0)).sum())
                for part in engine.micro_batches(batch, len(batch.tokens)):
                    with engine.autocast():
                        output = objective.loss(model, part)
                    nats += float(output.total)
                    reports.append((output.num_tokens, output.metrics))
    finally:
        model.train(was_training)
    total = torch.tensor(nats, dtype=torch.float64)
    engine.sum_over_processes([total])
    loss = float(total) / max(1, tokens)
    return {
        "valid/loss": loss,
        "valid/perplexity": math.exp(min(loss, 700.0)),
        "valid/bits_per_byte": float(total) / math.log(2) / max(1, length),
        "valid/tokens": float(tokens),
        **{f"valid/{name}": value for name, value in component_metrics(reports).items()},
    }


def component_metrics(reports: Iterable[tuple[int, Mapping[str, Tensor]]]) -> dict[str, float]:
    """Layers' losses and metrics, the mean over micro-batches weighted by their tokens; vectors one entry each."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for tokens, values in reports:
        for name, value in values.items():
            flat = value.detach().float().reshape(-1).tolist()
            for index, number in enumerate(flat):
                key = name if value.dim() == 0 else f"{name}/{index}"
                sums[key] = sums.get(key, 0.0) + number * tokens
                weights[key] = weights.get(key, 0.0) + tokens
    return {key: value / max(1.0, weights[key]) for key, value in sums.items()}
