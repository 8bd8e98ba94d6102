"""Putting together what several retrievers found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from luna_kernel.contracts.retrievers import Hit

RRF_K = 60
"""The constant of reciprocal rank fusion, as its authors chose it."""


@dataclass(frozen=True)
class Fused:
    """A chunk with what its retrievers give it together."""

    chunk_id: int
    score: float
    scores: Mapping[str, float]
    """Each retriever's score divided by its best for this query, 0 to 1; 0 from those that did not find it."""


def fuse(
    hits: Mapping[str, Sequence[Hit]], weights: Mapping[str, float] | None = None, *, by: str = "ranks"
) -> list[Fused]:
    """Put the hits of several retrievers together, best first, ties in the order of ids.

    By `ranks` (reciprocal rank fusion): the sum over retrievers of `weight / (60 + rank)`. By `scores`: the sum of
    `weight · score / best score of that retriever`; what a retriever did not find gets nothing from it.

    Source: Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods", 2009.

    Args:
        hits: the hits of each retriever, best first.
        weights: of each retriever; 1 where none is given.
        by: `ranks` or `scores`.
    """
    totals: dict[int, float] = {}
    scores: dict[int, dict[str, float]] = {}
    for name, found in hits.items():
        weight = (weights or {}).get(name, 1.0)
        best = max((hit.score for hit in found), default=0.0)
        for rank, hit in enumerate(found, 1):
            share = hit.score / best if best > 0 else 0.0
            gain = share if by == "scores" else 1 / (RRF_K + rank)
            totals[hit.chunk_id] = totals.get(hit.chunk_id, 0.0) + weight * gain
            scores.setdefault(hit.chunk_id, dict.fromkeys(hits, 0.0))[name] = share
    order = sorted(totals, key=lambda chunk_id: (-totals[chunk_id], chunk_id))
    return [Fused(chunk_id, totals[chunk_id], scores[chunk_id]) for chunk_id in order]


def diverse(relevance: Sequence[float], terms: Sequence[AbstractSet[str]], k: int, diversity: float) -> list[int]:
    """The places of `k` passages that are relevant and unlike each other (maximal marginal relevance).

    One after the other, the passage with the largest `(1 - diversity) · relevance - diversity · likeness` is taken,
    where likeness is the largest share of terms in common (Jaccard) with one already taken. The first is the most
    relevant. Source: Carbonell and Goldstein, "The use of MMR", 1998.

    Args:
        relevance: of each passage, 0 to 1, best first.
        terms: of each passage.
        k: how many at most.
        diversity: 0 (the order stands) to 1.
    """
    left, taken = list(range(len(relevance))), list[int]()
    likeness = [0.0] * len(relevance)
    while left and len(taken) < k:
        best = max(left, key=lambda i: ((1 - diversity) * relevance[i] - diversity * likeness[i], -i)) if taken else 0
        taken.append(best)
        left.remove(best)
        for other in left:
            union = len(terms[best] | terms[other])
            likeness[other] = max(likeness[other], len(terms[best] & terms[other]) / union if union else 1.0)
    return taken
