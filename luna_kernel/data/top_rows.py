"""The best rows of a sum of sparse columns: what a lexical search is once each term's weights are known.

A query's terms have lists of rows with weights; a row's score is the sum of its weights. Only rows that some list holds
are ever looked at, so a search costs what its lists hold, not what the index holds. Lists are taken with the heaviest
first. As soon as all that the lists still to come could add is less than the score of the k-th row so far, no new row
can be among the best, and the long lists of frequent terms are only asked about the rows that still can (MaxScore:
Turtle and Flood, "Query evaluation: strategies and optimizations", 1995). The result is that of the whole sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_SLACK = 1 + 1e-5
"""Sums in float32 may exceed the sum of the bounds by rounding."""
_WORTH = 512
"""Where fewer entries than this are still to come, adding them costs less than asking whether they matter."""


@dataclass(frozen=True)
class Column:
    """The rows that hold one term of a query."""

    rows: Ints
    """int32 (P,), ascending, each once."""
    values: Floats
    """float32 (P,), positive: what the term is worth in each row before `weight`."""
    weight: float
    """What the values are multiplied by, positive."""
    largest: float
    """No value is larger."""

    @property
    def bound(self) -> float:
        """The most that the column can add to a row."""
        return self.weight * self.largest


class TopRows:
    """Sums columns over `size` rows. Several threads may search with one: each takes a work space of its own."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._spare: list[tuple[Floats, Ints]] = []

    def take(self) -> tuple[Floats, Ints]:
        """A work space: scores, float32 (size,), all 0, and room for the numbers of as many rows, int64."""
        try:
            return self._spare.pop()
        except IndexError:
            return np.zeros(self.size, np.float32), np.empty(self.size, np.int64)

    def give(self, space: tuple[Floats, Ints]) -> None:
        """Take back a work space whose scores are all 0 again; after a failure it is not given back."""
        self._spare.append(space)

    def search(self, columns: Sequence[Column], k: int) -> tuple[Ints, Floats]:
        """(rows, scores) of the `k` best rows, all that tie with the last, and maybe others; in no order, each once.

        Args:
            columns: of the terms of the query; those without rows are left out.
            k: how many at most, 1 or more.
        """
        columns = sorted((column for column in columns if len(column.rows)), key=lambda c: -c.bound)
        if not columns:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        space = self.take()
        scores = space[0]
        rows, values, used = self._sum(columns, k, scores)
        for column in columns[:used]:
            scores[column.rows] = 0
        self.give(space)
        return rows, values

    def _sum(self, columns: Sequence[Column], k: int, scores: Floats) -> tuple[Ints, Floats, int]:
        """The rows, their scores, and how many columns left something in `scores`."""
        to_come = sum(len(column.rows) for column in columns)
        bound = sum(column.bound for column in columns)
        least = done = 0.0
        for place, column in enumerate(columns, 1):
            scores[column.rows] += np.float32(column.weight) * column.values
            to_come -= len(column.rows)
            bound -= column.bound
            done += column.bound
            last = place == len(columns)
            if last or (to_come >= _WORTH and bound < done):
                # A lower bound of the k-th best score: that of this column's rows alone, of which none comes twice.
                least = max(least, _kth(scores[column.rows], k))
            if not last and to_come >= _WORTH and bound * _SLACK < least:
                rows = _distinct([other.rows for other in columns[:place]], scores, least - bound * _SLACK)
                return *_complete(rows, scores[rows], columns[place:], least), place
        rows = _distinct([column.rows for column in columns], scores, least)
        return rows, scores[rows], len(columns)


def _kth(values: Floats, k: int) -> float:
    """The `k`-th largest value; 0 where there are fewer."""
    return float(np.partition(values, len(values) - k)[len(values) - k]) if len(values) >= k else 0.0


def _distinct(lists: Sequence[Ints], scores: Floats, least: float) -> Ints:
    """The rows of the lists whose score is at least `least`, each once, ascending."""
    rows = np.concatenate([rows[scores[rows] >= least] for rows in lists])
    if len(lists) > 1:
        rows.sort()
        rows = rows[np.append(True, rows[1:] != rows[:-1])] if len(rows) else rows
    return rows


def _complete(rows: Ints, values: Floats, columns: Sequence[Column], least: float) -> tuple[Ints, Floats]:
    """Add what `columns` hold for `rows`, dropping rows that can no longer reach `least`."""
    bound = sum(column.bound for column in columns)
    for column in columns:
        places = np.searchsorted(column.rows, rows)
        places[places == len(column.rows)] = 0
        held = column.rows[places] == rows
        values[held] += np.float32(column.weight) * column.values[places[held]]
        bound -= column.bound
        kept = values >= least - bound * _SLACK
        rows, values = rows[kept], values[kept]
    return rows, values
