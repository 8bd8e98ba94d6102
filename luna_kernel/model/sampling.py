"""Choosing the next token: pure functions over logits (B, V)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .sampling_config import Sampling

OUT = float("-inf")
_COLDEST = 1e-6
"""A lower temperature than this is this one: logits stay finite."""


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive logits of seen tokens by `penalty` and multiply negative ones (Keskar et al. 2019, CTRL, 4.1).

    Args:
        logits: (B, V).
        seen: (B, V) bool, True where the token occurred.
    """
    less_likely = torch.minimum if penalty >= 1 else torch.maximum  # picks the quotient or the product by the sign
    return torch.where(seen, less_likely(logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """-inf for all but the k largest of each row; ties at the edge stay. k = 0, or k >= V, keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    edge = logits.topk(k, -1).values[:, -1:]
    return logits.masked_fill(logits < edge, OUT)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """-inf for all but the smallest set of most likely tokens whose probability reaches p (Holtzman et al. 2019).

    The most likely token always stays; of equally likely ones the lower id comes first.
    """
    if p >= 1:
        return logits
    ordered, index = logits.sort(stable=True, dim=-1, descending=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability
    out = (before >= p).scatter(-1, index, before >= p)
    out.scatter_(-1, index[:, :1], False)
    return logits.masked_fill(out, OUT)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """-inf for tokens less likely than p times the most likely one (Nguyen et al. 2024, arXiv 2407.01082)."""
    if p <= 0:
        return logits
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(p), OUT)


def adjust(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """All of the above in order, for a temperature above 0; float32 (B, V)."""
    logits = logits.float()
    if seen is not None and sampling.repetition_penalty != 1:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature > 0:
        logits = logits / max(sampling.temperature, _COLDEST)
    logits = keep_top_k(logits, sampling.top_k)
    logits = keep_top_p(logits, sampling.top_p)
    return keep_min_p(logits, sampling.min_p)


def sample(
    logits: Tensor, sampling: Sampling, generators: Sequence[torch.Generator], seen: Tensor | None = None
) -> Tensor:
    """The next token of each row, (B,) int64.

    Each row draws from its own generator, so an answer does not depend on who else is in the batch.

    Args:
        logits: (B, V).
        generators: one per row.
        seen: (B, V) bool, for the repetition penalty.
    """
    if sampling.temperature == 0:
        logits = logits.float()
        if seen is not None and sampling.repetition_penalty != 1:
            logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
        return logits.argmax(-1)
    return draw(adjust(logits, sampling, seen).softmax(-1), generators)


def draw(probability: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """A token of each row by the inverse of its distribution function (Devroye 1986, III.2), (B,) int64.

    One random number a row; `torch.multinomial` takes one a token, and one call a row where each has its own generator.

    Args:
        probability: (B, V) float32; rows that do not sum to 1 are scaled.
        generators: one per row.

    Raises:
        ValueError: a row is no distribution: NaN, or zero everywhere.
    """
    below = probability.cumsum(-1)
    total = below[:, -1:]
    if not bool((total > 0).all()):
        raise ValueError("there is nothing to draw from: the probabilities are NaN, or all of them are zero")
    chance = [torch.rand(1, generator=g, device=total.device, dtype=total.dtype) for g in generators]
    # Strictly below the total: so there is a first token whose sum lies above it, and its probability is not zero.
    aim = torch.minimum(torch.stack(chance) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(below, aim, right=True)[:, 0]


def make_generator(sampling: Sampling, device: torch.device, index: int = 0) -> torch.Generator:
    """A request's own source of chance; `index` tells the answers to one request apart."""
    generator = torch.Generator(device)
    if sampling.seed is None:
        generator.seed()
    else:
        generator.manual_seed(sampling.seed + index)
    return generator
