"""Measuring a model: metrics of texts, evaluators of models, judges of answers.

A figure comes with what it was measured on and with its spread. Whoever judges is measured too: a judge reports its
agreement with reference labels and sees each pair in both orders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from .chat import Generator


@dataclass(frozen=True)
class Score:
    """One figure."""

    name: str
    value: float
    count: int
    """How many items it is a mean over."""
    standard_error: float | None = None
    higher_is_better: bool = True
    details: dict[str, Any] = field(default_factory=dict)
    """JSON-able."""


class Metric(ABC):
    """Compares texts with reference texts."""

    @abstractmethod
    def score(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
        """One figure over all pairs. `references[i]` are the right answers to item i; an empty list is an error."""


class Evaluator(ABC):
    """Puts a generator through a task."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def evaluate(self, generator: Generator, data: Path, *, seed: int = 0) -> list[Score]:
        """The task's figures; the same for the same generator, data and seed."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of a pair."""

    preferred: int | None
    """0 or 1, or None: it does not care, or its two readings contradicted each other."""
    reason: str = ""


class Judge(ABC):
    """Says which of two answers is better."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def read(self, query: str, first: str, second: str) -> Verdict:
        """One reading, in this order."""

    def compare(self, query: str, first: str, second: str) -> Verdict:
        """Both orders; a preference counts only if it survives the swap."""
        forward, backward = self.read(query, first, second), self.read(query, second, first)
        if forward.preferred is None or backward.preferred is None or forward.preferred == backward.preferred:
            return Verdict(None, forward.reason)
        return forward
