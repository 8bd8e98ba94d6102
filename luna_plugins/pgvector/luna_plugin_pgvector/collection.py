"""What both retrievers have in common: a collection of rows on the server, and a small file that names it.

The rows are an index, not the truth: they can be made anew from the knowledge base at any time, and a transaction adds
all of a batch or nothing. What is removed is hidden at once, and deleted when the index is saved, which only the
process does that holds the knowledge base's lock: one that merely searches, with an older view, must not delete what
another has just written. A collection that no pointer names, or that another has replaced, is swept a day later, unless
somebody still searches in it. A process may die after the rows are saved and before the pointer lies in its place, or
just after: so a new collection and the one that it replaces both count as not needed until the place is known.
"""

from __future__ import annotations

import contextlib
import secrets
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import Cursor, sql

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import IntegrityError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.retrievers import Retriever

from .config import ServerConfig
from .server import Server, lock_key

if TYPE_CHECKING:
    from luna_kernel.plugins.registry import Registry

t = catalogue(__package__)

POINTER = "collection.json"


class CollectionRetriever(Retriever):
    """Rows (collection, chunk id, …) in a table of the server."""

    config: ServerConfig
    table: str
    """Its name, within the schema."""

    def __init__(self, config: ServerConfig, registry: Registry | None = None) -> None:
        super().__init__(config, registry)
        self.server = Server(config.database_schema, config.variable)
        self.collection = secrets.token_hex(12)
        self._ids: set[int] = set()
        self._hidden: set[int] = set()
        """Removed, and still on the server."""
        self._made = False
        self._replaced: str | None = None

    @abstractmethod
    def prepare(self, cursor: Cursor[Any]) -> None:
        """Make the table, if it is missing, with what it needs."""

    @abstractmethod
    def rows(self, texts: Sequence[str]) -> Iterable[Any]:
        """What stands for each text in `insert`."""

    @abstractmethod
    def insert(self, cursor: Cursor[Any]) -> sql.Composed:
        """The statement that adds a row: (collection, id, what `rows` gave)."""

    def swept(self, cursor: Cursor[Any], collection: str) -> None:
        """A collection's rows have been deleted: remove what else there was for it."""

    def add(self, chunk_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Add chunks; see `Retriever.add`."""
        ids = list(chunk_ids)
        bad = next((item for item in ids if item < 0 or item in self._ids), None)
        if bad is not None or len(set(ids)) != len(ids) or len(ids) != len(texts):
            raise ValueError(f"id {bad} is negative or not new" if bad is not None else "ids repeat or miss texts")
        if not ids:
            return
        values = [(self.collection, chunk_id, row) for chunk_id, row in zip(ids, self.rows(texts), strict=True)]
        self.make()
        with self.server.transaction() as cursor:
            cursor.executemany(self.insert(cursor), values)
        self._ids.update(ids)
        self._hidden -= set(ids)

    def make(self) -> None:
        """Make the tables, if they are missing, and the collection; once."""
        if self._made:
            return
        with self.server.transaction() as cursor:
            self.server.make_schema(cursor)
            collections = self.server.name("collections")
            if not self.server.has_table(cursor, "collections"):
                cursor.execute(
                    sql.SQL(
                        "CREATE TABLE {} (id text PRIMARY KEY, kind text NOT NULL, saved boolean NOT NULL "
                        "DEFAULT false, made timestamptz NOT NULL DEFAULT now())"
                    ).format(collections)
                )
            self.prepare(cursor)
            self.server.keep(lock_key(self.collection))
            statement = sql.SQL("INSERT INTO {} (id, kind) VALUES (%s, %s) ON CONFLICT DO NOTHING")
            cursor.execute(statement.format(collections), (self.collection, self.table))
        self._made = True  # not before the transaction has ended well

    def remove(self, chunk_ids: Sequence[int]) -> None:
        """Remove chunks; unknown ids are ignored."""
        gone = self._ids & set(chunk_ids)
        self._ids -= gone
        self._hidden |= gone

    def ids(self) -> set[int]:
        """Ids of the chunks that it holds."""
        return set(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def close(self) -> None:
        """Let go of the connection."""
        self.server.close()

    def state(self) -> dict[str, Any]:
        """What else the pointer holds."""
        return {}

    def replaces(self, folder: Path) -> None:
        """See `Retriever.replaces`: the collection that the folder names is swept a day later."""
        with contextlib.suppress(IntegrityError):  # one that cannot be read names none
            found = _pointer(folder)["collection"]
            self._replaced = None if found == self.collection else found

    def save(self, folder: Path) -> None:
        """Delete what was removed, sweep what nobody needs, and write which collection it is into `folder`."""
        self.make()
        collections, table = self.server.name("collections"), self.server.name(self.table)
        with self.server.transaction() as cursor:
            cursor.execute(
                sql.SQL("DELETE FROM {} WHERE collection = %s AND id = ANY(%s)").format(table),
                (self.collection, sorted(self._hidden)),
            )
            if self._replaced is not None:
                statement = sql.SQL("UPDATE {} SET saved = false, made = now() WHERE id = ANY(%s)")
                cursor.execute(statement.format(collections), ([self.collection, self._replaced],))
        self._hidden.clear()
        self._replaced = None  # said once: to say it again would begin its day anew
        durable.write_json(folder / POINTER, {"collection": self.collection, **self.state()})
        self._sweep()

    def placed(self) -> None:
        """See `Retriever.placed`: from now on the collection is needed."""
        if self._made:
            with self.server.transaction() as cursor:
                statement = sql.SQL("UPDATE {} SET saved = true WHERE id = %s AND NOT saved")
                cursor.execute(statement.format(self.server.name("collections")), (self.collection,))

    def _sweep(self) -> None:
        """Delete the collections that nobody needs, a day later, and not while in use."""
        collections = self.server.name("collections")
        with self.server.transaction() as cursor:
            cursor.execute(
                sql.SQL(
                    "SELECT id FROM {} WHERE kind = %s AND id <> %s AND NOT saved AND made < now() - interval '1 day'"
                ).format(collections),
                (self.table, self.collection),
            )
            for (collection,) in cursor.fetchall():
                if not self.server.is_kept(cursor, lock_key(collection)):
                    cursor.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(collections), (collection,))
                    self.swept(cursor, collection)

    def take(self, folder: Path) -> dict[str, Any]:
        """Go on with the collection that `save` named.

        Raises:
            IntegrityError: the pointer is none, or the server has no such collection any more.
        """
        pointer = _pointer(folder)
        self.collection = pointer["collection"]
        with self.server.transaction() as cursor:
            there = all(self.server.has_table(cursor, table) for table in ("collections", self.table))
            if there:
                self.server.keep(lock_key(self.collection))
                statement = sql.SQL("SELECT 1 FROM {} WHERE id = %s AND kind = %s")
                cursor.execute(statement.format(self.server.name("collections")), (self.collection, self.table))
                there = cursor.fetchone() is not None
            if not there:
                raise IntegrityError(t("collection.gone", collection=self.collection))
            statement = sql.SQL("SELECT id FROM {} WHERE collection = %s")
            cursor.execute(statement.format(self.server.name(self.table)), (self.collection,))
            self._ids = {int(row[0]) for row in cursor}
        self._made = True
        return pointer


def _pointer(folder: Path) -> dict[str, Any]:
    pointer = integrity.read_json(folder / POINTER)
    if not isinstance(pointer, dict) or not isinstance(pointer.get("collection"), str):
        raise IntegrityError(t("collection.bad", path=folder / POINTER))
    return pointer
