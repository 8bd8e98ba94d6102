"""Answering with the passages' own sentences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from luna_kernel.contracts.chat import Citation, Passage
from luna_kernel.data.portuguese import terms
from luna_kernel.data.sentences import sentences, trimmed


def best_sentences(query: str, passages: Sequence[Passage], *, limit: int = 2) -> list[Citation]:
    """The sentences that share most with the question, best first; exact characters of the document.

    A shared term counts by how rare it is among the sentences; a sentence is dropped if it scores under half of the
    best.
    """
    candidates: list[tuple[Passage, int, int, set[str]]] = []
    for passage in passages:
        for span in sentences(passage.text):
            start, end = trimmed(passage.text, span)
            if start < end:
                candidates.append((passage, start, end, set(terms(passage.text[start:end]))))
    asked = set(terms(query))
    frequency = Counter(term for *_, found in candidates for term in found)
    scored = []
    for order, (passage, start, end, found) in enumerate(candidates):
        shared = sum(math.log1p(len(candidates) / frequency[term]) for term in asked & found)
        scored.append((shared * (0.5 + passage.score), -order, passage, start, end))
    scored.sort(key=lambda item: (item[0], item[1]), reverse=True)
    if not scored:
        return []
    enough = scored[0][0] / 2
    chosen = [item for item in scored[:limit] if item[0] >= enough]
    return [
        Citation(
            p.number,
            p.source,
            p.title,
            p.start + start,
            p.start + end,
            p.text[start:end],
            p.line and p.line + p.text[:start].count("\n"),
        )
        for _, _, p, start, end in chosen
    ]
