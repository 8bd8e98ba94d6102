"""Who works on a token: logits, selection with a bias, weights, and the statistics and losses of a choice.

Shape letters: N tokens, K chosen experts, E experts. All of it in float32 (float64 in a float64 model), under
autocast too: a router in bfloat16 ties experts that differ.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .dispatch import count_experts


class Routing(NamedTuple):
    """The choice for every token."""

    logits: Tensor
    """(N, E) scores before the softmax, in float32."""
    probabilities: Tensor
    """(N, E) softmax of the logits."""
    experts: Tensor
    """(N, K) int64, the chosen experts, best first."""
    weights: Tensor
    """(N, K) what the chosen experts' outputs are multiplied by."""


def choose(logits: Tensor, bias: Tensor, top_k: int) -> Routing:
    """Choose `top_k` experts per token.

    The bias (E,) moves the choice and never the weights, so it needs no gradient (Wang et al. 2024,
    arXiv 2408.15664). Weights are the chosen probabilities made to sum to 1; with one expert they would always be 1
    and the router would learn nothing, so there the probability itself is the weight (Fedus et al. 2021).
    """
    probabilities = torch.softmax(logits, dim=-1)
    experts = torch.topk(probabilities.detach() + bias, top_k, dim=-1).indices
    if top_k == 1:
        return Routing(logits, probabilities, experts, probabilities.gather(1, experts))
    # softmax of the chosen logits = chosen probabilities over their sum, without 0/0 when all of them underflow
    return Routing(logits, probabilities, experts, torch.softmax(logits.gather(1, experts), dim=-1))


def token_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over the tokens (dimension 0) that `mask` (N,) bool keeps; 0 when it keeps none."""
    if mask is None:
        return values.mean(0)
    keep = mask.view(-1, *[1] * (values.dim() - 1))
    return torch.where(keep, values, 0).sum(0) / mask.sum().clamp_min(1)


def switch_loss(routing: Routing, mask: Tensor | None) -> Tensor:
    """E · Σ_e f_e · P_e: 1 when even, E when one expert has all (Fedus et al. 2021, arXiv 2101.03961, eq. 4).

    f_e, the share of the pairs, has no gradient; P_e, the mean probability, has.
    """
    num_experts = routing.logits.shape[1]
    counts = count_experts(routing.experts, num_experts, mask).to(routing.logits.dtype)
    share = counts / counts.sum().clamp_min(1)
    return num_experts * (share * token_mean(routing.probabilities, mask)).sum()


def z_loss(routing: Routing, mask: Tensor | None) -> Tensor:
    """Mean of logsumexp(logits)² (Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""
    return token_mean(torch.logsumexp(routing.logits, dim=-1).square(), mask)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats over the last dimension."""
    total: Tensor = torch.special.entr(probabilities).sum(-1)
    return total


def statistics(routing: Routing, mask: Tensor | None) -> dict[str, Tensor]:
    """What a router does, as metrics.

    `load` (E,): share of the pairs per expert, sums to 1. `router_entropy`: mean entropy of one token's probabilities,
    0 to ln E nats. `mutual_information`: H(mean p) − mean H(p), 0 to ln E nats; high when the router is decided on
    each token and differs between tokens, which neither an even spread nor a collapse achieves.
    """
    counts = count_experts(routing.experts, routing.logits.shape[1], mask).to(routing.logits.dtype)
    p = routing.probabilities.detach()
    mean_entropy = token_mean(entropy(p), mask)
    return {
        "load": counts / counts.sum().clamp_min(1),
        "router_entropy": mean_entropy,
        "mutual_information": entropy(token_mean(p, mask)) - mean_entropy,
    }
