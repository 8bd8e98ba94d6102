"""Buckets of distances (Raffel et al. 2020, arXiv 1910.10683, section 2.1; the causal half)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def bucket(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """The bucket, 0 to num_buckets - 1, of each distance (any shape, int64); negative ones count as 0.

    Distances below E = num_buckets // 2 have a bucket each; n from there on goes to
    E + floor(ln(n / E) / ln(max_distance / E) · (num_buckets - E)), at most the last.
    """
    exact = num_buckets // 2
    edges = list(range(exact)) + _edges(exact, num_buckets, max_distance)
    inner = torch.tensor(edges[1:], device=distance.device, dtype=distance.dtype)
    return torch.bucketize(distance, inner, right=True)


def _edges(exact: int, num_buckets: int, max_distance: int) -> list[int]:
    """The smallest distance of each bucket from `exact` on, whole numbers."""
    ratio, large = max_distance / exact, num_buckets - exact
    return [math.ceil(exact * ratio ** (k / large) - 1e-9) for k in range(large)]
