"""Search: what a retriever, an encoder, a reranker and a chunker implement.

The truth about documents and chunks is the knowledge store (SQLite). A retriever is an index derived from it: it can be
rebuilt at any time, is saved beside the store, and is thrown away when its hash disagrees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .data import Chunk, Document


@dataclass(frozen=True)
class Hit:
    """A chunk that was found."""

    chunk_id: int
    score: float
    """The retriever's own score; larger is better. Scores of different retrievers do not compare."""


class Retriever(ABC):
    """An index over chunks. The constructor gets its validated config (or None)."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def add(self, chunk_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Add chunks. Ids are non-negative and new."""

    @abstractmethod
    def remove(self, chunk_ids: Sequence[int]) -> None:
        """Remove chunks; unknown ids are ignored."""

    @abstractmethod
    def search(self, query: str, k: int) -> list[Hit]:
        """The best `k` or fewer chunks, best first, none with a score that means nothing (no common term, padding).
        An empty index or query gives an empty list."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the index into an existing empty folder, through `luna_kernel.base.durable`."""

    @classmethod
    @abstractmethod
    def load(cls, config: Any, folder: Path) -> Retriever:
        """Open what `save` wrote; the files' hashes have been checked before."""

    @abstractmethod
    def __len__(self) -> int:
        """How many chunks it holds."""


class Encoder(ABC):
    """Turns texts into vectors."""

    dimension: int = 0

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Any:
        """float32 array (N, dimension), rows of length 1 (or 0 for a text without content)."""


class Chunker(ABC):
    """Cuts a document into chunks whose offsets are exact."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order of their start; `document.text[c.start:c.end] == c.text` for each."""


class Reranker(ABC):
    """Orders the candidates of retrievers anew."""

    @abstractmethod
    def score(self, query: str, texts: Sequence[str]) -> list[float]:
        """One score per text; larger is better."""
