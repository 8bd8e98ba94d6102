"""From Portuguese text to the terms of the index."""

from __future__ import annotations

from luna_kernel.data.portuguese import STOP_WORDS, fold, stem, words
from luna_kernel.data.word_families import related

from .config import BM25Config


class Analyzer:
    """Folds accents, splits words at hyphens and clitics, leaves stop words out, stems.

    A text that holds nothing but stop words keeps them, so that it can be found.
    """

    def __init__(self, config: BM25Config) -> None:
        stops = set(STOP_WORDS) if config.stop_words else set()
        stops |= {fold(word) for word in config.extra_stop_words}
        self._stops = frozenset(stops)
        self._stem = config.stemming
        self._expansion = config.expansion

    def terms(self, text: str) -> list[str]:
        """The terms of `text`, in order, with repetitions."""
        found = words(text)
        kept = [word for word in found if word not in self._stops] or found
        return [stem(word) for word in kept] if self._stem else kept

    def term(self, word: str) -> str | None:
        """The term of one of the words that `words` gives; None for a stop word."""
        return None if word in self._stops else stem(word) if self._stem else word

    def weighted(self, query: str) -> dict[str, float]:
        """The terms of a question with their weights: how often each is there, and less for words of their families.

        Source: Xu and Croft 1996, "Query expansion using local and global document analysis", on why added terms weigh
        less than the question's own.
        """
        found: dict[str, float] = {}
        for term in self.terms(query):
            found[term] = found.get(term, 0.0) + 1.0
        if self._expansion:
            for word in words(query):
                own = stem(word)
                for other in related(word) if own in found else ():
                    if other not in found or found[other] < self._expansion:
                        found[other] = self._expansion
        return found
