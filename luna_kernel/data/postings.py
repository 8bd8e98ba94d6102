"""An inverted index in numpy: which items hold a term, and how often. What lexical retrievers are made of.

It holds counts only; what they are worth (BM25, TF-IDF) its user computes. Items come and go at any time: new ones
form segments that are merged as they pile up, so that adding costs in proportion to what is added; removed ones are
marked, skipped, and dropped when segments merge. What a term's rarity is follows from the living items alone, so an
index that grew and shrank gives the very figures of one built at once. For the disk see `postings_file`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .segments import Segment, living_sizes, make_segment, merged
from .top_rows import Column, Floats, Ints, TopRows

_PATIENCE = 0.5
"""Share of all postings that is weighed term by term after a change before all are weighed at once: by then what one
by one has cost is about half of that."""


class Vocabulary:
    """Terms and their numbers, in the order in which they came."""

    def __init__(self, terms: Iterable[str] = ()) -> None:
        self.terms = list(terms)

    @functools.cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each term; made when first asked for, for an index may be opened without a search."""
        return {term: number for number, term in enumerate(self.terms)}

    def add(self, term: str) -> int:
        """The term's number, a new one if it is unknown."""
        number = self.numbers.get(term)
        if number is None:
            number = self.numbers[term] = len(self.terms)
            self.terms.append(term)
        return number

    def __len__(self) -> int:
        return len(self.terms)


class Postings:
    """The index. Rows are positions in `ids`; `version` grows with every change, for what users keep computed."""

    def __init__(self) -> None:
        self.ids: Ints = np.zeros(0, np.int64)
        self.lengths: Ints = np.zeros(0, np.int32)
        """Number of terms in each row, with repetitions."""
        self.alive: Ints = np.zeros(0, np.bool_)
        self.segments: list[Segment] = []
        self.version = 0
        self._top = TopRows(0)

    @functools.cached_property
    def _rows(self) -> dict[int, int]:
        """The row of each living id; made when first asked for."""
        living = np.flatnonzero(self.alive)
        return dict(zip(self.ids[living].tolist(), living.tolist(), strict=True))

    def __len__(self) -> int:
        return int(np.count_nonzero(self.alive))

    def live_ids(self) -> set[int]:
        """Ids of the living items."""
        return set(self.ids[self.alive].tolist())

    def add(self, ids: Sequence[int], items: Sequence[Ints]) -> None:
        """Add items, each an array of the numbers of its terms (with repetitions, in any order).

        Raises:
            ValueError: an id is negative, there already, or given twice; nothing was added.
        """
        fresh: set[int] = set()
        known = self._rows
        for item_id in ids:
            if item_id < 0 or item_id in known or item_id in fresh:
                raise ValueError(f"id {item_id} is negative or not new")
            fresh.add(item_id)
        if len(ids) != len(items):
            raise ValueError(f"{len(ids)} ids for {len(items)} items")
        if not ids:
            return
        first = len(self.ids)
        terms, counts, sizes = [], [], []
        for item in items:
            unique, times = np.unique(item, return_counts=True)
            terms.append(unique.astype(np.int32))
            counts.append(np.minimum(times, 65535).astype(np.uint16 if len(times) and times.max() > 255 else np.uint8))
            sizes.append(len(unique))
        rows = np.repeat(np.arange(first, first + len(ids), dtype=np.int32), sizes)
        self.segments.append(make_segment(np.concatenate(terms), rows, np.concatenate(counts)))
        self.ids = np.append(self.ids, np.asarray(ids, np.int64))
        self.lengths = np.append(self.lengths, np.asarray([len(item) for item in items], np.int32))
        self.alive = np.append(self.alive, np.ones(len(ids), np.bool_))
        known.update(zip(ids, range(first, first + len(ids)), strict=True))
        self.version += 1
        while len(self.segments) > 1 and len(self.segments[-1]) * 4 > len(self.segments[-2]):
            self.segments[-2:] = [merged(self.segments[-2:], self.alive)]

    def remove(self, ids: Iterable[int]) -> None:
        """Remove items; unknown ids are ignored."""
        rows = [row for row in (self._rows.pop(item_id, None) for item_id in ids) if row is not None]
        if not rows:
            return
        self.alive[rows] = False
        self.version += 1
        if len(self._rows) * 2 < len(self.ids):
            self.compact()

    def compact(self) -> None:
        """One segment, without what was removed."""
        if len(self.segments) <= 1 and self.alive.all():
            return
        one = merged(self.segments, self.alive)
        if not self.alive.all():
            moved = np.cumsum(self.alive, dtype=np.int32) - np.int32(1)
            one.all_rows = moved[one.all_rows]
        keep = np.flatnonzero(self.alive)
        self.segments = [one]
        self.ids, self.lengths, self.alive = self.ids[keep], self.lengths[keep], self.alive[keep]
        self.__dict__.pop("_rows", None)
        self.version += 1

    def find(self, term: int) -> tuple[Ints, Ints]:
        """(rows, counts) of the living items that hold `term`, rows ascending."""
        rows, counts = [], []
        for segment in self.segments:
            place = segment.find(term)
            if place.stop > place.start:
                part = segment.part(place)
                rows.append(part[0])
                counts.append(part[1])
        if not rows:
            return np.zeros(0, np.int32), np.zeros(0, np.uint16)
        found, times = (rows[0], counts[0]) if len(rows) == 1 else (np.concatenate(rows), np.concatenate(counts))
        if not self.alive.all():
            living = self.alive[found]
            return found[living], times[living]
        return found, times

    def document_frequencies(self, size: int) -> Ints:
        """int64 (size,): in how many living items each term is."""
        total = np.zeros(size, np.int64)
        alive = None if self.alive.all() else self.alive
        for segment in self.segments:
            total[segment.terms] += living_sizes(segment, alive)
        return total

    def squares(self, worth: Callable[[Ints, Ints], Floats]) -> np.ndarray[Any, np.dtype[np.float64]]:
        """float64 (rows,): the sum of the squares of what each row's postings are worth.

        Args:
            worth: from counts and terms of postings, both (P,), to float32 (P,).
        """
        total = np.zeros(len(self.ids), np.float64)
        for segment in self.segments:
            for terms, part in segment.blocks():
                rows, counts = segment.part(part)
                worths = worth(counts, segment.terms_of(terms)).astype(np.float64)
                total += np.bincount(rows, worths * worths, minlength=len(total))
        return total

    def best(self, columns: Sequence[Column], k: int) -> list[tuple[int, float]]:
        """(id, score) of the `k` rows with the largest sums, best first, equal ones in the order of their ids.

        Args:
            columns: see `Weights.column`.
            k: how many at most.
        """
        if k <= 0:
            return []
        if self._top.size != len(self.ids):
            self._top = TopRows(len(self.ids))
        rows, scores = self._top.search(columns, k)
        ids = self.ids[rows]
        order = np.lexsort((ids, -scores))[:k]
        return list(zip(ids[order].tolist(), scores[order].tolist(), strict=True))


