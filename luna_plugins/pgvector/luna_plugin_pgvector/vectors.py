"""The retriever `pgvector`: cosines of vectors, computed by the server.

The search is exact: every vector of the collection is compared. Vectors are computed here, by an encoder component;
what it learned is saved beside the knowledge base.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import Cursor, sql

from luna_kernel.base import durable
from luna_kernel.contracts.encoders import ChosenEncoder
from luna_kernel.contracts.retrievers import Hit

from .collection import CollectionRetriever
from .config import VectorConfig

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

_ENCODER = "encoder"


class VectorRetriever(CollectionRetriever):
    """Chunks whose vectors point the same way as the question's."""

    config: VectorConfig
    table = "vectors"

    def __init__(self, config: VectorConfig | None = None, registry: Registry | None = None) -> None:
        super().__init__(config or VectorConfig(), registry)
        self._encoder = ChosenEncoder(self.config.encoder, registry, where="retriever.pgvector.encoder")

    def prepare(self, cursor: Cursor[Any]) -> None:
        """The extension and the table."""
        self.server.need(cursor, "vector")
        cursor.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (collection text NOT NULL REFERENCES {} (id) ON DELETE CASCADE, "
                "id bigint NOT NULL, vector vector NOT NULL, PRIMARY KEY (collection, id))"
            ).format(self.server.name(self.table), self.server.name("collections"))
        )

    def add(self, chunk_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Add chunks; the first ones are also what the encoder is fitted on."""
        if not self._encoder.fitted_on and texts:
            with self.server.transaction() as cursor:  # a server that cannot do it says so before minutes of fitting
                self._make(cursor)
            self._encoder.fit(texts)
            super().add(chunk_ids, texts)
        else:
            super().add(chunk_ids, texts)
            self._encoder.new_since_fit += len(texts)

    def rows(self, texts: Sequence[str]) -> Iterable[str]:
        """The vector of each text, as pgvector reads it."""
        return map(_text_of, self._encoder.vectors(texts))

    def insert(self) -> sql.Composed:
        """See `CollectionRetriever.insert`."""
        statement = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s::vector) ON CONFLICT DO NOTHING")
        return statement.format(self.server.name(self.table))

    def search(self, query: str, k: int) -> list[Hit]:
        """The nearest chunks above `min_score`."""
        if not self._ids or k <= 0:
            return []
        vector = self._encoder.vectors([query], query=True)[0]
        if not vector.any():
            return []
        # Vectors have length 1, so the inner product is the cosine; <#> is its negative. One of length 0 scores 0.
        statement = sql.SQL(
            "SELECT id, -(vector <#> %s::vector) AS score FROM {} WHERE collection = %s "
            "ORDER BY score DESC, id LIMIT %s"
        ).format(self.server.name(self.table))
        with self.server.transaction() as cursor:
            cursor.execute(statement, (_text_of(vector), self.collection, k + len(self._hidden)))
            found = [Hit(int(row[0]), float(row[1])) for row in cursor]
        return [hit for hit in found if hit.chunk_id in self._ids and hit.score >= self.config.min_score][:k]

    def state(self) -> dict[str, Any]:
        """The encoder's name and version, its dimension, and what it was fitted on."""
        return self._encoder.state()

    def save(self, folder: Path) -> None:
        """See `CollectionRetriever.save`; the encoder is saved too."""
        durable.make_folder(folder / _ENCODER)
        self._encoder.encoder.save(folder / _ENCODER)
        super().save(folder)

    @classmethod
    def load(cls, config: VectorConfig | None, folder: Path, registry: Registry | None = None) -> VectorRetriever:
        """Open what `save` wrote.

        Raises:
            OtherEncoderError: made with another encoder.
            IntegrityError: the server has the collection no more.
        """
        retriever = cls(config, registry)
        pointer = retriever.take(folder)
        retriever._encoder.open(folder / _ENCODER, pointer)
        return retriever

    @property
    def wants_rebuild(self) -> bool:
        """Whether too much came since the encoder was fitted."""
        return self._encoder.outgrown(self.config.refit_growth)


def _text_of(vector: Any) -> str:
    return "[" + ",".join(f"{value:.8g}" for value in vector.tolist()) + "]"
