"""A text as units that are never larger than the limit: sentences, or parts of those that are too long."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from luna_kernel.data.sentences import Span

from .measure import Measure

_GOOD_PLACES = tuple(re.compile(pattern) for pattern in (r"\n\s*", r"[;:,]\s+", r"\s+"))


class Unit(NamedTuple):
    """A part of the text with its size."""

    start: int
    end: int
    size: int
    joint: int = 0
    """What joining it to the unit before it adds to the sum of both sizes at most."""


def units_of(text: str, spans: Sequence[Span], measure: Measure, limit: int, *, words: bool = True) -> list[Unit]:
    """The spans as units, those above the limit cut into several.

    Args:
        text: the document.
        spans: tile it or a part of it.
        measure: counts.
        limit: size of a unit at most.
        words: cut a long span after a clause or a word where it can.
    """
    sizes = measure.sizes([text[start:end] for start, end in spans])
    if max(sizes, default=0) > limit:
        pairs = [
            pair
            for span, size in zip(spans, sizes, strict=True)
            for pair in _cut(text, span, size, measure, limit, words)
        ]
        spans, sizes = [span for span, _ in pairs], [size for _, size in pairs]
    joints = measure.joints(text, spans)
    return [Unit(a, b, size, joint) for (a, b), size, joint in zip(spans, sizes, joints, strict=True)]


def _cut(text: str, span: Span, size: int, measure: Measure, limit: int, words: bool) -> Iterator[tuple[Span, int]]:
    start, end = span
    while size > limit:
        cut, first = head(text, start, end, measure, limit, words=words)
        yield (start, cut), first
        start = cut
        size = measure.sizes([text[start:end]])[0]
    if start < end:
        yield (start, end), size


def head(text: str, start: int, end: int, measure: Measure, limit: int, *, words: bool = True) -> tuple[int, int]:
    """(place, size) of a beginning of `text[start:end]` that keeps within the limit; at least one character."""
    reach = limit
    while True:
        place = measure.reach(text, start, end, reach) if reach > 0 else start
        place = _good(text, start, max(place, start + 1), end, words=words)
        size = measure.sizes([text[start:place]])[0]
        if size <= limit or place == start + 1:
            return place, size
        reach = min(reach - 1, reach * limit // size)


def _good(text: str, start: int, place: int, end: int, *, words: bool) -> int:
    """The last place to cut at up to `place`: after a line, a clause or a word, never before a combining mark."""
    if place >= end:
        return end
    if words:
        part = text[max(start, place - 400) : place]
        least = max(0, (place - start) // 3 - (place - start - len(part)))
        for pattern in _GOOD_PLACES:
            found = [match.end() for match in pattern.finditer(part) if match.end() > least]
            if found:
                return place - len(part) + found[-1]
    best = place
    while best > start + 1 and unicodedata.combining(text[best]):
        best -= 1
    return best if best > start + 1 else place


def size_of(units: Iterable[Unit]) -> int:
    """An upper bound of the size of neighbouring units joined."""
    total = 0
    for place, unit in enumerate(units):
        total += unit.size + (unit.joint if place else 0)
    return total


def checked(text: str, groups: Iterable[list[Unit]], measure: Measure, limit: int) -> list[list[Unit]]:
    """The groups, those halved that are larger than the limit when they are measured as a whole."""
    todo = [group for group in groups if group]
    if measure.additive:
        return todo
    sizes = measure.sizes([text[group[0].start : group[-1].end] for group in todo])
    found: list[list[Unit]] = []
    for group, size in zip(todo, sizes, strict=True):
        if size <= limit or len(group) == 1:
            found.append(group)
        else:
            half = len(group) // 2
            found += checked(text, [group[:half], group[half:]], measure, limit)
    return found
