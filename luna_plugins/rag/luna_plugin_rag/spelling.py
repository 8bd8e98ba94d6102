"""Words of a question that no passage holds, replaced by words that some passage holds and that are one slip away.

A slip is a letter too few, too many, wrong, or swapped with the next (Damerau, "A technique for computer detection and
correction of spelling errors", 1964: four in five errors are one of these). Whether a word is known is asked of its
stem, so a form that no passage has is right as long as another form of the word is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from luna_kernel.data.portuguese import STOP_WORDS, fold, stem

LEAST = 5
"""Shorter words are left alone: too many others are one slip away."""
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD = re.compile(r"[^\W\d_]+")

Frequencies = Callable[[Sequence[str]], Sequence[int]]
"""In how many chunks each of some terms is; empty if that is not known."""


def slips(word: str) -> Iterator[str]:
    """The words that are one slip away from `word` and begin with the same letter."""
    for place in range(1, len(word) + 1):
        head, tail = word[:place], word[place:]
        if tail:
            yield head + tail[1:]
        if len(tail) > 1:
            yield head + tail[1] + tail[0] + tail[2:]
        for letter in _LETTERS:
            yield head + letter + tail
            if tail:
                yield head + letter + tail[1:]


def corrected(query: str, frequencies: Frequencies) -> str:
    """`query` with each unknown word replaced by the most frequent known one that is one slip away, if there is one.

    Words of fewer than five letters, stop words, and words within hyphens or with digits are left as they are.

    Args:
        query: the question.
        frequencies: see `Frequencies`.
    """

    def mend(match: re.Match[str]) -> str:
        word = fold(match.group())
        around = query[max(0, match.start() - 1) : match.start()] + query[match.end() : match.end() + 1]
        if len(word) < LEAST or not word.isascii() or word in STOP_WORDS or re.search(r"[\d_'’‐‑-]", around):
            return match.group()
        known = frequencies([stem(word)])
        if not known or known[0]:
            return match.group()
        # Not cached by `stem`: hundreds of words that nobody wrote would push out those that are in use.
        others = {other: stem.__wrapped__(other) for other in slips(word) if other not in STOP_WORDS}
        counts = dict(zip(others, frequencies(list(others.values())), strict=True))
        best = max(counts, key=lambda other: (counts[other], other))
        return best if counts[best] else match.group()

    return _WORD.sub(mend, query)
