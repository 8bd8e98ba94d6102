"""Data: what a reader gives, and what a document, a chunk and a dialogue are.

A reader turns the bytes of one file into documents or records. It runs in the parser worker, so it must be
importable by name, and what it returns must be JSON-able through `to_json`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    """One turn of speech. `content` is text as somebody wrote it; control tokens in it are plain characters."""

    role: Role
    content: str
    thinking: str | None = None
    """What the assistant thought before it answered; never part of the history unless asked."""


@dataclass(frozen=True)
class Document:
    """One readable text with where it came from. `text` is kept whole: chunks point into it by offsets."""

    text: str
    source: str
    """Path relative to the indexed folder, or the name of the file."""
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON-able facts: encoding, page, heading."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: `text == document.text[start:end]`, to the character."""

    text: str
    start: int
    end: int
    heading: str = ""
    """The headings above it, joined by ` › `."""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One training example: a dialogue, or plain text."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    place: str = ""
    """`file:line`, for errors."""
    condition: dict[str, dict[str, float]] | None = None
    """What is known from outside the text: weights of named dimensions by condition (`{"domain": {"saude": 1.0}}`)."""
    rejected: str | None = None
    """A worse answer than the last message's; objectives that learn from preferences read it, others do not."""
    desirable: bool | None = None
    """Whether the last message is an answer that somebody liked; None: nobody said. For objectives that read it."""


@dataclass(frozen=True)
class BadRecord:
    """A line or row that could not be read; nothing is lost in silence."""

    place: str
    reason: str


@dataclass
class ReadResult:
    """What one file gave. For line-based files: rows in = records + bad."""

    documents: list[Document] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON, to cross the worker's pipe."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ReadResult:
        """The result again."""
        return cls(
            documents=[Document(**item) for item in data["documents"]],
            records=[
                Record(**{**item, "messages": tuple(Message(**m) for m in item["messages"])})
                for item in data["records"]
            ],
            bad=[BadRecord(**item) for item in data["bad"]],
        )


class Reader(ABC):
    """Reads one format.

    `extensions` says which files it takes; two readers of one extension are an error at selection.
    """

    extensions: tuple[str, ...] = ()
    piecewise: bool = False
    """Whether a large file may be cut after any line and read piece by piece: each line stands for itself."""

    others: Mapping[str, str] = {}
    """What a container of other files reads them with: `"module:Class"` by extension. Set before `read` is called."""
    search: bool = False
    """Whether the text is wanted for search and not for training, where a table without questions would be noise. Set
    before `read` is called."""

    @abstractmethod
    def read(self, data: bytes, source: str) -> ReadResult:
        """Read one file's bytes. Raises `UsageError` when the file as a whole cannot be read, with the reason.

        The `place` of records and faults is `source:line`, lines counted from 1 in `data`.
        """
