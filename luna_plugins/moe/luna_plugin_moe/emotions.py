"""The dimensions of an emotion, and how people write one. Free of torch.

Eight are Plutchik's basic emotions (1980); three are those that Luna's README names: empathy, curiosity, formality.
Their order is that of the vector, and never changes.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping

from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

EMOTIONS = (
    "alegria",
    "confiança",
    "medo",
    "surpresa",
    "tristeza",
    "nojo",
    "raiva",
    "expectativa",
    "empatia",
    "curiosidade",
    "formalidade",
)
"""Names in data, in `luna.json` and in the chat."""

ENGLISH = (
    "joy",
    "trust",
    "fear",
    "surprise",
    "sadness",
    "disgust",
    "anger",
    "anticipation",
    "empathy",
    "curiosity",
    "formality",
)
"""The same in English; the chat takes both."""

KNOWN = {**dict(zip(EMOTIONS, EMOTIONS, strict=True)), **dict(zip(ENGLISH, EMOTIONS, strict=True))}
"""Every name that people may write, to the one in `EMOTIONS`."""


def parse_emotion(text: str) -> dict[str, float]:
    """`alegria=0.8 curiosity=0,5`, or `joy` alone for 1, as {name: strength}, names in Portuguese.

    Raises:
        UsageError: an unknown name, with the nearest; or a strength that is no number from 0 to 1.
    """
    weights: dict[str, float] = {}
    for item in text.split():
        name, equals, number = item.partition("=")
        name = unicodedata.normalize("NFC", name).lower()
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5)
            said = t("emotion.unknown", name=item[:100]) + (" " + t("emotion.nearest", name=near[0]) if near else "")
            raise UsageError(said, hint=t("emotion.names", names=", ".join(EMOTIONS)))
        try:
            strength = float(number.replace(",", ".")) if equals else 1.0
        except ValueError:
            strength = -1.0
        if not 0 <= strength <= 1:
            raise UsageError(t("emotion.bad", item=item[:100]), hint=t("emotion.usage"))
        weights[KNOWN[name]] = strength
    return weights


def show_emotion(weights: Mapping[str, float]) -> str:
    """The same written out, in the order of the dimensions."""
    return " ".join(f"{name}={weights[name]:g}" for name in EMOTIONS if name in weights)
