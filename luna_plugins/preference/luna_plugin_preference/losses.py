"""The losses as functions of log-probabilities of whole answers, in nats; all tensors are float32 vectors.

Sources: DPO, Rafailov et al. 2023 (arXiv:2305.18290), equation 7; its smoothed form, Mitchell 2023, "A note on DPO with
noisy preferences"; KTO, Ethayarajh et al. 2024 (arXiv:2402.01306), equations 7 and 8.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def dpo_losses(chosen: Tensor, rejected: Tensor, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """The loss of each pair, (N,).

    Args:
        chosen: (N,) log π(y_w|x) − log π_ref(y_w|x), of the better answers.
        rejected: (N,) the same of the worse ones.
        beta: how strongly the model is held to the reference.
        label_smoothing: share of pairs that are the wrong way round.
    """
    logits = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def kto_losses(
    ratios: Tensor, liked: Tensor, divergence: Tensor, *, beta: float, weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """The loss of each answer, (N,): λ_y − v(x, y).

    Args:
        ratios: (N,) log π(y|x) − log π_ref(y|x).
        liked: (N,) bool.
        divergence: z_0 ≥ 0, the estimate of KL(π ‖ π_ref), a scalar without gradient.
        beta: how strongly the model is held to the reference.
        weights: λ of answers that were liked, and of those that were not.
    """
    distance = beta * (ratios - divergence)
    value = torch.sigmoid(torch.where(liked, distance, -distance))
    scale = torch.where(liked, ratios.new_tensor(weights[0]), ratios.new_tensor(weights[1]))
    return scale * (1 - value)


def divergence_of(mismatched: Tensor) -> Tensor:
    """z_0, a scalar: the mean of log π(y'|x) − log π_ref(y'|x), (N,), over answers to other prompts, not below 0."""
    if not len(mismatched):
        return mismatched.new_zeros(())
    return mismatched.detach().mean().clamp(min=0)
