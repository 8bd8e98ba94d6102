"""Other libraries behind the same words and the same formula: bm25s and rank-bm25.

Both hold an index that cannot change, so it is made anew from Luna's own, which stays the truth, before the first
search after a change: meant for folders that are indexed once, and for comparing. Both are given Luna's terms and
Luna's inverse document frequency, so they rank as Luna does.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.retrievers import Hits
from luna_kernel.data.postings import Postings
from luna_kernel.data.top_rows import Floats, Ints

from .config import BM25Config

t = catalogue(__package__)


class Engine(ABC):
    """An index of a library.

    Args:
        config: k1 and b are read.
        postings: what is searched; it may change at any time.

    Raises:
        UsageError: the library is not installed.
    """

    module: str
    """What is imported."""
    extra: str
    """The extra of this plugin that installs it."""

    def __init__(self, config: BM25Config, postings: Postings) -> None:
        try:
            self._library: Any = importlib.import_module(self.module)
        except ImportError as error:
            install = f'pip install "luna-plugin-bm25[{self.extra}]"'
            raise UsageError(
                t("engine.missing", name=self.extra), hint=t("engine.missing.hint", install=install)
            ) from error
        self._config = config
        self._postings = postings
        self._version = -1
        self._ids: Ints = np.zeros(0, np.int64)

    def best(self, asked: Sequence[int], k: int) -> Hits:
        """The `k` best chunks, best first, equal ones in the order of their ids.

        Args:
            asked: numbers of the question's terms, with repetitions; terms that no chunk holds are skipped.
            k: how many at most.
        """
        postings = self._postings
        if self._version != postings.version:
            documents = living_documents(postings)
            self._ids = postings.ids[postings.alive]
            self._any = any(len(document) for document in documents)
            if self._any:
                self._build(documents)
            self._version = postings.version
        held = [term for term in asked if len(postings.find(term)[0])]
        if k <= 0 or not self._any or not held:
            return Hits([], [])
        scores = self._scores(held)
        found = np.flatnonzero(scores > 0)
        order = found[np.lexsort((self._ids[found], -scores[found]))][:k]
        return Hits(self._ids[order].tolist(), scores[order].tolist())

    @abstractmethod
    def _build(self, documents: list[list[int]]) -> None:
        """Make the index of documents, one of which holds a term at least."""

    @abstractmethod
    def _scores(self, asked: list[int]) -> Floats:
        """The score of every document for terms that some document holds."""


class Bm25sEngine(Engine):
    """bm25s (Lù, "BM25S: Orders of magnitude faster lexical search via eager sparse scoring", 2024)."""

    module, extra = "bm25s", "bm25s"

    def _build(self, documents: list[list[int]]) -> None:
        vocabulary = {term: place for place, term in enumerate(dict.fromkeys(t for d in documents for t in d))}
        ids = [[vocabulary[term] for term in document] for document in documents]
        self._place = vocabulary
        self._index = self._library.BM25(k1=self._config.k1, b=self._config.b, method="lucene")
        self._index.index((ids, {str(place): place for place in vocabulary.values()}), show_progress=False)

    def _scores(self, asked: list[int]) -> Floats:
        # Its formula leaves the constant factor k1 + 1 out.
        scores = self._index.get_scores([self._place[term] for term in asked])
        return np.asarray(scores * (self._config.k1 + 1), np.float32)


class RankBm25Engine(Engine):
    """rank-bm25: plain Python and numpy, for small folders."""

    module, extra = "rank_bm25", "rank-bm25"

    def _build(self, documents: list[list[int]]) -> None:
        k1 = max(self._config.k1, 1e-12)  # at 0 it divides 0 by 0 where a word is not there
        self._index = self._library.BM25Okapi(documents, k1=k1, b=self._config.b)
        # Its own frequencies are negative for words that most chunks have, and are then replaced by a guess.
        total = len(documents)
        for term in self._index.idf:
            holding = len(self._postings.find(term)[0])
            self._index.idf[term] = math.log1p((total - holding + 0.5) / (holding + 0.5))

    def _scores(self, asked: list[int]) -> Floats:
        with np.errstate(invalid="ignore"):  # an empty chunk at b = 1
            return np.nan_to_num(np.asarray(self._index.get_scores(asked), np.float32))


ENGINES: dict[str, type[Engine]] = {"bm25s": Bm25sEngine, "rank_bm25": RankBm25Engine}


def living_documents(postings: Postings) -> list[list[int]]:
    """The terms of each living row, with repetitions, in the order of their numbers."""
    terms: list[Ints] = [np.zeros(0, np.int32)]
    rows: list[Ints] = [np.zeros(0, np.int32)]
    for segment in postings.segments:
        held, counts = segment.whole()
        living = postings.alive[held]
        terms.append(np.repeat(segment.terms_of(slice(0, len(segment.terms)))[living], counts[living]))
        rows.append(np.repeat(held[living], counts[living]))
    found, row = np.concatenate(terms), np.concatenate(rows)
    order = np.lexsort((found, row))
    sizes = np.bincount(row, minlength=len(postings.ids))[postings.alive]
    return [part.tolist() for part in np.split(found[order], np.cumsum(sizes)[:-1])] if len(sizes) else []
