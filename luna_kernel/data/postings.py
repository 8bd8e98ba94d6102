"""An inverted index in numpy: which items hold a term, and how often. What lexical retrievers are made of.

It holds counts only; what they are worth (BM25, TF-IDF) its user says, see `weighted_search`. Items come and go at any
time: new ones form segments that are merged as they pile up, so that adding costs in proportion to what is added;
removed ones are marked, skipped, and dropped when segments merge. What a term's rarity is follows from the living items
alone, so an index that grew and shrank gives the very figures of one built at once. For the disk see `postings_file`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .segments import Segment, living_sizes, make_segment, merged
from .top_rows import Floats, Ints


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
        self._count = (-1, 0)

    @functools.cached_property
    def _rows(self) -> dict[int, int]:
        """The row of each living id; made when first asked for."""
        living = np.flatnonzero(self.alive)
        return dict(zip(self.ids[living].tolist(), living.tolist(), strict=True))

    def __len__(self) -> int:
        if self._count[0] != self.version:
            self._count = (self.version, int(np.count_nonzero(self.alive)))
        return self._count[1]

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
