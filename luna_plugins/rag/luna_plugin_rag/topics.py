"""Topics of a knowledge base: clusters of chunks, named by the words that set them apart.

Chunks are unit vectors of TF-IDF over stems; spherical k-means (Dhillon and Modha, "Concept decompositions for large
sparse text data using clustering", 2001) from a few seeded starts by k-means++ (Arthur and Vassilvitskii, 2007), of
which the tightest stays. The same chunks give the same topics. A topic's words are those that weigh more in it than in
the whole, each in its most frequent written form.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from luna_kernel.data.portuguese import STOP_WORDS, fold, stem

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_WORD = re.compile(r"[^\W\d_]{3,}")
_TERMS, _STARTS, _ROUNDS, _MANY = 20_000, 4, 25, 5000
MOST = 20
"""Topics at most, where their number was not given."""


@dataclass(frozen=True)
class Topic:
    """Some chunks about the same."""

    words: list[str]
    """What sets it apart, strongest first."""
    chunks: list[int]
    """Ids, nearest to its centre first."""
    share: float
    """Of all chunks."""
    cohesion: float
    """Mean cosine of its chunks to its centre, 0 to 1."""
    sources: int
    """Files that it comes from."""
    example: str
    """The beginning of the nearest chunk."""


class TermMatrix:
    """Unit rows of TF-IDF (N, V), sparse, by rows."""

    def __init__(self, texts: Sequence[str]) -> None:
        forms: dict[str, Counter[str]] = {}
        counts = []
        for text in texts:
            count: Counter[str] = Counter()
            for word in _WORD.findall(text.lower()):
                plain = fold(word)
                if plain not in STOP_WORDS:
                    term = stem(plain)
                    count[term] += 1
                    forms.setdefault(term, Counter())[word] += 1
            counts.append(count)
        spread = Counter(term for count in counts for term in count)
        # A term of one chunk relates it to none; where there are few chunks, all are kept.
        least = 2 if len(texts) > 20 else 1
        kept = sorted((term for term in spread if spread[term] >= least), key=lambda term: (-spread[term], term))[
            :_TERMS
        ]
        self.names = [max(forms[term].items(), key=lambda form: (form[1], form[0]))[0] for term in kept]
        number = {term: place for place, term in enumerate(kept)}
        idf = np.log((1 + len(texts)) / (1 + np.asarray([spread[term] for term in kept], np.float64))) + 0.1
        rows, columns, values = [], [], []
        for row, count in enumerate(counts):
            known = [(number[term], times) for term, times in count.items() if term in number]
            weights = np.asarray([(1 + math.log(times)) * idf[place] for place, times in known], np.float64)
            rows.append(np.full(len(known), row, np.int64))
            columns.append(np.asarray([place for place, _ in known], np.int64))
            values.append(weights / max(float(np.linalg.norm(weights)), 1e-12))
        self.shape = (len(texts), len(kept))
        self.rows: Ints = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        self.columns: Ints = np.concatenate(columns) if columns else np.zeros(0, np.int64)
        self.values: Floats = np.concatenate(values) if values else np.zeros(0)

    def times(self, centres: Floats) -> Floats:
        """(N, V) @ centres (V, K) -> (N, K)."""
        found = np.zeros((self.shape[0], centres.shape[1]))
        for k in range(centres.shape[1]):
            products = self.values * centres[self.columns, k]
            found[:, k] = np.bincount(self.rows, products, minlength=self.shape[0])
        return found

    def sums(self, labels: Ints, k: int) -> Floats:
        """The sum of the rows of each label, (V, K)."""
        places = self.columns * k + labels[self.rows]
        flat: Floats = np.bincount(places, self.values, minlength=self.shape[1] * k).astype(np.float64, copy=False)
        return flat.reshape(self.shape[1], k)


def find_topics(ids: Sequence[int], texts: Sequence[str], sources: Sequence[str], count: int | None) -> list[Topic]:
    """Topics, largest first.

    Args:
        ids: of the chunks.
        texts: of the chunks.
        sources: the files of the chunks.
        count: how many topics; None: the square root of half the number of chunks, 2 to 20.
    """
    if not texts:
        return []
    matrix = TermMatrix(texts)
    k = min(count or min(MOST, max(2, round(math.sqrt(len(texts) / 2)))), len(texts))
    best: tuple[float, Ints, Floats] | None = None
    for start in range(_STARTS if len(texts) <= _MANY else 1):  # of many chunks one start takes seconds, and is stable
        labels, near = _cluster(matrix, k, np.random.default_rng(start))
        if best is None or near.sum() > best[0] + 1e-9:
            best = (float(near.sum()), labels, near)
    assert best is not None
    _, labels, near = best
    whole = matrix.sums(np.zeros(len(texts), np.int64), 1)[:, 0] / len(texts)
    means = matrix.sums(labels, k)
    topics = []
    for topic in range(k):
        rows = np.flatnonzero(labels == topic)
        if not len(rows):
            continue
        order = rows[np.lexsort((rows, -near[rows]))]
        ahead = means[:, topic] / len(rows) - whole
        words = [matrix.names[place] for place in np.argsort(-ahead, kind="stable")[:8] if ahead[place] > 1e-9]
        if not words:  # one topic only: nothing sets it apart
            words = [matrix.names[place] for place in np.argsort(-whole, kind="stable")[:8]]
        topics.append(
            Topic(
                words,
                [ids[int(row)] for row in order],
                len(rows) / len(texts),
                float(near[rows].mean()),
                len({sources[int(row)] for row in rows}),
                " ".join(texts[int(order[0])].split())[:160],
            )
        )
    return sorted(topics, key=lambda topic: (-len(topic.chunks), topic.words))


def _cluster(matrix: TermMatrix, k: int, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """(label of each row, its cosine to the centre of its cluster)."""
    centres = _first_centres(matrix, k, rng)
    labels = np.full(matrix.shape[0], -1, np.int64)
    for _ in range(_ROUNDS):
        cosines = matrix.times(centres)
        new = cosines.argmax(axis=1).astype(np.int64)
        if np.array_equal(new, labels):
            break
        labels = new
        sums = matrix.sums(labels, k)
        lengths = np.linalg.norm(sums, axis=0)
        centres = np.where(lengths > 1e-12, sums / np.maximum(lengths, 1e-12), centres)
    cosines = matrix.times(centres)
    return labels, cosines[np.arange(len(labels)), labels]


def _first_centres(matrix: TermMatrix, k: int, rng: np.random.Generator) -> Floats:
    """Rows far from one another, drawn as k-means++ does, (V, K)."""
    count, width = matrix.shape
    centres = np.zeros((width, k))
    far = np.ones(count)
    for place in range(k):
        total = far.sum()
        row = int(rng.choice(count, p=far / total)) if total > 1e-9 else int(rng.integers(count))
        mine = matrix.rows == row
        centres[matrix.columns[mine], place] = matrix.values[mine]
        nearness = matrix.times(centres[:, place : place + 1])[:, 0]
        far = np.minimum(far, np.maximum(0, 1 - nearness))
    return centres
