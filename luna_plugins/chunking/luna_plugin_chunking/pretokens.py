"""Tokens of a text from those of its words: each distinct word is tokenised once.

A byte-level BPE first splits a text by a regular expression, and no token crosses a cut. Two such expressions are
known here, GPT-2's and Llama 3's; both are written once more for Python's engine, exact for Latin letters, common
punctuation and symbols (`PLAIN`). Other texts are for the tokenizer itself.

The count of a text is the sum over its words, and a language has few words that are many: looking them up is several
times faster than tokenising.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from luna_kernel.data.tokenizer import SPLIT_PATTERN

WHITE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
"""White space as the tokenizers' engine has it: Python's `\\s` holds four control characters more."""
LETTERS = "A-Za-z\\xaa\\xb5\\xba\\xc0-\\xd6\\xd8-\\xf6\\xf8-\\u017e\\u0180-\\u024f"
NUMBERS = "0-9\\xb2\\xb3\\xb9\\xbc-\\xbe"
PLAIN = (
    # Without the long s (U+017F), which is an s where case does not count.
    "\\x00-\\u017e\\u0180-\\u024f\\u0300-\\u036f\\u2000-\\u206f\\u20a0-\\u20bf\\u2190-\\u22ff\\u2500-\\u26ff"
    "\\U0001f300-\\U0001f64f"
)
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2 = re.compile(
    rf"{_CONTRACTIONS}| ?[{LETTERS}]+| ?[{NUMBERS}]+| ?[^{WHITE}{LETTERS}{NUMBERS}]+"
    rf"|[{WHITE}]+(?![^{WHITE}])|[{WHITE}]+"
)
LLAMA3 = re.compile(
    rf"(?i:{_CONTRACTIONS})|[^\r\n{LETTERS}{NUMBERS}]?[{LETTERS}]+|[{NUMBERS}]{{1,3}}"
    rf"| ?[^{WHITE}{LETTERS}{NUMBERS}]+[\r\n]*|[{WHITE}]*[\r\n]+|[{WHITE}]+(?![^{WHITE}])|[{WHITE}]+"
)
PATTERNS = {None: GPT2, SPLIT_PATTERN: LLAMA3}
"""By the expression that a `tokenizer.json` names; None: the one built into its byte level."""

_STRANGE = re.compile(f"[^{PLAIN}]")
_TEXTS_AT_ONCE = 2048
_ROOM = 8_000_000
"""Characters of the words that are remembered; when they are more, all are forgotten."""

Count = Callable[[Sequence[str]], list[int]]


class WordCounts:
    """Token counts by word.

    Args:
        pattern: one of `PATTERNS`.
        count: the tokenizer: how many tokens each text has.
    """

    def __init__(self, pattern: re.Pattern[str], count: Count) -> None:
        self._words = pattern.findall
        self._count = count
        self._known: dict[str, int] = {}
        self._held = 0

    def sizes(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""
        found: list[int] = []
        for begin in range(0, len(texts), _TEXTS_AT_ONCE):
            found += self._some(texts[begin : begin + _TEXTS_AT_ONCE])
        return found

    def _some(self, texts: Sequence[str]) -> list[int]:
        if _STRANGE.search("".join(texts)) is None:
            return self._plain(texts)
        strange = [_STRANGE.search(text) is not None for text in texts]
        plain = iter(self._plain([text for text, other in zip(texts, strange, strict=True) if not other]))
        others = iter(self._count([text for text, other in zip(texts, strange, strict=True) if other]))
        return [next(others if other else plain) for other in strange]

    def _plain(self, texts: Sequence[str]) -> list[int]:
        words = list(map(self._words, texts))
        self._learn(words)
        known = self._known.__getitem__
        return [sum(map(known, part)) for part in words]

    def _learn(self, words: Sequence[Sequence[str]]) -> None:
        """Have the count of every word."""
        if self._held > _ROOM:
            self._known.clear()
            self._held = 0
        new = list(set().union(*words).difference(self._known))
        self._known.update(zip(new, self._count(new), strict=True))
        self._held += sum(map(len, new))

    def reach(self, text: str, limit: int) -> int | None:
        """Characters of the longest run of whole words at the beginning of `text` that has at most `limit` tokens.

        None where `text` is not plain, or not even its first word fits.
        """
        if _STRANGE.search(text) is not None:
            return None
        words = self._words(text)
        self._learn([words])
        fit = bisect_right(list(accumulate(map(self._known.__getitem__, words))), limit)
        return sum(map(len, words[:fit])) or None
