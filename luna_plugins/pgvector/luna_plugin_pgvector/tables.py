"""The tables of the store: made when they are missing, filled, and named in statements.

One schema holds any number of knowledge bases; rows begin with the id of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import Cursor, sql

from .server import Server

# Sources are compared by their hash: an entry of an index holds less than a path may be long.
_SCHEMA = """
CREATE TABLE {bases} (
    id text PRIMARY KEY, format integer NOT NULL, generation bigint NOT NULL DEFAULT 0,
    last_file bigint NOT NULL DEFAULT 0, last_document bigint NOT NULL DEFAULT 0, last_chunk bigint NOT NULL DEFAULT 0,
    created timestamptz NOT NULL DEFAULT now(), changed timestamptz NOT NULL DEFAULT now());
CREATE TABLE {state} (
    base text NOT NULL REFERENCES {bases} (id) ON DELETE CASCADE, key text NOT NULL, value text NOT NULL,
    PRIMARY KEY (base, key));
CREATE TABLE {files} (
    base text NOT NULL REFERENCES {bases} (id) ON DELETE CASCADE, id bigint NOT NULL,
    source text NOT NULL, path text NOT NULL, sha256 text NOT NULL, size bigint NOT NULL, mtime_ns bigint NOT NULL,
    ctime_ns bigint NOT NULL, seen_ns bigint NOT NULL, reasons text NOT NULL,
    PRIMARY KEY (base, id));
CREATE UNIQUE INDEX knowledge_files_source ON {files} (base, md5(source));
CREATE TABLE {documents} (
    base text NOT NULL, id bigint NOT NULL, file_id bigint NOT NULL, source text NOT NULL, title text NOT NULL,
    text text NOT NULL, metadata text NOT NULL, sha256 text NOT NULL,
    PRIMARY KEY (base, id), FOREIGN KEY (base, file_id) REFERENCES {files} (base, id) ON DELETE CASCADE);
CREATE INDEX knowledge_documents_file ON {documents} (base, file_id);
CREATE TABLE {chunks} (
    base text NOT NULL, id bigint NOT NULL, document_id bigint NOT NULL, "start" bigint NOT NULL, "end" bigint NOT NULL,
    line bigint NOT NULL, heading text NOT NULL, text text NOT NULL, metadata text NOT NULL,
    PRIMARY KEY (base, id), FOREIGN KEY (base, document_id) REFERENCES {documents} (base, id) ON DELETE CASCADE);
CREATE INDEX knowledge_chunks_document ON {chunks} (base, document_id)
"""
NAMES = ("bases", "state", "files", "documents", "chunks")


class Tables:
    """Luna's tables in the schema of a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._names = {name: server.name(f"knowledge_{name}") for name in NAMES}

    def __getitem__(self, name: str) -> sql.Identifier:
        """A table, quoted."""
        return self._names[name]

    def are_there(self, cursor: Cursor[Any]) -> bool:
        """Whether they have been made; all are made together."""
        return self._server.has_table(cursor, "knowledge_chunks")

    def make(self, cursor: Cursor[Any]) -> None:
        """Make schema and tables, if they are missing; else no right to make tables is needed."""
        self._server.make_schema(cursor)
        if not self.are_there(cursor):
            for statement in _SCHEMA.split(";"):
                self.run(cursor, statement)

    def run(self, cursor: Cursor[Any], statement: str, *values: Any) -> Cursor[Any]:
        """Execute a statement in which `{files}` and its like stand for the tables."""
        return cursor.execute(self.named(statement), values or None)

    def named(self, statement: str) -> sql.Composed:
        """The statement with the tables' names in it."""
        return sql.SQL(statement).format(**self._names)  # type: ignore[arg-type]

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """All that a statement gives in a transaction of its own; see `run`."""
        with self._server.transaction() as cursor:
            return self.run(cursor, statement, *values).fetchall()

    def copy(self, cursor: Cursor[Any], name: str, base: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows of a knowledge base to a table."""
        with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(self._names[name])) as copy:
            for row in rows:
                copy.write_row((base, *row))
