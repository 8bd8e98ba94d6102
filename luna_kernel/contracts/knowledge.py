"""The store of a knowledge base: files, documents, chunks and state, the truth that indexes are made from.

Ids of chunks are never used twice and a chunk never changes under its id, so an index knows from the ids alone what it
lacks and what it has too much. Every change of the chunks raises the `generation` in the same transaction. A method
that changes something does all of it or nothing, and what it did is durable when it returns.

Any number of stores may have one knowledge base open, in any number of processes. Whoever changes documents holds
`lock` meanwhile; whoever reads needs none, and finds chunks gone that it has just been told of.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna_kernel.base.errors import UsageError

from .data import Chunk, Document


class BaseGoneError(UsageError):
    """The store answers, and has no knowledge base of this id."""


@dataclass(frozen=True)
class FileState:
    """What tells a file's content: its hash, and the stamps that let it be skipped unread."""

    source: str
    path: str
    sha256: str
    size: int
    mtime_ns: int
    ctime_ns: int
    seen_ns: int
    """When it was looked at; a file that changed at that very time may change again under the same stamps."""
    reasons: tuple[str, ...] = ()
    """Why nothing, or not all of it, could be read."""


@dataclass(frozen=True)
class StoredChunk:
    """A chunk with what a citation of it needs."""

    id: int
    document_id: int
    source: str
    title: str
    heading: str
    text: str
    start: int
    end: int
    line: int
    metadata: dict[str, Any]
    """Of the document and of the chunk; the chunk's hold where both have a name."""


@dataclass(frozen=True)
class StoredDocument:
    """A document with its chunks in the order of their start."""

    document: Document
    chunks: list[Chunk]
    sha256: str
    """`text_hash` of its text when it was put; empty where an older Luna put it."""


@dataclass(frozen=True)
class Flaw:
    """Something wrong in the store itself."""

    kind: str
    """`database`: what holds the rows is damaged; `orphan`: a row belongs to none."""
    place: str
    text: str


CutFile = tuple[FileState, Sequence[tuple[Document, Sequence[Chunk]]]]
"""A file with its documents, each with its chunks."""


class KnowledgeStore(ABC):
    """One open knowledge base.

    Args:
        config: the component's validated config, or None. It is saved in the folder: it holds no secret.
        folder: of the knowledge base, where its indexes lie; a store elsewhere keeps nothing else there.
        base: the id of the knowledge base to open; None: the one that lies in the folder, else a new one.

    Raises:
        BaseGoneError: there is none of this id.
        UsageError: it is of a newer format, or no knowledge base; it cannot be reached.
        IntegrityError: it is damaged.
    """

    place: str
    """Where it is, for people: a file's name, a server and its database."""

    @abstractmethod
    def __init__(self, config: Any, folder: Path, base: str | None = None) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of what it holds; twice is once."""

    @abstractmethod
    def discard(self) -> None:
        """Remove the knowledge base from where it is, as far as it lies outside of the folder; it is closed then."""

    @abstractmethod
    def lock(self, *, wait: float = 0.0) -> AbstractContextManager[None]:
        """Be the only one that writes, among all that hold this lock, until the block ends or the process dies.

        Args:
            wait: seconds to wait for another holder.

        Raises:
            UsageError: another holds it.
        """

    # --- state ---

    @property
    @abstractmethod
    def id(self) -> str:
        """What tells this knowledge base from all others."""

    @property
    @abstractmethod
    def generation(self) -> int:
        """Grows with every change of the chunks."""

    @abstractmethod
    def meta(self, key: str) -> str | None:
        """A value of the state, or None. `created` and `changed` are the store's (ISO 8601 in UTC)."""

    @abstractmethod
    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the state."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """How many `files` (with documents), `documents` and `chunks` there are."""

    @abstractmethod
    def counts_by_file(self) -> Iterator[tuple[str, int, int]]:
        """(source, documents, chunks) of the files with documents."""

    @abstractmethod
    def size(self) -> int:
        """Bytes that it takes, without indexes."""

    @abstractmethod
    def flaws(self) -> Iterator[Flaw]:
        """What is wrong in the store itself; the texts are compared by whoever asks `documents`."""

    # --- files ---

    @abstractmethod
    def files(self) -> dict[str, FileState]:
        """All files by source."""

    @abstractmethod
    def files_without_documents(self) -> set[str]:
        """Sources of the files of which nothing could be read."""

    @abstractmethod
    def restamp(self, states: Iterable[FileState]) -> None:
        """New paths and stamps of files whose content is the same."""

    @abstractmethod
    def put(self, files: Sequence[CutFile]) -> None:
        """Add or replace files with their documents and chunks: all of them or none."""

    @abstractmethod
    def remove(self, sources: Sequence[str], *, erase: bool = False) -> None:
        """Remove files with their documents and chunks: all of them or none.

        Args:
            sources: of the files; unknown ones are ignored.
            erase: overwrite what was theirs, as far as the store can, instead of leaving it until it is used again.
        """

    @abstractmethod
    def cut_again(self, cut: Callable[[Document], Sequence[Chunk]], fingerprint: str) -> None:
        """Replace the chunks of all documents by those of `cut`, and set the state `chunker` to `fingerprint`."""

    # --- documents and chunks ---

    @abstractmethod
    def documents(self) -> Iterator[StoredDocument]:
        """Each document, in the order in which they came; each as it was at one moment."""

    @abstractmethod
    def chunk_ids(self) -> set[int]:
        """Ids of all chunks."""

    @abstractmethod
    def chunks(self, ids: Sequence[int]) -> Iterator[StoredChunk]:
        """The chunks of these ids in their order; those that are gone are left out."""

    @abstractmethod
    def metadata_names(self) -> set[str]:
        """What is known of documents and chunks, by name."""

    # --- what follows from these ---

    def whole_documents(self) -> Iterator[tuple[Document, list[Chunk]]]:
        """Each document with its chunks."""
        for stored in self.documents():
            yield stored.document, stored.chunks

    def chunks_that(self, holds: Callable[[StoredChunk], bool]) -> set[int]:
        """Ids of the chunks for which `holds` is true."""
        return {chunk.id for chunk in self.chunks(sorted(self.chunk_ids())) if holds(chunk)}

    def texts(self, ids: Sequence[int]) -> Iterator[tuple[int, str]]:
        """(id, text to index) of chunks in the order of their ids: title and headings stand before the text."""
        for chunk in self.chunks(sorted(ids)):
            context = [part for part in (chunk.title, chunk.heading) if part and part not in chunk.text]
            yield chunk.id, "\n".join([*context, chunk.text])


def text_hash(text: str) -> str:
    """SHA-256 of a document's text in UTF-8, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def lines_of(document: Document, chunks: Sequence[Chunk]) -> list[int]:
    """The line on which each chunk begins, from 1; the document's own `line` where its metadata has one."""
    fixed = document.metadata.get("line")
    if isinstance(fixed, int):
        return [fixed] * len(chunks)
    line, at, found = 1, 0, []
    for chunk in chunks:
        line += document.text.count("\n", at, chunk.start)
        at = chunk.start
        found.append(line)
    return found