class Weights:
    """What each posting is worth, by a formula of its user, kept as long as the index stays as it is.

    Weighing all postings costs about as much as some dozens of searches: an index that changes between searches weighs
    only the terms that are asked for.

    Args:
        postings: the index.
        formula: from rows, counts and terms of postings, all (P,), to positive float32 (P,); each worth may depend
            on its own row, count and term, and on the state of the index only.
    """

    def __init__(self, postings: Postings, formula: Callable[[Ints, Ints, Ints], Floats]) -> None:
        self._postings = postings
        self._formula = formula
        self._version = -1
        self._asked = 0
        self._values: list[Floats] = []
        self._largest: list[Floats] = []

    def column(self, term: int, weight: Callable[[int], float]) -> Column | None:
        """The living rows that hold `term` with their worth; None if there are none.

        Args:
            term: its number.
            weight: from the number of living rows that hold the term to what their worth is multiplied by.
        """
        postings = self._postings
        if self._version != postings.version:
            self._version, self._asked, self._values, self._largest = postings.version, 0, [], []
        if self._asked >= _PATIENCE * sum(len(segment) for segment in postings.segments):
            return self._kept(term, weight)
        rows, counts = postings.find(term)
        if not len(rows):
            return None
        self._asked += len(rows)
        values = self._formula(rows, counts, np.full(len(rows), term, np.int32))
        return Column(rows, values, weight(len(rows)), float(values.max()))

    def _kept(self, term: int, weight: Callable[[int], float]) -> Column | None:
        if not self._values:
            self._weigh_all()
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
        return Column(found, worths, weight(len(found)), largest)

    def _weigh_all(self) -> None:
        """Worth of every posting, 0 where the row was removed, and the largest of each term, segment by segment."""
        alive = self._postings.alive
        for segment in self._postings.segments:
            values = np.empty(len(segment), np.float32)
            for terms, part in segment.blocks():
                rows, counts = segment.part(part)
                values[part] = self._formula(rows, counts, segment.terms_of(terms)) * alive[rows]
            self._values.append(values)
            self._largest.append(np.maximum.reduceat(values, segment.starts[:-1]) if len(values) else values)
