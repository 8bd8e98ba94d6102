"""The retriever `pgtext`: PostgreSQL's text search, in Portuguese.

The configuration is `portuguese` with `unaccent` before the stemmer where the server has that extension; where it has
not, Luna folds the accents of texts and questions herself. Either way a question typed without accents finds the same.
Words that say nothing are left out here: the server's own list has accents, and misses them once these are gone. A
question's words are joined by OR and ranked by `ts_rank_cd`, with the length of the text taken into account.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import Cursor, sql

from luna_kernel.base.errors import UsageError
from luna_kernel.contracts.retrievers import Hit
from luna_kernel.data.portuguese import STOP_WORDS, words

from .collection import CollectionRetriever
from .config import TextConfig

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

_CONFIGURATION = "luna_portuguese"


class TextRetriever(CollectionRetriever):
    """Words that question and chunk share."""

    table = "texts"

    def __init__(self, config: TextConfig | None = None, registry: Registry | None = None) -> None:
        super().__init__(config or TextConfig(), registry)

    def prepare(self, cursor: Cursor[Any]) -> None:
        """The text search configuration and the table with its index."""
        schema, name = self.server.schema, self.server.name(_CONFIGURATION)
        cursor.execute(
            "SELECT 1 FROM pg_ts_config c JOIN pg_namespace n ON n.oid = c.cfgnamespace WHERE n.nspname = %s "
            "AND c.cfgname = %s",
            (schema, _CONFIGURATION),
        )
        if cursor.fetchone() is None:
            cursor.execute(sql.SQL("CREATE TEXT SEARCH CONFIGURATION {} (COPY = pg_catalog.portuguese)").format(name))
            if self.server.has(cursor, "unaccent"):
                # A user who may not switch it on does without: the words come folded anyway.
                with contextlib.suppress(UsageError), self.server.transaction() as inner:
                    unaccent = sql.Identifier(self.server.need(inner, "unaccent"), "unaccent")
                    inner.execute(
                        sql.SQL(
                            "ALTER TEXT SEARCH CONFIGURATION {} ALTER MAPPING FOR hword, hword_part, word "
                            "WITH {}, pg_catalog.portuguese_stem"
                        ).format(name, unaccent)
                    )
        if self.server.has_table(cursor, self.table):
            return
        cursor.execute(
            sql.SQL(
                "CREATE TABLE {} (collection text NOT NULL REFERENCES {} (id) ON DELETE CASCADE, "
                "id bigint NOT NULL, terms tsvector NOT NULL, PRIMARY KEY (collection, id))"
            ).format(self.server.name(self.table), self.server.name("collections"))
        )
        cursor.execute(sql.SQL("CREATE INDEX texts_terms ON {} USING gin (terms)").format(self.server.name(self.table)))

    def _configuration(self) -> str:
        return f'"{self.server.schema}".{_CONFIGURATION}'

    def rows(self, texts: Sequence[str]) -> Iterable[str]:
        """The words to index of each text."""
        return [_plain(text) for text in texts]

    def insert(self, cursor: Cursor[Any]) -> sql.Composed:
        """See `CollectionRetriever.insert`."""
        return sql.SQL("INSERT INTO {} VALUES (%s, %s, to_tsvector({}::regconfig, %s)) ON CONFLICT DO NOTHING").format(
            self.server.name(self.table), sql.Literal(self._configuration())
        )

    def search(self, query: str, k: int) -> list[Hit]:
        """The chunks that share a word with the query."""
        plain = _plain(query)
        if not self._ids or k <= 0 or not plain:
            return []
        statement = sql.SQL(
            "WITH asked AS (SELECT string_agg(quote_literal(lexeme), ' | ')::tsquery AS q "
            "FROM unnest(to_tsvector({}::regconfig, %s))) "
            "SELECT id, ts_rank_cd(terms, q, 1) AS score FROM {}, asked WHERE collection = %s AND terms @@ q "
            "ORDER BY score DESC, id LIMIT %s"
        ).format(sql.Literal(self._configuration()), self.server.name(self.table))
        with self.server.transaction() as cursor:
            cursor.execute(statement, (plain, self.collection, k + len(self._hidden)))
            found = [Hit(int(row[0]), float(row[1])) for row in cursor if row[0] in self._ids and row[1] > 0]
        return found[:k]

    @classmethod
    def load(cls, config: TextConfig | None, folder: Path, registry: Registry | None = None) -> TextRetriever:
        """Open what `save` wrote."""
        retriever = cls(config, registry)
        retriever.take(folder)
        return retriever


def _plain(text: str) -> str:
    """The folded words of a text that say something; all of them where none does."""
    found = words(text)
    return " ".join([word for word in found if word not in STOP_WORDS] or found).replace("\0", " ")
