"""The retriever `pgvector`: cosines of vectors, computed by the server.

The search is exact: every vector of the collection is compared. Vectors are computed here, by an encoder component;
what it learned is saved beside the knowledge base.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import Cursor, sql

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.retrievers import Encoder, Hit

from .collection import CollectionRetriever
from .config import VectorConfig

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)

_ENCODER = "encoder"
_BATCH = 512


class VectorRetriever(CollectionRetriever):
    """Chunks whose vectors point the same way as the question's."""

    config: VectorConfig
    table = "vectors"

    def __init__(self, config: VectorConfig | None = None, registry: Registry | None = None) -> None:
        super().__init__(config or VectorConfig(), registry)
        if registry is None:
            raise ValueError("the retriever pgvector needs a registry to find its encoder in")
        self._component = registry.get("encoder", self.config.encoder["name"], where="retriever.pgvector.encoder")
        self._encoder_config = self._component.make_config(self.config.encoder, where="retriever.pgvector.encoder")
        self._encoder: Encoder = self._component.load()(self._encoder_config)
        self._fitted_on = 0
        self._new_since_fit = 0

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
        if not self._fitted_on and texts:
            with self.server.transaction() as cursor:  # a server that cannot do it says so before minutes of fitting
                self._make(cursor)
            self._encoder.fit(texts)
            self._fitted_on = len(texts)
            super().add(chunk_ids, texts)
        else:
            super().add(chunk_ids, texts)
            self._new_since_fit += len(texts)

    def rows(self, texts: Sequence[str]) -> Iterable[str]:
        """The vector of each text, as pgvector reads it."""
        for begin in range(0, len(texts), _BATCH):
            for vector in self._vectors(texts[begin : begin + _BATCH]):
                yield _text_of(vector)

    def _vectors(self, texts: Sequence[str], *, query: bool = False) -> Any:
        vectors = np.asarray(self._encoder.encode(texts, query=query), np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError(f"encoder {self._component.name} gave vectors that are not finite")
        return vectors

    def insert(self) -> sql.Composed:
        """See `CollectionRetriever.insert`."""
        statement = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s::vector) ON CONFLICT DO NOTHING")
        return statement.format(self.server.name(self.table))

    def search(self, query: str, k: int) -> list[Hit]:
        """The nearest chunks above `min_score`."""
        if not self._ids or k <= 0:
            return []
        vector = self._vectors([query], query=True)[0]
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
        return {
            "encoder": self._component.name,
            "encoder_version": self._component.version,
            "dimension": self._encoder.dimension,
            "fitted_on": self._fitted_on,
            "new_since_fit": self._new_since_fit,
        }

    def save(self, folder: Path) -> None:
        """See `CollectionRetriever.save`; the encoder is saved too."""
        durable.make_folder(folder / _ENCODER)
        self._encoder.save(folder / _ENCODER)
        super().save(folder)

    @classmethod
    def load(cls, config: VectorConfig | None, folder: Path, registry: Registry | None = None) -> VectorRetriever:
        """Open what `save` wrote.

        Raises:
            IntegrityError: made with another encoder, or the server has the collection no more.
        """
        retriever = cls(config, registry)
        pointer, component = retriever.take(folder), retriever._component
        if (pointer.get("encoder"), pointer.get("encoder_version")) != (component.name, component.version):
            raise IntegrityError(t("encoder.other", found=pointer.get("encoder"), expected=component.name))
        retriever._encoder = component.load().load(retriever._encoder_config, folder / _ENCODER)
        if retriever._encoder.dimension != pointer["dimension"]:
            raise IntegrityError(t("collection.bad", path=folder))
        retriever._fitted_on, retriever._new_since_fit = pointer["fitted_on"], pointer["new_since_fit"]
        return retriever

    @property
    def wants_rebuild(self) -> bool:
        """Whether too much came since the encoder was fitted."""
        return self._new_since_fit > self.config.refit_growth * max(self._fitted_on, 1)


def _text_of(vector: Any) -> str:
    return "[" + ",".join(f"{value:.8g}" for value in vector.tolist()) + "]"
