"""The inner loops of a lexical search, compiled by numba where it is installed; without it, numpy does the same work.

Compiling takes some seconds, so it is done once per process, in a thread, and only for an index that is searched
often; until it is done numpy answers. Nothing is written to the disk: numba's own cache is made of pickles.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Loops:
    """What is compiled."""

    search: Callable[..., None]
    """See `_searcher`."""


_lock = threading.Lock()
_thread: threading.Thread | None = None
_loops: Loops | None = None
_held_back = False


@functools.cache
def is_installed() -> bool:
    """Whether numba is here."""
    return importlib.util.find_spec("numba") is not None


def loops(*, wait: bool = False) -> Loops | None:
    """The compiled functions; None without numba, and while they are being made.

    Args:
        wait: for them, however long it takes; a benchmark wants that, and a server before its first request.
    """
    global _thread
    if _loops is not None or _held_back or not is_installed():
        return _loops
    with _lock:
        if _thread is None:
            _thread = threading.Thread(target=_compile, name="luna-compile", daemon=True)
            _thread.start()
    if wait:
        _thread.join()
    return _loops


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Compile nothing in the block: a few hundred questions that are asked once are answered before it is done."""
    global _held_back
    before, _held_back = _held_back, True
    try:
        yield
    finally:
        _held_back = before


def _compile() -> None:
    global _loops
    try:
        numba: Any = importlib.import_module("numba")
    except ImportError:  # there, but not for this interpreter or this numpy
        return
    types, njit = numba.types, numba.njit(nogil=True)
    i64, f32, f64 = (types.Array(kind, 1, "C") for kind in (types.int64, types.float32, types.float64))
    # What is mapped from a file is read-only and may lie anywhere.
    read_i32, read_i64, read_f32 = (
        types.Array(kind, 1, "C", readonly=True, aligned=False) for kind in (types.int32, types.int64, types.float32)
    )
    found, best = types.Array(types.int64, 2, "C"), types.Array(types.float32, 2, "C")
    segment = (read_i32, read_i64, read_i32, read_f32, read_i64)
    signature = types.void(*segment, f64, f64, i64, f64, i64, f32, i64, found, best, i64)
    sink = njit(_sink)
    parts = (njit(_arranger(njit(_bound))), njit(_add), njit(_taker(sink)), njit(_sorter(sink)))
    _loops = Loops(numba.njit(signature, nogil=True)(_searcher(*parts)))


def _bound(term: int, weight: float, scales: Array, largest: Array) -> float:
    """The most that a term can add to a row."""
    return weight * scales[term] * largest[term] if term < len(scales) else 0.0


def _arranger(bound: Callable[..., float]) -> Callable[..., None]:
    """`arrange`, with `_bound` as it is compiled."""

    def arrange(asked: Array, weights: Array, scales: Array, largest: Array) -> None:
        """Put a question's terms in the order of their bounds, largest first; equal ones stay as they are."""
        for i in range(1, len(asked)):
            term, weight, at = asked[i], weights[i], i
            own = bound(term, weight, scales, largest)
            while at > 0 and bound(asked[at - 1], weights[at - 1], scales, largest) < own:
                asked[at], weights[at] = asked[at - 1], weights[at - 1]
                at -= 1
            asked[at], weights[at] = term, weight

    return arrange


def _add(
    terms: Array,
    starts: Array,
    rows: Array,
    values: Array,
    scales: Array,
    asked: Array,
    weights: Array,
    scores: Array,
    touched: Array,
) -> int:
    """Add the worth of one segment's postings to the scores of their rows; how many rows are touched.

    The arrays are those of `search` below, `asked` and `weights` those of one question. `scores` are all 0 before; the
    first entries of `touched` are the rows whose score is not 0 afterwards.
    """
    count = 0
    for i in range(len(asked)):
        term = asked[i]
        low, high = 0, len(terms)
        while low < high:
            middle = (low + high) // 2
            if terms[middle] < term:
                low = middle + 1
            else:
                high = middle
        if low == len(terms) or terms[low] != term:
            continue
        weight = np.float32(weights[i] * scales[term])
        for p in range(starts[low], starts[low + 1]):
            gain = weight * values[p]
            if gain > 0:
                row = rows[p]
                if scores[row] == 0:
                    touched[count] = row
                    count += 1
                scores[row] += gain
    return count


