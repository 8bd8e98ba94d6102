"""What somebody states of a matter, and whether two statements can both be true.

Two clauses contradict each other if they are about the same (the content words of one are all in the other, and none
stands before the first that they share: that would be another subject) and either one denies what the other says, or
both count the same thing and the numbers differ. Questions state nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from luna_kernel.data.portuguese import STOP_WORDS, stem, words

from .signals import NEGATIONS, clauses

_NUMBERS = {
    "zero": 0,
    "dois": 2,
    "duas": 2,
    "tres": 3,
    "quatro": 4,
    "cinco": 5,
    "seis": 6,
    "sete": 7,
    "oito": 8,
    "nove": 9,
    "dez": 10,
    "onze": 11,
    "doze": 12,
    "treze": 13,
    "catorze": 14,
    "quatorze": 14,
    "quinze": 15,
}
"""Words for numbers; not `um` and `uma`, which are articles far more often."""
_POLARITY = NEGATIONS | frozenset(["ja", "ainda", "sim"])
_DEGREE = frozenset(["muito", "bastante", "bem", "tambem", "so", "apenas", "sempre", "agora", "hoje", "todo", "toda"])
_LIKING = frozenset(stem(word) for word in ("adoro", "amo", "gosto", "curto"))
_HEDGE = frozenset(["mas", "porem"])


@dataclass(frozen=True)
class Statement:
    """The content of one clause."""

    text: str
    stems: tuple[str, ...]
    """Stems of its content words, in order; numbers are not among them."""
    denied: bool
    counts: dict[str, str]
    """Stem of what is counted -> its number."""


def statements(text: str) -> list[Statement]:
    """The statements in `text`; a comma ends one too."""
    found = []
    for clause in clauses(text):
        if clause.rstrip().endswith("?"):
            continue
        for part in re.split(r",\s+", clause):
            statement = _statement(part)
            if statement.stems:
                found.append(statement)
    return found


def _statement(text: str) -> Statement:
    stems: list[str] = []
    counts: dict[str, str] = {}
    number = ""
    tokens = words(text)
    for word in tokens:
        value = word if word.isdigit() else str(_NUMBERS[word]) if word in _NUMBERS else ""
        if value:
            number = value
        elif word not in STOP_WORDS and word not in _POLARITY and word not in _DEGREE and word not in _HEDGE:
            root = "gost" if stem(word) in _LIKING else stem(word)
            stems.append(root)
            if number:
                counts[root], number = number, ""
    return Statement(text, tuple(stems), not NEGATIONS.isdisjoint(tokens), counts)


def contradict(earlier: Statement, later: Statement) -> bool:
    """Whether both cannot be true; see the head of this file."""
    one, two = set(earlier.stems), set(later.stems)
    if not (one <= two or two <= one) or _other_subject(earlier, later) or _other_subject(later, earlier):
        return False
    if any(earlier.counts[thing] != later.counts[thing] for thing in earlier.counts.keys() & later.counts.keys()):
        return earlier.denied == later.denied
    return earlier.denied != later.denied


def _other_subject(statement: Statement, other: Statement) -> bool:
    """Whether a content word that `other` lacks stands before all that they share."""
    return statement.stems[0] not in other.stems


def find_contradiction(text: str, before: list[str]) -> tuple[Statement, Statement] | None:
    """The newest earlier statement that `text` contradicts, and the one that does, or None."""
    for message in reversed(before):
        for earlier in statements(message):
            for later in statements(text):
                if contradict(earlier, later):
                    return earlier, later
    return None
