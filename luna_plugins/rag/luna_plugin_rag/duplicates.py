"""Near duplicates among chunks: MinHash proposes pairs, the exact Jaccard index of their shingles decides.

A shingle is five words in a row, folded. Signatures of 128 minima in 32 bands of 4 (Broder, "On the resemblance and
containment of documents", 1997; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4): a pair of
Jaccard index s is proposed with probability 1 - (1 - s^4)^32, which is above 0.9999999 at 0.8 and 0.87 at 0.5. What is
reported is exact; what is not proposed is missed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from luna_kernel.data.portuguese import words

Hashes = npt.NDArray[np.uint64]

SHINGLE, _MINIMA, _BANDS, _SEED = 5, 128, 32, 7
_MOST_OF_A_BUCKET = 50
"""Of more chunks with one band in common, neighbours are compared, not all pairs: they are copies of one text."""


@dataclass(frozen=True)
class Group:
    """Chunks that are nearly the same."""

    chunks: list[int]
    """Ids, ascending."""
    jaccard: float
    """The least of the pairs that join them, 0 to 1."""


def shingles(text: str) -> frozenset[tuple[str, ...]]:
    """The runs of five folded words of a text; a shorter text is one run."""
    found = words(text)
    if not found:
        return frozenset()
    return frozenset(tuple(found[at : at + SHINGLE]) for at in range(max(1, len(found) - SHINGLE + 1)))


def jaccard(one: frozenset[Any], two: frozenset[Any]) -> float:
    """Size of the intersection over that of the union; 0 for two empty sets."""
    return len(one & two) / len(one | two) if one or two else 0.0


def signature(found: frozenset[tuple[str, ...]]) -> Hashes:
    """uint64 (128,): the least value of each hash function over the shingles."""
    digests = [hashlib.blake2b(" ".join(item).encode(), digest_size=8).digest() for item in sorted(found)]
    values = np.frombuffer(b"".join(digests), np.uint64)
    rng = np.random.default_rng(_SEED)
    factors = rng.integers(1, 2**63, _MINIMA, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    added = rng.integers(0, 2**63, _MINIMA, dtype=np.uint64)
    mixed = (values[:, None] * factors + added) >> np.uint64(11)
    least: Hashes = mixed.min(axis=0)
    return least


def find_duplicates(ids: Sequence[int], texts: Sequence[str], least: float = 0.8) -> list[Group]:
    """Groups of chunks of which each is joined to another by a Jaccard index of `least` or more, largest first."""
    sets = [shingles(text) for text in texts]
    joined: dict[int, int] = {}
    weakest: dict[tuple[int, int], float] = {}
    for one, two in _proposed(sets):
        value = jaccard(sets[one], sets[two])
        if value >= least:
            weakest[one, two] = value
            joined[_root(joined, one)] = _root(joined, two)
    members: dict[int, set[int]] = defaultdict(set)
    lows: dict[int, float] = {}
    for (one, two), value in weakest.items():
        root = _root(joined, one)
        members[root] |= {one, two}
        lows[root] = min(lows.get(root, 1.0), value)
    groups = [Group(sorted(ids[place] for place in places), lows[root]) for root, places in members.items()]
    return sorted(groups, key=lambda group: (-len(group.chunks), group.chunks))


def _proposed(sets: Sequence[frozenset[tuple[str, ...]]]) -> set[tuple[int, int]]:
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    width = _MINIMA // _BANDS
    for place, found in enumerate(sets):
        if found:
            minima = signature(found)
            for band in range(_BANDS):
                buckets[band, minima[band * width : (band + 1) * width].tobytes()].append(place)
    pairs: set[tuple[int, int]] = set()
    for places in buckets.values():
        if len(places) > _MOST_OF_A_BUCKET:
            pairs.update(itertools.pairwise(places))
        else:
            pairs.update((one, two) for at, one in enumerate(places) for two in places[at + 1 :])
    return pairs


def _root(joined: dict[int, int], place: int) -> int:
    while joined.get(place, place) != place:
        joined[place] = joined.get(joined[place], joined[place])
        place = joined[place]
    return place
