"""Lexical cohesion: which terms neighbouring sentences share.

A gap between two sentences is scored by the cosine of the term vectors of the sentences before and after it, weighted
by how rare a term is in the text (Hearst 1997, "TextTiling", section 4). Where to cut is found by dynamic programming.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from luna_kernel.data.portuguese import terms
from luna_kernel.data.sentences import Span

Vector = Counter[str]


def vectors(text: str, spans: Sequence[Span]) -> list[Vector]:
    """How often each sentence has each stem."""
    return [Counter(terms(text[start:end])) for start, end in spans]


def weights_of(found: Sequence[Vector]) -> dict[str, float]:
    """IDF of each term over the sentences."""
    holds = Counter(term for vector in found for term in vector)
    return {term: math.log(1 + len(found) / count) for term, count in holds.items()}


def cosine(one: Vector, other: Vector, weights: dict[str, float]) -> float:
    """Cosine of two vectors, 0 to 1; 0 when one is empty."""
    common = sum(one[term] * other[term] * weights[term] ** 2 for term in one.keys() & other.keys())
    if not common:
        return 0.0
    norms = [math.sqrt(sum((count * weights[term]) ** 2 for term, count in side.items())) for side in (one, other)]
    return common / (norms[0] * norms[1])


def gaps(text: str, spans: Sequence[Span], window: int) -> list[float]:
    """Similarity across each gap: entry `i` is between spans `i` and `i + 1`; a paragraph's end makes it smaller."""
    found = vectors(text, spans)
    weights = weights_of(found)
    scores = []
    for gap in range(1, len(found)):
        left = sum(found[max(0, gap - window) : gap], Counter())
        right = sum(found[gap : gap + window], Counter())
        score = cosine(left, right, weights)
        scores.append(0.5 * score if "\n\n" in text[spans[gap - 1][0] : spans[gap - 1][1]] else score)
    return scores


def best_cuts(scores: Sequence[float], sizes: Sequence[int], least: int, most: int) -> list[int]:
    """Ends (exclusive) of the chunks for which the sum of similarities across the cuts, less their mean, is least.

    Chunks smaller than `least` cost, so they remain only where the limit forces them.
    """
    count = len(sizes)
    if not count:
        return []
    mean = sum(scores) / len(scores) if scores else 0.0
    best = [0.0] + [math.inf] * count
    came = [0] * (count + 1)
    for end in range(1, count + 1):
        size = 0
        for start in range(end - 1, -1, -1):
            size += sizes[start]
            if size > most and start < end - 1:
                break
            cost = best[start] + (2.0 * (least - size) / least if size < least else 0.0)
            if end < count:
                cost += scores[end - 1] - mean
            if cost < best[end]:
                best[end], came[end] = cost, start
    cuts = []
    end = count
    while end:
        cuts.append(end)
        end = came[end]
    return cuts[::-1]


def density(text: str, spans: Sequence[Span]) -> list[float]:
    """Share of each sentence's terms that the twenty sentences before it do not have, 0 to 1."""
    found = vectors(text, spans)
    shares = []
    recent: Counter[str] = Counter()
    for place, vector in enumerate(found):
        total = sum(vector.values())
        shares.append(sum(n for term, n in vector.items() if not recent[term]) / total if total else 0.0)
        recent.update(vector)
        if place >= 20:
            recent.subtract(found[place - 20])
    return shares
