"""Search: what a retriever, an encoder, a reranker and a chunker implement.

The truth about documents and chunks is the knowledge store (`contracts/knowledge.py`). A retriever is an index derived
from it: it can be rebuilt at any time, is saved beside the store, and is thrown away when its hash disagrees. A chunk's
text never changes under its id and ids are never used twice, so that `ids()` alone says what an index lacks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, overload

from luna_kernel.base.errors import IntegrityError

from .data import Chunk, Document

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry


class Hit(NamedTuple):
    """A chunk that was found."""

    chunk_id: int
    score: float
    """The retriever's own score; larger is better. Scores of different retrievers do not compare."""


class Hits(Sequence[Hit]):
    """The hits of one of many questions: numbers, of which a `Hit` is made where one is asked for.

    A `Hit` for each would keep the garbage collector busy for as long as the search takes.
    """

    __slots__ = ("ids", "scores")

    def __init__(self, ids: list[int], scores: list[float]) -> None:
        self.ids = ids
        self.scores = scores

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> Hits: ...
    def __getitem__(self, place: int | slice) -> Hit | Hits:
        if isinstance(place, slice):
            return Hits(self.ids[place], self.scores[place])
        return Hit(self.ids[place], self.scores[place])

    def __iter__(self) -> Iterator[Hit]:
        return map(Hit._make, zip(self.ids, self.scores, strict=True))


class Retriever(ABC):
    """An index over chunks. The constructor gets its validated config (or None).

    Args:
        config: the component's validated config.
        registry: for a retriever that is made of other components (an encoder).
    """

    takes_batches: ClassVar[bool] = False
    """Whether the first chunks may come in several calls of `add` to the same effect. Without it they all come in one,
    for a retriever that learns from what it is given first."""

    def __init__(self, config: Any = None, registry: Registry | None = None) -> None:
        self.config = config

    @abstractmethod
    def add(self, chunk_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Add chunks. Ids are non-negative and new; a `ValueError` says which is not."""

    @abstractmethod
    def remove(self, chunk_ids: Sequence[int]) -> None:
        """Remove chunks; unknown ids are ignored."""

    @abstractmethod
    def search(self, query: str, k: int) -> list[Hit]:
        """The best `k` or fewer chunks, best first, none with a score that means nothing (no common term, padding).

        Equal scores come in the order of their ids. An empty index or query gives an empty list."""

    def search_each(self, queries: Sequence[str], k: int) -> list[Hits]:
        """What `search` finds for each of some queries; a retriever may be faster at it than one by one."""
        found = (self.search(query, k) for query in queries)
        return [Hits([hit.chunk_id for hit in hits], [hit.score for hit in hits]) for hits in found]

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the index into an existing empty folder, through `luna_kernel.base.durable`."""

    def replaces(self, folder: Path) -> None:  # noqa: B027  optional
        """What `save` will write takes the place of what an earlier `save` wrote into `folder`.

        Called before `save`, for a retriever that keeps something elsewhere, which is then needed no more."""

    def placed(self) -> None:  # noqa: B027  optional
        """What `save` wrote, or `load` opened, lies where the next `load` finds it.

        Called after each writing, also where nothing of this index had to be written, for a retriever that keeps
        something elsewhere: a process may have died after `save`, and what it wrote is then found by nobody."""

    @classmethod
    @abstractmethod
    def load(cls, config: Any, folder: Path, registry: Registry | None = None) -> Retriever:
        """Open what `save` wrote; the files' hashes have been checked before.

        A file beside which `save` put a table of `luna_kernel.base.block_sums` is the exception: whoever reads it
        compares each block before its first use, and any method may then raise `IntegrityError`, upon which the
        caller rebuilds the index.

        Raises:
            OtherEncoderError: made with another encoder; the caller says so, and rebuilds the index where it may write.
            IntegrityError: the files are not what `save` writes; the caller rebuilds the index.
        """

    @abstractmethod
    def ids(self) -> set[int]:
        """Ids of the chunks that it holds."""

    def __len__(self) -> int:
        """How many chunks it holds."""
        return len(self.ids())

    def close(self) -> None:  # noqa: B027  optional
        """Let go of what it holds outside memory: a connection."""

    @property
    def wants_rebuild(self) -> bool:
        """Whether it has grown so far from what it was fitted on that it should be built anew from all texts."""
        return False

    def term_weights(self, query: str) -> dict[str, float]:
        """How much each term of `query` tells about a chunk (its IDF), terms that no chunk has included; empty for
        retrievers without terms. Terms are those of `luna_kernel.data.portuguese.terms`."""
        return {}

    def frequencies(self, terms: Sequence[str]) -> list[int]:
        """In how many chunks each of `terms` is; empty for retrievers without terms (see `term_weights`)."""
        return []


class OtherEncoderError(IntegrityError):
    """Vectors were made with another encoder, or with other weights, than the one that is chosen; says both."""


class Encoder(ABC):
    """Turns texts into vectors. The constructor gets its validated config (or None)."""

    dimension: int = 0
    """Length of the vectors; 0 before `fit` where the encoder learns from the texts."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    def fit(self, texts: Sequence[str]) -> None:  # noqa: B027  optional
        """Learn from the texts that will be searched; encoders that come trained do nothing."""

    @abstractmethod
    def encode(self, texts: Sequence[str], *, query: bool = False) -> Any:
        """float32 array (N, dimension), rows of length 1 (or 0 for a text without content), never NaN.

        Args:
            query: the texts are questions, for encoders that treat them differently.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write it into an existing folder, through `luna_kernel.base.durable`."""

    @classmethod
    @abstractmethod
    def load(cls, config: Any, folder: Path) -> Encoder:
        """Open what `save` wrote; the files' hashes have been checked before.

        Raises:
            OtherEncoderError: what the encoder reads from elsewhere has changed since; the text says what it was made
                with and what is there.
            IntegrityError: the files are not what `save` writes.
        """


class Chunker(ABC):
    """Cuts a document into chunks whose offsets are exact."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def chunk(self, document: Document) -> list[Chunk]:
        """Chunks in order of their start; `document.text[c.start:c.end] == c.text` for each."""


@dataclass(frozen=True)
class Candidate:
    """A chunk that some retriever found, with all that a reranker may use."""

    chunk_id: int
    text: str
    title: str = ""
    heading: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Score by name of retriever, each divided by that retriever's best for this query: 0 to 1. A retriever that
    was asked and did not find the chunk gives 0; one that was not asked is absent."""


class Reranker(ABC):
    """Orders the candidates of retrievers anew. The constructor gets its validated config (or None)."""

    def __init__(self, config: Any = None) -> None:
        self.config = config

    @abstractmethod
    def score(self, query: str, candidates: Sequence[Candidate], weights: Mapping[str, float]) -> list[float]:
        """One score per candidate; larger is better.

        Args:
            query: the question.
            candidates: in the order of the fusion.
            weights: `Retriever.term_weights` of the query; empty where no retriever has any.
        """

    def relevance(self, query: str, candidates: Sequence[Candidate], scores: Sequence[float]) -> list[float]:
        """The probability (0 to 1) that each candidate answers, for its own `scores` of one query, best first.

        The default knows nothing and gives 1: every passage is shown."""
        return [1.0] * len(scores)
