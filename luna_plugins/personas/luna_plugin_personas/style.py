"""Style sliders: four numbers from 0 to 1 that become words of the prompt and changes of the sampling.

0.5 asks for nothing. What is asked for grows with the distance from it: the words come below 0.35 and above 0.65,
creativity moves the temperature and verbosity the length of an answer all the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEUTRAL = 0.5
LOW, HIGH = 0.35, 0.65

WORDS = {
    "formality": ("Use linguagem informal.", "Use linguagem formal."),
    "complexity": ("Explique com palavras simples.", "Use termos precisos e técnicos."),
    "verbosity": ("Seja breve.", "Responda em detalhe."),
    "creativity": ("Atenha-se aos fatos.", "Seja criativo."),
}
"""What the model is told of each, for little and for much. Portuguese, as all that the model reads."""

DIMENSIONS = tuple(WORDS)

_TEMPERATURE = (0.1, 1.1)
_TOKENS = (64, 1024)


def instruction(style: Mapping[str, float]) -> str:
    """The sentences for the system message; empty where nothing is asked for."""
    said = []
    for name, (little, much) in WORDS.items():
        value = style.get(name, NEUTRAL)
        if value < LOW:
            said.append(little)
        elif value > HIGH:
            said.append(much)
    return " ".join(said)


def sampling(style: Mapping[str, float]) -> dict[str, Any]:
    """Fields of `Sampling`: creativity sets the temperature on a line, verbosity the longest answer in proportions."""
    changes: dict[str, Any] = {}
    if style.get("creativity", NEUTRAL) != NEUTRAL:
        low, high = _TEMPERATURE
        changes["temperature"] = round(low + (high - low) * style["creativity"], 3)
    if style.get("verbosity", NEUTRAL) != NEUTRAL:
        least, most = _TOKENS
        changes["max_tokens"] = round(least * (most / least) ** style["verbosity"])
    return changes
