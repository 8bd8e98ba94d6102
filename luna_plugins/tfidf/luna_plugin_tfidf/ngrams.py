"""Character n-grams that do not cross the bounds of words."""

from __future__ import annotations

from collections import Counter

import numpy as np

from luna_kernel.data.portuguese import STOP_WORDS, words
from luna_kernel.data.postings import Vocabulary
from luna_kernel.data.top_rows import Ints

from .config import TfidfConfig


def ngrams(word: str, min_n: int, max_n: int) -> list[str]:
    """The n-grams of a word with a blank at either end, `_ca as_ …` for `casa`; a shorter word is one n-gram."""
    bounded = f" {word} "
    longest = min(max_n, len(bounded))
    if longest < min_n:
        return [bounded]
    return [bounded[i : i + n] for n in range(min_n, longest + 1) for i in range(len(bounded) - n + 1)]


class Gramifier:
    """Turns texts into numbers of n-grams; words seen before are looked up, for most words of a text were."""

    def __init__(self, config: TfidfConfig, vocabulary: Vocabulary) -> None:
        self._config = config
        self._vocabulary = vocabulary
        self._known: dict[str, Ints] = {}

    def _words(self, text: str) -> list[str]:
        found = words(text)
        if not self._config.stop_words:
            return found
        return [word for word in found if word not in STOP_WORDS] or found

    def learn(self, text: str) -> Ints:
        """int32: the numbers of the text's n-grams, with repetitions; new n-grams get new numbers."""
        parts = []
        for word in self._words(text):
            part = self._known.get(word)
            if part is None:
                number = self._vocabulary.add
                grams = [number(gram) for gram in ngrams(word, self._config.min_n, self._config.max_n)]
                part = self._known[word] = np.asarray(grams, np.int32)
            parts.append(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def count(self, text: str) -> Counter[str]:
        """The text's n-grams and how often each occurs; nothing is learned."""
        low, high = self._config.min_n, self._config.max_n
        return Counter(gram for word in self._words(text) for gram in ngrams(word, low, high))
