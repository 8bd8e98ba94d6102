"""Searching an inverted index by what its postings are worth: the loops of BM25 and TF-IDF.

A search sums, for each item, the worth of the postings of the asked terms. Where numba is installed and the index is
large, the sum is compiled (`compiled`); otherwise numpy does it, skipping what cannot matter (`top_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter

import numpy as np

from . import compiled
from .postings import Postings
from .top_rows import Column, Floats, Ints, TopRows

_PATIENCE = 0.1
"""Share of all postings that is weighed term by term after a change before all are weighed at once."""
_LARGE = 4096
"""From so many rows on compiling pays."""


class WeightedSearch:
    """Finds the items with the largest sums; what postings are worth is kept as long as the index stays as it is.

    Weighing all postings costs about as much as some dozens of searches: an index that changes between searches weighs
    only the terms that are asked for. Several threads may search at once.

    Args:
        postings: the index.
        formula: from rows, counts and terms of postings, all (P,), to positive float32 (P,); each worth may depend
            on its own row, count and term, and on the state of the index only.
        rarity: from the number of items that hold a term to what their worth is multiplied by.
    """

    def __init__(
        self,
        postings: Postings,
        formula: Callable[[Ints, Ints, Ints], Floats],
        rarity: Callable[[int], float] = lambda _: 1.0,
    ) -> None:
        self._postings = postings
        self._formula = formula
        self._rarity = rarity
        self._version = -1
        self._asked = 0
        self._values: list[Floats] = []
        self._largest: list[Floats] = []
        self._known: list[tuple[int, float]] = []
        self._top = TopRows(0)

    def best(self, asked: Sequence[tuple[int, float]], k: int) -> list[tuple[int, float]]:
        """(id, score) of the `k` items with the largest sums, best first, equal ones in the order of their ids.

        Args:
            asked: number and weight (positive) of each term, each term once; terms that no item holds are skipped.
            k: how many at most.
        """
        if k <= 0 or not asked:
            return []
        postings = self._postings
        if self._version != postings.version:
            self._version, self._asked, self._values, self._largest = postings.version, 0, [], []
        if self._top.size != len(postings.ids):
            self._top = TopRows(len(postings.ids))
        if not self._values and self._asked >= _PATIENCE * sum(len(segment) for segment in postings.segments):
            self._weigh_all()
        loops = compiled.loops() if self._values and len(postings.ids) >= _LARGE else None
        if loops is not None:
            return self._compiled(loops, asked, k)
        columns = [self.column(term, weight) for term, weight in asked]
        rows, scores = self._top.search([column for column in columns if column is not None], k)
        ids = postings.ids[rows]
        order = np.lexsort((ids, -scores))[:k]
        return list(zip(ids[order].tolist(), scores[order].tolist(), strict=True))

    def column(self, term: int, weight: float) -> Column | None:
        """The living rows that hold `term` with their worth; None if there are none."""
        if self._values:
            return self._kept(term, weight)
        rows, counts = self._postings.find(term)
        if not len(rows):
            return None
        self._asked += len(rows)
        values = self._formula(rows, counts, np.full(len(rows), term, np.int32))
        return Column(rows, values, weight * self._rarity(len(rows)), float(values.max()))

    def _kept(self, term: int, weight: float) -> Column | None:
        rows, values, largest = [], [], 0.0
        for segment, worth, most in zip(self._postings.segments, self._values, self._largest, strict=True):
            place = segment.place(term)
            if place >= 0:
                begin, end = segment.starts[place], segment.starts[place + 1]
                rows.append(segment.part(slice(int(begin), int(end)))[0])
                values.append(worth[begin:end])
                largest = max(largest, float(most[place]))
        if not largest:
            return None
        found, worths = (rows[0], values[0]) if len(rows) == 1 else (np.concatenate(rows), np.concatenate(values))
        if len(self._postings) != len(self._postings.ids):
            living = worths.nonzero()[0]
            if len(living) < len(found):
                found, worths = found[living], worths[living]
        return Column(found, worths, weight * self._rarity(len(found)), largest)

    def _compiled(self, loops: compiled.Loops, asked: Sequence[tuple[int, float]], k: int) -> list[tuple[int, float]]:
        """What numpy gives, added in the same order, so that the sums are the same to the bit."""
        rarity, known, size = self._rarity, self._known, len(self._known)
        held = []
        for term, weight in asked:
            if term < size and known[term][0]:
                frequency, largest = known[term]
                scale = weight * rarity(frequency)
                held.append((-scale * largest, term, scale))
        if not held:
            return []
        held.sort(key=itemgetter(0))
        terms, weights = np.array([row[1] for row in held], np.int64), np.array([row[2] for row in held], np.float32)
        postings = self._postings
        with self._top.space() as (scores, touched):
            count = 0
            for part, worth in zip(postings.segments, self._values, strict=True):
                rows = part.all_rows  # compared with their checksums when they were weighed
                count = loops.add(part.terms, part.starts, rows, worth, terms, weights, scores, touched, count)
            ids, best = loops.select(scores, touched, count, k, postings.ids)
        return list(zip(ids.tolist(), best.tolist(), strict=True))

    def _weigh_all(self) -> None:
        """Worth of every posting, 0 where the row was removed, and the largest of each term, segment by segment."""
        postings = self._postings
        alive, whole = postings.alive, len(postings) == len(postings.ids)
        kept, tops = [], []
        size = max((int(segment.terms[-1]) + 1 for segment in postings.segments if len(segment.terms)), default=0)
        largest = np.zeros(size, np.float32)
        for segment in postings.segments:
            values = np.empty(len(segment), np.float32)
            for terms, part in segment.blocks():
                rows, counts = segment.part(part)
                worth = self._formula(rows, counts, segment.terms_of(terms))
                values[part] = worth if whole else worth * alive[rows]
            kept.append(values)
            tops.append(np.maximum.reduceat(values, segment.starts[:-1]) if len(values) else values)
            largest[segment.terms] = np.maximum(largest[segment.terms], tops[-1])
        self._known = list(zip(postings.document_frequencies(size).tolist(), largest.tolist(), strict=True))
        self._largest, self._values = tops, kept
