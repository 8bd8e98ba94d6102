"""Putting together what several retrievers found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from luna_kernel.contracts.retrievers import Hit

RRF_K = 60
"""The constant of reciprocal rank fusion, as its authors chose it."""


@dataclass(frozen=True)
class Fused:
    """A chunk with the sum of its reciprocal ranks."""

    chunk_id: int
    score: float
    scores: Mapping[str, float]
    """Each retriever's score divided by its best for this query, 0 to 1; those that did not find it are absent."""


def fuse(hits: Mapping[str, Sequence[Hit]], weights: Mapping[str, float] | None = None) -> list[Fused]:
    """Reciprocal rank fusion: sum over retrievers of `weight / (60 + rank)`, best first, ties in the order of ids.

    Source: Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods", 2009.

    Args:
        hits: the hits of each retriever, best first.
        weights: of each retriever; 1 where none is given.
    """
    totals: dict[int, float] = {}
    scores: dict[int, dict[str, float]] = {}
    for name, found in hits.items():
        weight = (weights or {}).get(name, 1.0)
        best = max((hit.score for hit in found), default=0.0)
        for rank, hit in enumerate(found, 1):
            totals[hit.chunk_id] = totals.get(hit.chunk_id, 0.0) + weight / (RRF_K + rank)
            scores.setdefault(hit.chunk_id, {})[name] = hit.score / best if best > 0 else 0.0
    order = sorted(totals, key=lambda chunk_id: (-totals[chunk_id], chunk_id))
    return [Fused(chunk_id, totals[chunk_id], scores[chunk_id]) for chunk_id in order]
