"""What a knowledge base holds, in figures: `luna kb stats`."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from .calibration import Calibration
from .indexes import IndexCondition
from .knowledge_base import KnowledgeBase


@dataclass(frozen=True)
class Stats:
    """Figures of a knowledge base; sizes in bytes, lengths of chunks in characters."""

    folder: str
    store: str
    """Where documents and chunks are."""
    created: str
    """ISO 8601 in UTC; empty where it is not known."""
    changed: str
    files: int
    documents: int
    chunks: int
    characters: int
    """Of all documents."""
    words: int
    """Of all chunks."""
    tokens: int | None
    """Of all chunks; None where no tokenizer was given."""
    shortest: int
    median: int
    longest: int
    database_bytes: int
    formats: dict[str, dict[str, int]]
    """By ending of the file: files, documents, chunks."""
    indexes: list[IndexCondition]
    calibration: Calibration | None
    """How sure an answer must be; None where that was not tried."""
    unread: dict[str, list[str]]
    """Files of which nothing or not all could be read, with the reasons."""

    def to_json(self) -> dict[str, Any]:
        """The figures as `--json` prints them."""
        return asdict(self)


def describe(knowledge: KnowledgeBase, count_tokens: Callable[[str], int] | None = None) -> Stats:
    """The figures of an open knowledge base.

    Args:
        knowledge: it.
        count_tokens: tokens of a text, or None.
    """
    store = knowledge.store
    words, tokens, lengths, characters = 0, 0, [], 0
    for document, chunks in store.whole_documents():
        characters += len(document.text)
        for chunk in chunks:
            lengths.append(len(chunk.text))
            words += len(chunk.text.split())
            tokens += count_tokens(chunk.text) if count_tokens else 0
    return Stats(
        folder=str(knowledge.folder),
        store=store.place,
        created=store.meta("created") or "",
        changed=store.meta("changed") or "",
        **store.counts(),
        characters=characters,
        words=words,
        tokens=tokens if count_tokens else None,
        shortest=min(lengths, default=0),
        median=round(statistics.median(lengths)) if lengths else 0,
        longest=max(lengths, default=0),
        database_bytes=store.size(),
        formats=_formats(knowledge),
        indexes=knowledge.conditions(),
        calibration=knowledge.calibration(),
        unread={source: list(state.reasons) for source, state in store.files().items() if state.reasons},
    )


def _formats(knowledge: KnowledgeBase) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for source, documents, chunks in knowledge.store.counts_by_file():
        row = found.setdefault(PurePosixPath(source).suffix.lower() or "-", {"files": 0, "documents": 0, "chunks": 0})
        row["files"] += 1
        row["documents"] += documents
        row["chunks"] += chunks
    return dict(sorted(found.items()))
