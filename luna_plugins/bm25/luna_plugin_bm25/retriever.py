"""The BM25 retriever.

Score of a chunk c for a query q (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond",
2009, eq. 3.15), with the inverse document frequency of Lucene, which is never negative and never divides by zero:

    sum over terms t of q:  idf(t) · f(t, c) · (k1 + 1) / (f(t, c) + k1 · (1 - b + b · |c| / mean |c|))
    idf(t) = ln(1 + (N - n(t) + 0.5) / (n(t) + 0.5))

N, n(t) and the mean length are those of the living chunks at the time of the search, so it does not matter in which
order chunks came and went.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luna_kernel.contracts.retrievers import Hit, Hits, Retriever
from luna_kernel.data.portuguese import words
from luna_kernel.data.postings import Postings, Vocabulary
from luna_kernel.data.postings_file import load_postings, save_postings
from luna_kernel.data.top_rows import Floats, Ints
from luna_kernel.data.weighted_search import WeightedSearch

from .analysis import Analyzer
from .config import BM25Config

_MOST_SEEN = 100_000

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

    from .engines import Engine


class BM25Retriever(Retriever):
    """Words that question and chunk share, weighed by their rarity."""

    config: BM25Config
    takes_batches = True

    def __init__(self, config: BM25Config | None = None, registry: Registry | None = None) -> None:
        super().__init__(config or BM25Config(), registry)
        self._analyzer = Analyzer(self.config)
        self._vocabulary = Vocabulary()
        self._postings = Postings()
        self._search = WeightedSearch(self._postings, self._saturated, self._idf)
        self._engine: Engine | None = None
        self._norms: Floats = np.zeros(0, np.float32)
        self._norms_version = -1
        self._seen: dict[str, int] = {}
        """See `_look_up`."""

    def add(self, chunk_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Add chunks; see `Retriever.add`."""
        number = self._vocabulary.add
        items = [np.asarray([number(term) for term in self._analyzer.terms(text)], np.int32) for text in texts]
        self._postings.add(chunk_ids, items)

    def remove(self, chunk_ids: Sequence[int]) -> None:
        """Remove chunks; unknown ids are ignored."""
        self._postings.remove(chunk_ids)

    def search(self, query: str, k: int) -> list[Hit]:
        """The best chunks that share a term with the query."""
        return list(self.search_each([query], k)[0])

    def search_each(self, queries: Sequence[str], k: int) -> list[Hits]:
        """See `Retriever.search_each`."""
        engine = self._other_engine()
        if engine is not None:
            known, terms = self._vocabulary.numbers, self._analyzer.terms
            return [engine.best([known[term] for term in terms(query) if term in known], k) for query in queries]
        return self._search.best_of_each([self._asked(query) for query in queries], k)

    def _asked(self, query: str) -> dict[int, float]:
        """What each term of the question counts, by its number; terms that were never seen are left out."""
        known, most = self._vocabulary.numbers, self.config.k1 + 1
        if self.config.expansion:
            terms = self._analyzer.weighted(query).items()
            return {number: weight * most for term, weight in terms if (number := known.get(term)) is not None}
        asked: dict[int, float] = {}
        seen = self._seen
        for word in words(query):
            number = seen.get(word)
            if number is None:
                number = self._look_up(word)
            if number >= 0:
                asked[number] = asked.get(number, 0.0) + most
        if asked:
            return asked
        # Nothing but stop words, which then count.
        return {
            known[term]: times * most for term, times in Counter(self._analyzer.terms(query)).items() if term in known
        }

    def _look_up(self, word: str) -> int:
        """The number of a word's term; -1 for a stop word, and for one that was never seen, which may come yet."""
        term = self._analyzer.term(word)
        number = -1 if term is None else self._vocabulary.numbers.get(term, -1)
        if number >= 0 or term is None:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen[word] = number
        return number

    def _other_engine(self) -> Engine | None:
        """The library that searches instead of Luna, made when it is first asked for."""
        if self._engine is None and self.config.engine != "luna":
            from .engines import ENGINES

            self._engine = ENGINES[self.config.engine](self.config, self._postings)
        return self._engine

    def _saturated(self, rows: Ints, counts: Ints, _: Ints) -> Floats:
        """float32 (P,): f / (f + k1 · (1 - b + b · length / mean length)) of postings."""
        frequency = counts.astype(np.float32)
        return frequency / (frequency + self._length_norms()[rows])

    def _length_norms(self) -> Floats:
        """float32 (rows,): k1 · (1 - b + b · length / mean length)."""
        postings, config = self._postings, self.config
        if self._norms_version != postings.version:
            living = postings.lengths[postings.alive]
            mean = max(float(living.mean(dtype=np.float64)) if len(living) else 0.0, 1e-9)
            relative = postings.lengths.astype(np.float32) / np.float32(mean)
            self._norms = (config.k1 * (1 - config.b + config.b * relative)).astype(np.float32)
            self._norms_version = postings.version
        return self._norms

    def _idf(self, frequency: int) -> float:
        return math.log1p((len(self._postings) - frequency + 0.5) / (frequency + 0.5))

    def term_weights(self, query: str) -> dict[str, float]:
        """IDF of the query's terms; one that no chunk has gets the highest."""
        weights = {}
        for term in self._analyzer.terms(query):
            number = self._vocabulary.numbers.get(term)
            weights[term] = self._idf(0 if number is None else len(self._postings.find(number)[0]))
        return weights

    def frequencies(self, terms: Sequence[str]) -> list[int]:
        """In how many chunks each term is; empty where terms are not stems (`stemming` is off)."""
        if not self.config.stemming:
            return []
        numbers = [self._vocabulary.numbers.get(term) for term in terms]
        return [0 if number is None else len(self._postings.find(number)[0]) for number in numbers]

    def save(self, folder: Path) -> None:
        """Write the index into `folder`."""
        save_postings(folder, self._postings, self._vocabulary)

    @classmethod
    def load(cls, config: BM25Config | None, folder: Path, registry: Registry | None = None) -> BM25Retriever:
        """Open what `save` wrote."""
        retriever = cls(config, registry)
        retriever._postings, retriever._vocabulary = load_postings(folder)
        retriever._search = WeightedSearch(retriever._postings, retriever._saturated, retriever._idf)
        return retriever

    def ids(self) -> set[int]:
        """Ids of the chunks that it holds."""
        return self._postings.live_ids()

    def __len__(self) -> int:
        return len(self._postings)
