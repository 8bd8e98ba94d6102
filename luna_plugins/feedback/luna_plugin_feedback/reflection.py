"""What a model has to say about feedback on its own answers. It is kept apart from what people say, and no training
reads it: a model that learns from its own opinion of itself learns its own mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Generator, Sampling, Text, Turn

from .entry import DIMENSIONS

if TYPE_CHECKING:
    from .entry import Entry

t = catalogue(__package__)

MAX_TOKENS = 200
_PIECE = 1500
"""Characters of an answer or comment that the model is shown."""


def wants_reflection(entry: Entry) -> bool:
    """Whether there is something to reflect on: words, or a judgement that is not good."""
    return bool(entry.text or entry.correction or entry.liked is False)


def request(entry: Entry) -> str:
    """The question that a model is asked about an entry, in the user's language."""
    lines = [t("reflect.question", text=entry.question[:_PIECE]), t("reflect.answer", text=entry.answer[:_PIECE])]
    lines += [f"{t(f'dimension.{name}')}: {entry.ratings[name]}/5" for name in DIMENSIONS if name in entry.ratings]
    if entry.verdict:
        lines.append(t("reflect.verdict", verdict=t(f"verdict.{entry.verdict}")))
    if entry.text:
        lines.append(t("reflect.comment", text=entry.text[:_PIECE]))
    if entry.correction:
        lines.append(t("reflect.correction", text=entry.correction[:_PIECE]))
    return "\n".join([t("reflect.begin"), *lines, t("reflect.end")])


def reflect(generator: Generator, entry: Entry) -> str:
    """What `generator` writes about `entry`; empty if it has nothing to say.

    Raises:
        UsageError: the request is longer than the model reads.
    """
    turn = Turn(query=request(entry), sampling=Sampling(temperature=0.7, max_tokens=MAX_TOKENS, seed=0))
    pieces = [event.text for event in generator.generate(turn, lambda: False) if isinstance(event, Text)]
    return "".join(pieces).strip()
