"""Other ways of typing the same question, so that the demo model learns what is asked and not how it was typed.

People write without accents, capitals and marks, say "vc" for "você", greet before they ask and call Luna by her name.
Each variant is a function of its seed; the answer stays as it is.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

from luna_kernel.data.portuguese import STOP_WORDS

_SHORT = {"você": "vc", "está": "tá", "estou": "tô", "para": "pra", "também": "tb", "porque": "pq", "que": "q"}
_GENDER = {
    "obrigado": "obrigada", "cansado": "cansada", "sozinho": "sozinha", "ansioso": "ansiosa", "animado": "animada",
    "preocupado": "preocupada", "nervoso": "nervosa", "chateado": "chateada", "desanimado": "desanimada",
}  # fmt: skip
_GENDER |= {feminine: masculine for masculine, feminine in _GENDER.items()}
_BEFORE = ("oi, ", "luna, ", "por favor, ", "me diga, ", "ei luna, ", "então, ", "e ")
_AFTER = (" luna", ", luna", " por favor", " aí", " mesmo")
_WORD = re.compile(r"\w+")


def variant(text: str, rng: random.Random) -> str:
    """One other way of typing `text`."""
    text = _WORD.sub(lambda match: _word(match.group(), rng), text)
    if len(text.split()) >= 4:
        kept = [word for word in text.split(" ") if word.lower() not in STOP_WORDS or rng.random() > 0.12]
        text = " ".join(kept)
    if rng.random() < 0.6:
        text = text.rstrip(" .?!") or text
    if rng.random() < 0.25:
        before = rng.choice(_BEFORE)
        text = before + text[:1].lower() + text[1:]
    elif rng.random() < 0.25:
        end = re.search(r"[ .?!]*$", text)
        assert end is not None
        text = text[: end.start()] + rng.choice(_AFTER) + end.group()
    if rng.random() < 0.55:
        text = text.lower()
    if rng.random() < 0.35:
        text = "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))
    if rng.random() < 0.1:
        text += rng.choice(("!", "!!", "?", "??", "..."))
    return text


def _word(word: str, rng: random.Random) -> str:
    lower = word.lower()
    if lower in _SHORT and rng.random() < 0.2:
        return _SHORT[lower]
    if lower in _GENDER and rng.random() < 0.4:
        return _GENDER[lower]
    return word


def with_variants(dialogues: Iterable[dict[str, Any]], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Each dialogue as it is, then `count` times with every one-line question typed in another way.

    Args:
        dialogues: `{"messages": [{"role", "content", …}]}`.
        count: variants of each.
        seed: same seed, same variants.
    """
    rng = random.Random(seed)  # noqa: S311  no secret
    for dialogue in dialogues:
        yield dialogue
        for _ in range(count):
            yield {**dialogue, "messages": [_message(message, rng) for message in dialogue["messages"]]}


def _message(message: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    if message["role"] != "user" or "\n" in message["content"]:
        return message
    return {**message, "content": variant(message["content"], rng)}
