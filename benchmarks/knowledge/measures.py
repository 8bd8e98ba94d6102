"""How good a ranking is when one knows which texts are right."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

DEPTH = 10
"""How many places of a ranking count."""


def judge(found: Sequence[int], right: Collection[int]) -> dict[str, float]:
    """MRR@10, nDCG@10 and recall@1, @5, @10 of one ranking, each in 0..1.

    `found` are numbers of texts, best first, none twice; `right` are those that answer the question, at least one.
    Gains are 0 or 1, a place's discount is log2(place + 1) and the ideal ranking has all right texts first (Järvelin
    and Kekäläinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20(4), 2002). Recall is the share of
    the right texts that were found.
    """
    places = [place for place, text in enumerate(found[:DEPTH], 1) if text in right]
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(len(right), DEPTH) + 1))
    figures = {
        "mrr@10": 1 / places[0] if places else 0.0,
        "ndcg@10": sum(1 / math.log2(place + 1) for place in places) / ideal,
    }
    for depth in (1, 5, DEPTH):
        figures[f"recall@{depth}"] = sum(place <= depth for place in places) / len(right)
    return figures


def average(judged: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means over questions in percent, and `±`: the standard error of MRR@10, also in percent."""
    count = len(judged)
    means = {name: math.fsum(one[name] for one in judged) / count for name in judged[0]}
    spread = math.fsum((one["mrr@10"] - means["mrr@10"]) ** 2 for one in judged)
    error = math.sqrt(spread / max(count - 1, 1) / count)
    return {name: 100 * value for name, value in {"mrr@10": means.pop("mrr@10"), "±": error, **means}.items()}
