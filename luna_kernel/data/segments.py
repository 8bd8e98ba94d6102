"""Parts of an inverted index: postings sorted by term, and how several parts become one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .top_rows import Ints

BLOCK = 1 << 20
"""Postings worked on at once, about."""


@dataclass
class Segment:
    """Postings of some rows, sorted by term: those of `terms[i]` are at `starts[i]:starts[i + 1]`."""

    terms: Ints
    """int32 (V,), ascending."""
    starts: Ints
    """int64 (V + 1,)."""
    all_rows: Ints
    """int32 (P,), ascending within a term; read through `part`."""
    all_counts: Ints
    """uint16 or uint8 (P,); read through `part`."""
    check: Callable[[slice], None] | None = None
    """Told which postings will be read, before they are; raises `IntegrityError` where they are damaged."""

    def __len__(self) -> int:
        """How many postings there are."""
        return len(self.all_rows)

    def part(self, postings: slice) -> tuple[Ints, Ints]:
        """(rows, counts) of some postings.

        Raises:
            IntegrityError: they were read from a file and are not what was written.
        """
        if self.check is not None:
            self.check(postings)
        return self.all_rows[postings], self.all_counts[postings]

    def whole(self) -> tuple[Ints, Ints]:
        """(rows, counts) of all postings; see `part`."""
        return self.part(slice(0, len(self)))

    def find(self, term: int) -> slice:
        """Where the postings of `term` are; an empty slice if there are none."""
        place = self.place(term)
        return slice(int(self.starts[place]), int(self.starts[place + 1])) if place >= 0 else slice(0, 0)

    def place(self, term: int) -> int:
        """Where `term` is in `terms`; -1 if it is not there."""
        # A plain int would have the whole array cast for each search.
        place = int(self.terms.searchsorted(self.terms.dtype.type(term)))
        return place if place < len(self.terms) and self.terms[place] == term else -1

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """(terms, postings) as slices that follow each other: whole terms, about `BLOCK` postings each."""
        first = 0
        while first < len(self.terms):
            reach = int(self.starts[first]) + BLOCK
            last = max(first + 1, int(self.starts.searchsorted(reach, side="right")) - 1)
            yield slice(first, last), slice(int(self.starts[first]), int(self.starts[last]))
            first = last

    def terms_of(self, terms: slice) -> Ints:
        """int32 (P,): the term of each posting of some terms."""
        return np.repeat(self.terms[terms], np.diff(self.starts[terms.start : terms.stop + 1]))


def make_segment(terms: Ints, rows: Ints, counts: Ints) -> Segment:
    """A segment from parallel arrays (P,) whose rows ascend."""
    order = np.argsort(terms, kind="stable")
    terms, rows, counts = terms[order], rows[order], counts[order]
    unique, starts = np.unique(terms, return_index=True)
    return Segment(unique.astype(np.int32), np.append(starts, len(terms)).astype(np.int64), rows, counts)


def merged(segments: Sequence[Segment], alive: Ints) -> Segment:
    """One segment of the living rows of several, whose rows ascend from one to the next.

    Each segment is sorted already, so where its postings go follows from how many each term has; memory beside the
    result is that of a block.

    Args:
        segments: the parts.
        alive: bool (rows,).
    """
    whole = bool(alive.all())
    terms = np.unique(np.concatenate([segment.terms for segment in segments]))
    places = [terms.searchsorted(segment.terms) for segment in segments]
    sizes = [living_sizes(segment, None if whole else alive) for segment in segments]
    total = np.zeros(len(terms), np.int64)
    for place, size in zip(places, sizes, strict=True):
        total[place] += size
    starts = np.concatenate(([0], np.cumsum(total)))
    rows = np.empty(int(starts[-1]), np.int32)
    counts = np.empty(len(rows), np.result_type(*(segment.all_counts.dtype for segment in segments)))
    free = starts[:-1].copy()
    """Where the next posting of each term goes."""
    for segment, place, size in zip(segments, places, sizes, strict=True):
        for part, postings in segment.blocks():
            from_rows, from_counts = segment.part(postings)
            if not whole:
                living = alive[from_rows]
                from_rows, from_counts = from_rows[living], from_counts[living]
            begin = free[place[part]]
            before = np.concatenate(([0], np.cumsum(size[part])[:-1]))
            to = np.repeat(begin - before, size[part]) + np.arange(len(from_rows))
            rows[to], counts[to] = from_rows, from_counts
            free[place[part]] += size[part]
    held = total > 0
    return Segment(terms[held].astype(np.int32), np.append(starts[:-1][held], starts[-1]), rows, counts)


def living_sizes(segment: Segment, alive: Ints | None) -> Ints:
    """int64 (V,): how many living postings each term of a segment has; all where `alive` is None."""
    if alive is None:
        return np.diff(segment.starts)
    found = np.zeros(len(segment.terms), np.int64)
    for terms, postings in segment.blocks():
        starts = segment.starts[terms] - segment.starts[terms.start]
        found[terms] = np.add.reduceat(alive[segment.part(postings)[0]], starts, dtype=np.int64)
    return found
