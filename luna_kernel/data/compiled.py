"""The inner loops of a lexical search, compiled by numba where it is installed; without it, numpy does the same work.

Compiling takes a second or two, so it is done once per process, in a thread, and only for an index that is searched
often; until it is done numpy answers. Nothing is written to the disk: numba's own cache is made of pickles.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Loops:
    """The compiled functions."""

    add: Callable[..., int]
    """See `_add`."""
    select: Callable[..., tuple[Array, Array]]
    """See `_selector`."""


_lock = threading.Lock()
_thread: threading.Thread | None = None
_loops: Loops | None = None


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
    if _loops is not None or not is_installed():
        return _loops
    with _lock:
        if _thread is None:
            _thread = threading.Thread(target=_compile, name="luna-compile", daemon=True)
            _thread.start()
    if wait:
        _thread.join()
    return _loops


def _compile() -> None:
    global _loops
    try:
        numba: Any = importlib.import_module("numba")
    except ImportError:  # there, but not for this interpreter or this numpy
        return
    types, njit = numba.types, numba.njit
    i64, f32 = types.Array(types.int64, 1, "C"), types.Array(types.float32, 1, "C")
    # What is mapped from a file is read-only and may lie anywhere.
    read_i32, read_i64, read_f32 = (
        types.Array(kind, 1, "C", readonly=True, aligned=False) for kind in (types.int32, types.int64, types.float32)
    )
    add = types.int64(read_i32, read_i64, read_i32, read_f32, read_i64, read_f32, f32, i64, types.int64)
    select = types.Tuple((i64, f32))(f32, i64, types.int64, types.int64, read_i64)
    _loops = Loops(njit(add, nogil=True)(_add), njit(select, nogil=True)(_selector(njit(nogil=True)(_sink))))


def _add(
    terms: Array,
    starts: Array,
    rows: Array,
    values: Array,
    asked: Array,
    weights: Array,
    scores: Array,
    touched: Array,
    count: int,
) -> int:
    """Add the worth of one segment's postings to the scores of their rows; returns how many rows are touched now.

    Args:
        terms: int32 (V,), ascending: those of the segment.
        starts: int64 (V + 1,), see `Segment`.
        rows: int32 (P,).
        values: float32 (P,), what each posting is worth, 0 for a removed row.
        asked: int64 (Q,), numbers of terms in the order in which they are added.
        weights: float32 (Q,), what their worth is multiplied by.
        scores: float32 (N,), changed.
        touched: int64 (N,), the rows whose score is not 0, `count` of them so far; changed.
        count: see `touched`.
    """
    for i in range(len(asked)):
        term, weight = asked[i], weights[i]
        low, high = 0, len(terms)
        while low < high:
            middle = (low + high) // 2
            if terms[middle] < term:
                low = middle + 1
            else:
                high = middle
        if low == len(terms) or terms[low] != term:
            continue
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


def _selector(sink: Callable[..., None]) -> Callable[..., tuple[Array, Array]]:
    """`select`, with `_sink` as it is compiled."""

    def select(scores: Array, touched: Array, count: int, k: int, ids: Array) -> tuple[Array, Array]:
        """(ids, scores) of the `k` touched rows with the largest scores, best first, equal ones by their ids.

        Leaves `scores` clean: all 0.

        Args:
            scores: float32 (N,).
            touched: int64 (N,), see `_add`.
            count: see `touched`.
            k: how many at most, 1 or more.
            ids: int64 (N,), of the rows.
        """
        size = min(k, count)
        best, found = np.zeros(size, np.float32), np.zeros(size, np.int64)  # a heap, the worst of the best at its top
        for i in range(count):
            row = touched[i]
            score, item = scores[row], ids[row]
            scores[row] = 0
            if i < size:
                at = i
                while at > 0:
                    above = (at - 1) // 2
                    if best[above] < score or (best[above] == score and found[above] > item):
                        break
                    best[at], found[at] = best[above], found[above]
                    at = above
                best[at], found[at] = score, item
            elif score > best[0] or (score == best[0] and item < found[0]):
                sink(best, found, size, score, item)
        for end in range(size - 1, 0, -1):  # the worst goes to the end
            score, item = best[end], found[end]
            best[end], found[end] = best[0], found[0]
            sink(best, found, end, score, item)
        return found, best

    return select
