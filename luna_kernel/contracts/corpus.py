"""Texts on their way into training: what cleans, chooses, multiplies and orders them, and formats of data sets.

Each works on one record at a time, keeps its `place` (`file:line`), and says why it leaves one out: records in are
records out plus records reported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .data import Record


class Normalizer(ABC):
    """Cleans text. Applied twice it does what it does once."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def normalize(self, text: str) -> str:
        """The cleaned text. Newlines are kept; NFC is the one Unicode form that may be applied."""


class Filter(ABC):
    """Leaves records out."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def reason_to_drop(self, record: Record) -> str | None:
        """Why `record` is left out, in one phrase for the report, or None to keep it."""


class Augmenter(ABC):
    """Makes variants. They keep the place of their parent: a data set is split by parents before it is augmented."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def variants(self, record: Record, seed: int) -> Iterator[Record]:
        """Variants of `record`, without `record` itself; the same for the same seed."""


class Curriculum(ABC):
    """Orders a training run in stages."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def difficulty(self, record: Record) -> float:
        """How hard `record` is, 0 to 1."""

    @abstractmethod
    def ceiling(self, progress: float) -> float:
        """The hardest record that may be seen at `progress` (0 to 1) of the run; 1.0 at the end at the latest."""


class DatasetFormat(ABC):
    """A layout of files that a reader by extension cannot tell, such as the folders of a published data set."""

    @classmethod
    @abstractmethod
    def matches(cls, folder: Path) -> bool:
        """Whether `folder` is laid out like this; looks at names only."""

    @abstractmethod
    def records(self, folder: Path) -> Iterable[Record]:
        """Its records, in an order that is always the same."""
