"""Which persona suits a message: by its words, its length, and who spoke before. `/persona auto` uses it.

Each persona that comes along has clues with weights, in `clues.json`: words (by their stem, where that is long enough
to tell) and patterns. Their sums are compared; `balanced` stands for no clear sign. What was chosen before gets a
little more, so that the voice does not change at every message.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from importlib import resources

from luna_kernel.base.messages import catalogue
from luna_kernel.data.portuguese import fold, stem

t = catalogue(__package__)

NO_SIGN = "balanced"
LEAST = 1.0
"""A smaller sum is no sign."""
STAYS = 0.5
"""What the persona of the turn before gets."""
LONG = 60
"""Words from which a message is long, a small sign of an academic or formal matter."""

_SHORTEST_STEM = 4

_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Choice:
    """A persona, and why."""

    persona: str
    reason: str
    """For people, in their language."""
    scores: dict[str, float]


@dataclass(frozen=True)
class _Clues:
    stems: dict[str, float]
    phrases: dict[str, float]
    patterns: tuple[tuple[re.Pattern[str], float], ...]


@functools.cache
def _clues() -> dict[str, _Clues]:
    text = (resources.files(__package__) / "clues.json").read_text(encoding="utf-8")
    found = {}
    for persona, groups in json.loads(text).items():
        stems: dict[str, float] = {}
        phrases: dict[str, float] = {}
        for weight, words in groups.get("words", {}).items():
            for word in words:
                if " " in word:
                    phrases[fold(word)] = float(weight)
                else:
                    stems[_key(word)] = float(weight)
        patterns = tuple((re.compile(text), float(weight)) for text, weight in groups.get("patterns", {}).items())
        found[persona] = _Clues(stems, phrases, patterns)
    return found


def _key(word: str) -> str:
    """What a word is compared by: its stem, or itself where the stem is short (`medo` and `medir` are both `med`)."""
    root = stem(word.lower())
    return root if len(root) >= _SHORTEST_STEM else fold(word)


def choose(message: str, former: str | None = None) -> Choice:
    """The persona for a message.

    Args:
        message: what the person wrote.
        former: the persona of the turn before, if there was one.
    """
    folded = " " + " ".join(fold(message).split()) + " "
    words = _WORD.findall(message)
    by_key = {key: word for word in words for key in (_key(word), fold(word))}
    scores: dict[str, float] = {}
    signs: dict[str, list[str]] = {}
    for persona, clues in _clues().items():
        hits = [(by_key[key], weight) for key, weight in clues.stems.items() if key in by_key]
        hits += [(phrase, weight) for phrase, weight in clues.phrases.items() if f" {phrase} " in folded]
        hits += [(match.group().strip(), weight) for p, weight in clues.patterns if (match := p.search(message))]
        scores[persona] = sum(weight for _, weight in hits)
        signs[persona] = [sign for sign, _ in sorted(hits, key=lambda hit: -hit[1])]
    if len(words) >= LONG:
        scores["formal"] = scores.get("formal", 0.0) + 0.5
    if former in scores:
        scores[former] += STAYS
    best = max(scores, key=lambda name: scores[name])
    if scores[best] < LEAST:
        return Choice(NO_SIGN, t("auto.no_sign", name=NO_SIGN), scores)
    shown = ", ".join(f"“{sign}”" for sign in signs[best][:3])
    return Choice(best, t("auto.because", name=best, signs=shown) if shown else t("auto.stays", name=best), scores)