def _sink(best: Array, found: Array, size: int, score: float, item: int) -> None:
    """Put (score, item) into a heap of `size` entries in the place of its top."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (best[other] < best[child] or (best[other] == best[child] and found[other] > found[child])):
            child = other
        if best[child] > score or (best[child] == score and found[child] < item):
            break
        best[at], found[at] = best[child], found[child]
        at = child
    best[at], found[at] = score, item


def _taker(sink: Callable[..., None]) -> Callable[..., int]:
    """`take`, with `_sink` as it is compiled."""

    def take(scores: Array, touched: Array, count: int, ids: Array, best: Array, found: Array, size: int) -> int:
        """Put the touched rows into a heap, the worst of the best at its top; how many it holds then.

        Leaves `scores` clean: all 0.

        Args:
            scores: float32 (N,).
            touched: int64 (N,), see `_add`.
            count: how many rows are touched.
            ids: int64 (N,), of the rows.
            best: float32 (k,), the heap's scores.
            found: int64 (k,), its ids.
            size: how many it holds.
        """
        for i in range(count):
            row = touched[i]
            score, item = scores[row], ids[row]
            scores[row] = 0
            if size < len(best):
                at = size
                while at > 0:
                    above = (at - 1) // 2
                    if best[above] < score or (best[above] == score and found[above] > item):
                        break
                    best[at], found[at] = best[above], found[above]
                    at = above
                best[at], found[at] = score, item
                size += 1
            elif score > best[0] or (score == best[0] and item < found[0]):
                sink(best, found, size, score, item)
        return size

    return take


def _sorter(sink: Callable[..., None]) -> Callable[..., None]:
    """`sort`, with `_sink` as it is compiled."""

    def sort(best: Array, found: Array, size: int) -> None:
        """Make a heap of `size` entries a list, best first, equal ones by their ids."""
        for end in range(size - 1, 0, -1):  # the worst goes to the end
            score, item = best[end], found[end]
            best[end], found[end] = best[0], found[0]
            sink(best, found, end, score, item)

    return sort


def _searcher(
    arrange: Callable[..., None], add: Callable[..., int], take: Callable[..., int], sort: Callable[..., None]
) -> Callable[..., None]:
    """`search`, with its parts as they are compiled."""

    def search(
        terms: Array,
        starts: Array,
        rows: Array,
        values: Array,
        ids: Array,
        scales: Array,
        largest: Array,
        asked: Array,
        weights: Array,
        ends: Array,
        scores: Array,
        touched: Array,
        found: Array,
        best: Array,
        sizes: Array,
    ) -> None:
        """Find the best rows of one segment for some questions; a row lies in one segment, so its sum is whole there.

        Args:
            terms: int32 (V,), ascending: those of the segment.
            starts: int64 (V + 1,), see `Segment`.
            rows: int32 (P,).
            values: float32 (P,), what each posting is worth, 0 for a removed row.
            ids: int64 (N,), of the rows.
            scales: float64 (T,), what the worth of each term's postings is multiplied by.
            largest: float64 (T,), the largest worth among them.
            asked: int64 (A,), numbers of terms, one question after the other; put in order.
            weights: float64 (A,), of the terms; likewise.
            ends: int64 (Q,), where each question's terms end.
            scores: float32 (N,), all 0, and all 0 again afterwards.
            touched: int64 (N,), room.
            found: int64 (Q, k), changed: the ids found for each question, best first.
            best: float32 (Q, k), changed: their scores.
            sizes: int64 (Q,), changed: how many; those of the segments before are there already.
        """
        begin = 0
        for i in range(len(ends)):
            own, sums = asked[begin : ends[i]], weights[begin : ends[i]]
            arrange(own, sums, scales, largest)
            count = add(terms, starts, rows, values, scales, own, sums, scores, touched)
            size = sizes[i]
            if size:  # worst first it is a heap again
                best[i, :size], found[i, :size] = best[i, :size][::-1].copy(), found[i, :size][::-1].copy()
            sizes[i] = take(scores, touched, count, ids, best[i], found[i], size)
            sort(best[i], found[i], sizes[i])
            begin = ends[i]

    return search
