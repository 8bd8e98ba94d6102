"""What many judgements say together: figures by dimension, weaknesses, keywords and themes of the comments."""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.data.portuguese import STOP_WORDS, stem, word_set, words

from .entry import DIMENSIONS, Entry

t = catalogue(__package__)

MIN_ENTRIES = 50
"""Fewer entries than these are counted, and nothing is concluded from them."""
MIN_RATINGS = 10
"""A dimension with fewer ratings is not called weak, whatever its mean."""
WEAK_BELOW = 3.5
_SHOWN = 12
_MIN_COMMENTS = 2
"""A word or theme of one comment is that person's, not a pattern."""
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0, "s": 7 * 86400.0}
_SPAN = re.compile(r"(\d{1,6})\s*([mhdws])")
_SAYS_NOTHING = word_set("resposta respostas nao sim foi bem bom boa ruim mal acho so")
"""Folded words that comments on answers are full of."""


def since_time(text: str | None, now: float | None = None) -> float:
    """The time from which entries count, seconds since 1970: `7d`, `12h`, `30m`, `2w` ago, or a date `2026-11-01`.

    Raises:
        UsageError: neither a span nor a date.
    """
    from datetime import datetime

    if text is None:
        return 0.0
    match = _SPAN.fullmatch(text.strip().lower())
    if match:
        return (time.time() if now is None else now) - int(match[1]) * _UNITS[match[2]]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(t("since.bad", value=text[:40]), hint=t("since.hint")) from error


def analyse(
    entries: Sequence[Entry], *, min_entries: int = MIN_ENTRIES, threshold: float = WEAK_BELOW
) -> dict[str, Any]:
    """A report that is plain JSON.

    With fewer than `min_entries` entries, `status` is `insufficient_data`, `missing` says how many more it takes, and
    there are counts only. Else `dimensions` has count, mean, median and sample deviation of each, `weaknesses` the
    dimensions whose mean over at least `MIN_RATINGS` ratings is under `threshold`, the weakest first.
    """
    verdicts = Counter(entry.verdict for entry in entries if entry.verdict)
    report: dict[str, Any] = {
        "count": len(entries),
        "good": verdicts["good"],
        "bad": verdicts["bad"],
        "comments": sum(bool(entry.text) for entry in entries),
        "corrections": sum(bool(entry.correction) for entry in entries),
        "ratings": {name: sum(name in entry.ratings for entry in entries) for name in DIMENSIONS},
    }
    if len(entries) < min_entries:
        return {"status": "insufficient_data", "missing": min_entries - len(entries), **report}
    dimensions = {
        name: _figures([entry.ratings[name] for entry in entries if name in entry.ratings]) for name in DIMENSIONS
    }
    weak = [
        name
        for name, found in dimensions.items()
        if found is not None and found["count"] >= MIN_RATINGS and found["mean"] < threshold
    ]
    return {
        "status": "ok",
        **report,
        "dimensions": {name: found for name, found in dimensions.items() if found is not None},
        "threshold": threshold,
        "weaknesses": sorted(weak, key=lambda name: (dimensions[name] or {})["mean"]),
        "keywords": keywords(entries),
        "themes": themes(entries),
    }


def _figures(ratings: Sequence[int]) -> dict[str, float] | None:
    if not ratings:
        return None
    return {
        "count": len(ratings),
        "mean": round(statistics.fmean(ratings), 3),
        "median": statistics.median(ratings),
        "deviation": round(statistics.stdev(ratings), 3) if len(ratings) > 1 else 0.0,
    }


def keywords(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Words of the comments by how many comments have them, forms of one word together, with their judgements."""
    return _ranked((entry, [(stem(word), word) for word in _told(entry.text)]) for entry in entries if entry.text)


def themes(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Pairs of words that stand side by side in several comments (`datas erradas`, `muito longa` without its stop
    word)."""

    def pairs(entry: Entry) -> list[tuple[str, str]]:
        told = _told(entry.text)
        return [(f"{stem(one)} {stem(two)}", f"{one} {two}") for one, two in itertools.pairwise(told)]

    return _ranked((entry, pairs(entry)) for entry in entries if entry.text)


def _told(text: str) -> list[str]:
    return [word for word in words(text) if word not in STOP_WORDS and word not in _SAYS_NOTHING and len(word) > 2]


def _ranked(found: Iterable[tuple[Entry, list[tuple[str, str]]]]) -> list[dict[str, Any]]:
    count: Counter[str] = Counter()
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    liked: dict[str, Counter[bool | None]] = defaultdict(Counter)
    for entry, items in found:
        for key, form in items:
            forms[key][form] += 1
        for key in {key for key, _ in items}:
            count[key] += 1
            liked[key][entry.liked] += 1
    kept = sorted((key for key in count if count[key] >= _MIN_COMMENTS), key=lambda key: (-count[key], key))[:_SHOWN]
    return [
        {
            "text": min(forms[key], key=lambda form: (-forms[key][form], form)),
            "comments": count[key],
            "liked": liked[key][True],
            "disliked": liked[key][False],
        }
        for key in kept
    ]
