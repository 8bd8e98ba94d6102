"""Searching an inverted index by what its postings are worth: the loops of BM25 and TF-IDF.

A search sums, for each item, the worth of the postings of the asked terms. Where numba is installed and the index is
large, the sum is compiled (`compiled`); otherwise numpy does it, skipping what cannot matter (`top_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from luna_kernel.contracts.retrievers import Hit, Hits

from . import compiled
from .compiled import Array
from .postings import Postings
from .top_rows import Column, Floats, Ints, TopRows

_PATIENCE = 0.1
"""Share of all postings that is weighed term by term after a change before all are weighed at once."""
_LARGE = 4096
"""From so many rows on compiling pays."""
_ROOM = 1 << 16
"""Hits that questions asked together have room for."""


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
        self._known: tuple[Array, Array] = np.zeros(0), np.zeros(0)
        self._top = TopRows(0)

    def best(self, asked: Mapping[int, float], k: int) -> list[Hit]:
        """The `k` items with the largest sums, best first, equal ones in the order of their ids.

        Args:
            asked: weight (positive) of each term by its number; terms that no item holds are skipped.
            k: how many at most.
        """
        return list(self.best_of_each([asked], k)[0])

    def best_of_each(self, questions: Sequence[Mapping[int, float]], k: int) -> list[Hits]:
        """What `best` finds for each of some questions; together they cost less."""
        loops = self._ready() if k > 0 else None
        if loops is not None:
            size = max(1, _ROOM // min(k, len(self._postings.ids)))
            if len(questions) <= size:
                return self._compiled(loops, questions, k)
            parts = [questions[begin : begin + size] for begin in range(0, len(questions), size)]
            return [found for part in parts for found in self._compiled(loops, part, k)]
        return [self._plain(asked, k) if asked and k > 0 else Hits([], []) for asked in questions]

    def _ready(self) -> compiled.Loops | None:
        """What is compiled, where that can be used; weighs all postings when it is time to."""
        postings = self._postings
        if self._version != postings.version:
            self._version, self._asked, self._values, self._largest = postings.version, 0, [], []
        if self._top.size != len(postings.ids):
            self._top = TopRows(len(postings.ids))
        if not self._values and self._asked >= _PATIENCE * sum(len(segment) for segment in postings.segments):
            self._weigh_all()
        return compiled.loops() if self._values and len(postings.ids) >= _LARGE else None

    def _plain(self, asked: Mapping[int, float], k: int) -> Hits:
        columns = [self.column(term, weight) for term, weight in asked.items()]
        rows, scores = self._top.search([column for column in columns if column is not None], k)
        ids = self._postings.ids[rows]
        order = np.lexsort((ids, -scores))[:k]
        return Hits(ids[order].tolist(), scores[order].tolist())

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

    def _compiled(self, loops: compiled.Loops, questions: Sequence[Mapping[int, float]], k: int) -> list[Hits]:
        """What numpy gives, added in the same order, so that the sums are the same to the bit."""
        terms: list[int] = []
        weights: list[float] = []
        ends = []
        for asked in questions:
            terms += asked
            weights += asked.values()
            ends.append(len(terms))
        postings, top, scales, largest = self._postings, self._top, *self._known
        k = min(k, len(postings.ids))
        given = np.array(terms, np.int64), np.array(weights, np.float64), np.array(ends, np.int64)
        ids, scores = np.empty((len(ends), k), np.int64), np.empty((len(ends), k), np.float32)
        sizes = np.zeros(len(ends), np.int64)
        space = top.take()
        for part, worth in zip(postings.segments, self._values, strict=True):
            rows = part.all_rows  # compared with their checksums when they were weighed
            loops.search(
                part.terms, part.starts, rows, worth, postings.ids, scales, largest, *given, *space, ids, scores, sizes
            )
        top.give(space)
        return [
            Hits(own, sums) if size == k else Hits(own[:size], sums[:size])
            for own, sums, size in zip(ids.tolist(), scores.tolist(), sizes.tolist(), strict=True)
        ]

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
        frequencies, which = np.unique(postings.document_frequencies(size), return_inverse=True)
        rarities = [self._rarity(count) if count else 0.0 for count in frequencies.tolist()]
        self._known = np.asarray(rarities, np.float64)[which], largest.astype(np.float64)
        self._largest, self._values = tops, kept
