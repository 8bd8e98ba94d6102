"""The choice of experts, and what is said about it: selection with a bias, weights, statistics, losses.

Shape letters: N tokens, K chosen experts, E experts. All of it in float32 (float64 in a float64 model), under
autocast too: a router in bfloat16 ties experts that differ.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from luna_kernel.contracts.routers import Routing

from .dispatch import count_experts

Scores = Literal["softmax", "sigmoid"]


def choose(
    logits: Tensor, bias: Tensor | None, top_k: int, scores: Scores = "softmax", built_top_k: int | None = None
) -> Routing:
    """Choose `top_k` experts per token by s + b, with s the softmax or the sigmoid of the logits.

    The bias (E,) moves the choice and never the weights, so it needs no gradient (Wang et al. 2024,
    arXiv 2408.15664). Weights are the chosen s made to sum to 1; with one expert they would always be 1 and the router
    would learn nothing, so there s itself is the weight (Fedus et al. 2021). Sigmoid scores: DeepSeek-V3 (2024,
    arXiv 2412.19437, eq. 12 to 16); their probabilities are s over its sum.

    With fewer experts than the `built_top_k` of training (None: as many) the weights are still what they were trained
    to be: one that is left of several has weight 1.
    """
    if scores == "sigmoid":
        s = torch.sigmoid(logits)
        probabilities = s / s.sum(-1, keepdim=True).clamp_min(torch.finfo(s.dtype).tiny)
    else:
        s = probabilities = softmax(logits)
    ranked = s.detach() if bias is None else s.detach() + bias.to(s.dtype)
    experts = torch.topk(ranked, top_k, dim=-1).indices
    if (built_top_k or top_k) == 1:
        weights = s.gather(1, experts)
    else:
        # s over its sum, as a softmax of log s: without 0/0 when all of them underflow
        chosen = logits.gather(1, experts)
        weights = softmax(chosen if scores == "softmax" else torch.nn.functional.logsigmoid(chosen))
    return Routing(experts, weights, probabilities, logits)


def softmax(logits: Tensor) -> Tensor:
    """Over the last dimension of (N, E). On a processor the kernel for a last dimension takes one token after the
    other, the one for the first takes many at once: for a few experts a fifth of the time."""
    return torch.softmax(logits.t().contiguous(), dim=0).t()


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
    num_experts = routing.probabilities.shape[1]
    counts = count_experts(routing.experts, num_experts, mask).to(routing.probabilities.dtype)
    share = counts / counts.sum().clamp_min(1)
    return num_experts * (share * token_mean(routing.probabilities, mask)).sum()


def z_loss(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of logsumexp(logits)² (Zoph et al. 2022, arXiv 2202.08906, eq. 5)."""
    return token_mean(torch.logsumexp(logits, dim=-1).square(), mask)


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
    p = routing.probabilities.detach()
    counts = count_experts(routing.experts, p.shape[1], mask).to(p.dtype)
    mean_entropy = token_mean(entropy(p), mask)
    return {
        "load": counts / counts.sum().clamp_min(1),
        "router_entropy": mean_entropy,
        "mutual_information": entropy(token_mean(p, mask)) - mean_entropy,
    }
