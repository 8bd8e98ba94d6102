"""The dimensions of an emotion, and how people write one. Free of torch.

Eight are Plutchik's basic emotions (1980); three are those that Luna's README names: empathy, curiosity, formality.
Their order is that of the vector, and never changes.
"""

from __future__ import annotations

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
