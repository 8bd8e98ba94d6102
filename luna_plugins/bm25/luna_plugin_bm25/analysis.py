"""From Portuguese text to the terms of the index."""

from __future__ import annotations

from luna_kernel.data.portuguese import STOP_WORDS, fold, stem, words

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

    def terms(self, text: str) -> list[str]:
        """The terms of `text`, in order, with repetitions."""
        found = words(text)
        kept = [word for word in found if word not in self._stops] or found
        return [stem(word) for word in kept] if self._stem else kept
