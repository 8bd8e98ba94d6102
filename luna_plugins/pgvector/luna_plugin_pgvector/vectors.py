"""The retriever `pgvector`: cosines of vectors, computed by the server.

`flat` compares every vector of the collection: the hits are exact. `hnsw` and `ivfflat` are pgvector's indexes, one per
collection, made when the collection is saved; until then, and where more hits are asked for than they can give, the
search is exact too. Vectors are computed here, by an encoder component; what it learned is saved beside the knowledge
base.

Source: Malkov, Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable Small
World graphs", 2018 (hnsw); pgvector's README (lists and probes of ivfflat).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import Cursor, sql

from luna_kernel.base import durable
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.encoders import ChosenEncoder
from luna_kernel.contracts.retrievers import Hit

from .collection import CollectionRetriever
from .config import VectorConfig

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)

_ENCODER = "encoder"
_LONGEST = 2000
"""Length of the longest vector that pgvector's indexes take."""
_MOST = 1000
"""Hits at most that a search of a graph gives: the largest `hnsw.ef_search`."""


class VectorRetriever(CollectionRetriever):
    """Chunks whose vectors point the same way as the question's."""

    config: VectorConfig
    table = "vectors"

    def __init__(self, config: VectorConfig | None = None, registry: Registry | None = None) -> None:
        super().__init__(config or VectorConfig(), registry)
        self._encoder = ChosenEncoder(self.config.encoder, registry, where="retriever.pgvector.encoder")
        self._schema: str | None = None
        self._lists = 0
        """Of the index `ivfflat`."""

    def prepare(self, cursor: Cursor[Any]) -> None:
        """The extension and the table."""
        self._schema = self.server.need(cursor, "vector")
        if self.config.index != "flat":
            cursor.execute("SELECT 1 FROM pg_am WHERE amname = %s", (self.config.index,))
            if cursor.fetchone() is None:
                text = t("index.missing", index=self.config.index, place=self.server.place)
                raise UsageError(text, hint=t("index.missing.hint"))
        if not self.server.has_table(cursor, self.table):
            cursor.execute(
                sql.SQL(
                    "CREATE TABLE {} (collection text NOT NULL REFERENCES {} (id) ON DELETE CASCADE, "
                    "id bigint NOT NULL, vector {} NOT NULL, PRIMARY KEY (collection, id))"
                ).format(self.server.name(self.table), self.server.name("collections"), self._type(cursor))
            )

    def _in(self, cursor: Cursor[Any]) -> str:
        """The schema of the extension: not every server has it on the search path."""
        if self._schema is None:
            self._schema = self.server.schema_of(cursor, "vector") or "public"
        return self._schema

    def _type(self, cursor: Cursor[Any]) -> sql.Identifier:
        return sql.Identifier(self._in(cursor), "vector")

    def add(self, chunk_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Add chunks; the first ones are also what the encoder is fitted on.

        Raises:
            UsageError: the encoder's vectors are too long for the index.
        """
        if not self._encoder.fitted_on and texts:
            self.make()  # a server that cannot do it says so before minutes of fitting
            self._encoder.fit(texts)
            dimension = self._encoder.encoder.dimension
            if self.config.index != "flat" and dimension > _LONGEST:
                text = t("index.too_long", index=self.config.index, dimension=dimension, most=_LONGEST)
                raise UsageError(text, hint=t("index.too_long.hint"))
            super().add(chunk_ids, texts)
        else:
            super().add(chunk_ids, texts)
            self._encoder.new_since_fit += len(texts)

    def rows(self, texts: Sequence[str]) -> Iterable[str]:
        """The vector of each text, as pgvector reads it."""
        return map(_text_of, self._encoder.vectors(texts))

    def insert(self, cursor: Cursor[Any]) -> sql.Composed:
        """See `CollectionRetriever.insert`."""
        statement = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s::{}) ON CONFLICT DO NOTHING")
        return statement.format(self.server.name(self.table), self._type(cursor))

    # --- indexes -------------------------------------------------------------------------------------------------

    def _index_name(self, collection: str) -> str:
        return f"vectors_{collection}"

    def _sized(self, cursor: Cursor[Any]) -> sql.Composed:
        """The type of vectors of just this length: an index needs it."""
        length = sql.Literal(self._encoder.encoder.dimension)
        return sql.SQL("{}({})").format(self._type(cursor), length)

    def _make_index(self) -> None:
        """Make the collection's own index, once it has rows."""
        if self.config.index == "flat" or not self._ids:
            return
        with self.server.transaction() as cursor:
            if self.server.has_table(cursor, self._index_name(self.collection)):
                return
            if self.config.index == "hnsw":
                ways = {"m": self.config.neighbours, "ef_construction": self.config.build_effort}
            else:
                self._lists = self.config.lists or lists_for(len(self._ids))
                ways = {"lists": self._lists}
            statement = sql.SQL(
                "CREATE INDEX {name} ON {table} USING {method} ((vector::{type}) {operators}) WITH ({ways}) "
                "WHERE collection = {collection}"
            ).format(
                name=sql.Identifier(self._index_name(self.collection)),
                table=self.server.name(self.table),
                method=sql.Identifier(self.config.index),
                type=self._sized(cursor),
                operators=sql.Identifier(self._in(cursor), "vector_ip_ops"),
                ways=sql.SQL(", ").join(
                    sql.SQL("{} = {}").format(sql.Identifier(key), sql.Literal(value)) for key, value in ways.items()
                ),
                collection=sql.Literal(self.collection),
            )
            cursor.execute(statement)
            # Until the server knows how many rows a collection has, it may think that it is quicker without the index.
            cursor.execute(sql.SQL("ANALYZE {}").format(self.server.name(self.table)))

    def swept(self, cursor: Cursor[Any], collection: str) -> None:
        """The collection's index goes with it."""
        cursor.execute(sql.SQL("DROP INDEX IF EXISTS {}").format(self.server.name(self._index_name(collection))))

    def _effort(self, cursor: Cursor[Any], wanted: int) -> None:
        """Say, for this transaction, how far an index is searched; not at all where it cannot give so many hits."""
        if self.config.index == "hnsw" and wanted <= _MOST:
            effort = str(max(self.config.effort, wanted))
            cursor.execute("SELECT set_config('hnsw.ef_search', %s, true)", (effort,))
        elif self.config.index == "ivfflat" and self._lists and wanted <= len(self._ids) // 10:
            probes = str(min(self.config.probes or math.ceil(math.sqrt(self._lists)), self._lists))
            cursor.execute("SELECT set_config('ivfflat.probes', %s, true)", (probes,))
        else:
            cursor.execute("SELECT set_config('enable_indexscan', 'off', true)")

    # --- search --------------------------------------------------------------------------------------------------

    def search(self, query: str, k: int) -> list[Hit]:
        """The nearest chunks above `min_score`."""
        if not self._ids or k <= 0:
            return []
        vector = self._encoder.vectors([query], query=True)[0]
        if not vector.any():
            return []
        wanted = k + len(self._hidden)
        with self.server.transaction() as cursor:
            if self.config.index != "flat":
                self._effort(cursor, wanted)
            cursor.execute(self.nearest(cursor), (_text_of(vector), wanted))
            found = [Hit(int(row[0]), float(row[1])) for row in cursor]
        return [hit for hit in found if hit.chunk_id in self._ids and hit.score >= self.config.min_score][:k]

    def nearest(self, cursor: Cursor[Any]) -> sql.Composed:
        """The statement that finds the nearest vectors, for (vector, how many).

        Vectors have length 1, so the inner product is the cosine; <#> is its negative. One of length 0 scores 0. The
        collection stands in the text: a parameter would keep the server from its partial index."""
        ties = sql.SQL(", id") if self.config.index == "flat" else sql.SQL("")  # which an index cannot order by
        sized = self._sized(cursor)
        return sql.SQL(
            "SELECT id, -distance AS score FROM (SELECT id, (vector::{type}) OPERATOR({schema}.<#>) %s::{type} "
            "AS distance FROM {table} WHERE collection = {collection} ORDER BY distance{ties} LIMIT %s) found "
            "ORDER BY distance, id"
        ).format(
            type=sized,
            schema=sql.Identifier(self._in(cursor)),
            table=self.server.name(self.table),
            collection=sql.Literal(self.collection),
            ties=ties,
        )

    # --- keeping -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The encoder's name and version, its dimension, what it was fitted on, and the index's lists."""
        return {**self._encoder.state(), "lists": self._lists}

    def save(self, folder: Path) -> None:
        """See `CollectionRetriever.save`; the encoder is saved too, and the index made."""
        durable.make_folder(folder / _ENCODER)
        self._encoder.encoder.save(folder / _ENCODER)
        self.make()
        self._make_index()
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
        lists = pointer.get("lists", 0)
        retriever._lists = lists if isinstance(lists, int) else 0
        return retriever

    @property
    def wants_rebuild(self) -> bool:
        """Whether too much came since the encoder was fitted."""
        return self._encoder.outgrown(self.config.refit_growth)


def lists_for(count: int) -> int:
    """Lists for so many vectors: a thousandth, beyond a million the root; at least one."""
    return max(1, count // 1000 if count <= 1_000_000 else math.isqrt(count))


def _text_of(vector: Any) -> str:
    return "[" + ",".join(f"{value:.8g}" for value in vector.tolist()) + "]"
