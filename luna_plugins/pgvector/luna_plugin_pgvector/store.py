"""The knowledge store `postgres`: files, documents, chunks and state in a schema of a PostgreSQL database.

Ids of rows are counted in the row of the knowledge base, under its lock, so that they are never used twice and a
transaction that fails uses none up. PostgreSQL's texts hold every character but NUL, which is escaped (`rows.py`).
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from psycopg import Cursor

from luna_kernel.base import durable
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.knowledge import (
    BaseGoneError,
    CutFile,
    FileState,
    Flaw,
    KnowledgeStore,
    StoredChunk,
    StoredDocument,
)

from .config import ServerConfig
from .rows import chunk_rows, document_row, escaped, file_row, plain
from .server import Server, lock_key
from .tables import NAMES, Tables

t = catalogue(__package__)

FORMAT = 1
_AT_ONCE = 50
"""Documents that are fetched together."""


class PostgresStore(KnowledgeStore):
    """One open knowledge base on the server; see `KnowledgeStore`. In the folder lies only a lock of this machine."""

    def __init__(self, config: ServerConfig | None, folder: Path, base: str | None = None) -> None:
        self.config = config or ServerConfig()
        self.folder = folder
        self._server = Server(self.config.database_schema, self.config.variable)
        self._tables = Tables(self._server)
        self.place = f"{self._server.place}, {self.config.database_schema}"
        try:
            self._id = self._make() if base is None else self._find(base)
        except BaseException:
            self._server.close()
            raise

    def _make(self) -> str:
        base = secrets.token_hex(16)
        with self._server.transaction() as cursor:
            cursor.execute("SHOW server_encoding")
            found = (cursor.fetchone() or ("?",))[0]
            if found != "UTF8":
                raise UsageError(t("server.encoding", place=self.place, found=found), hint=t("server.encoding.hint"))
            self._tables.make(cursor)
            self._tables.run(cursor, "INSERT INTO {bases} (id, format) VALUES (%s, %s)", base, FORMAT)
        return base

    def _find(self, base: str) -> str:
        with self._server.transaction() as cursor:
            row = None
            if self._tables.are_there(cursor):
                row = self._tables.run(cursor, "SELECT format FROM {bases} WHERE id = %s", base).fetchone()
        if row is None:
            text = t("store.gone", place=self.place, base=base[:64])
            raise BaseGoneError(text, hint=t("store.gone.hint", variable=self.config.variable))
        if row[0] > FORMAT:
            text = t("store.newer", place=self.place, found=row[0], expected=FORMAT)
            raise UsageError(text, hint=t("store.newer.hint"))
        return base

    def close(self) -> None:
        """Let go of the connection."""
        self._server.close()

    def discard(self) -> None:
        """Delete the knowledge base from the server."""
        with self._server.transaction() as cursor:
            self._tables.run(cursor, "DELETE FROM {bases} WHERE id = %s", self._id)
        self.close()

    @contextlib.contextmanager
    def lock(self, *, wait: float = 0.0) -> Iterator[None]:
        """See `KnowledgeStore.lock`: a file keeps out, and names, others of this machine, the server all."""
        with durable.lock(self.folder / "lock", wait=wait), self._server.lock(lock_key(self._id), wait=wait):
            yield

    # --- state ---------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """What tells this knowledge base from all others."""
        return self._id

    @property
    def generation(self) -> int:
        """Grows with every change of the chunks."""
        rows = self._tables.rows("SELECT generation FROM {bases} WHERE id = %s", self._id)
        if not rows:  # somebody has deleted it meanwhile
            self._find(self._id)
        return int(rows[0][0])

    def meta(self, key: str) -> str | None:
        """A value of the state, or None."""
        if key in ("created", "changed"):
            moment = self._tables.rows(f"SELECT {key} FROM {{bases}} WHERE id = %s", self._id)  # noqa: S608  one of two words
            return str(moment[0][0].isoformat(timespec="seconds")) if moment else None
        rows = self._tables.rows("SELECT value FROM {state} WHERE base = %s AND key = %s", self._id, key)
        return plain(rows[0][0]) if rows else None

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the state."""
        with self._server.transaction() as cursor:
            self._tables.run(
                cursor,
                "INSERT INTO {state} VALUES (%s, %s, %s) ON CONFLICT (base, key) DO UPDATE SET value = excluded.value",
                self._id,
                key,
                escaped(value),
            )

    def counts(self) -> dict[str, int]:
        """How many files (with documents), documents and chunks there are."""
        found = self._tables.rows(
            "SELECT (SELECT count(DISTINCT file_id) FROM {documents} WHERE base = %s), "
            "(SELECT count(*) FROM {documents} WHERE base = %s), (SELECT count(*) FROM {chunks} WHERE base = %s)",
            *[self._id] * 3,
        )[0]
        return dict(zip(("files", "documents", "chunks"), map(int, found), strict=True))

    def counts_by_file(self) -> Iterator[tuple[str, int, int]]:
        """(source, documents, chunks) of the files with documents."""
        rows = self._tables.rows(
            "SELECT f.source, count(DISTINCT d.id), count(c.id) FROM {files} f "
            "JOIN {documents} d ON d.base = f.base AND d.file_id = f.id "
            "LEFT JOIN {chunks} c ON c.base = d.base AND c.document_id = d.id "
            "WHERE f.base = %s GROUP BY f.id, f.source",
            self._id,
        )
        yield from ((plain(source), documents, chunks) for source, documents, chunks in rows)

    def size(self) -> int:
        """Bytes of the rows as they are stored."""
        size = "SELECT sum(pg_column_size(r.*)) FROM {%s} r WHERE base = %%s"
        return sum(int(self._tables.rows(size % table, self._id)[0][0] or 0) for table in NAMES[1:])

    def flaws(self) -> Iterator[Flaw]:
        """Rows whose parent is missing, and ids beyond what was given out."""
        for table, parent, column in (("documents", "files", "file_id"), ("chunks", "documents", "document_id")):
            rows = self._tables.rows(
                f"SELECT id FROM {{{table}}} r WHERE base = %s AND NOT EXISTS "  # noqa: S608  constants
                f"(SELECT 1 FROM {{{parent}}} p WHERE p.base = r.base AND p.id = r.{column}) ORDER BY id LIMIT 20",
                self._id,
            )
            for (row,) in rows:
                text = t("store.orphan", table=table, row=row, parent=parent)
                yield Flaw("orphan", f"{self.place}: {table} {row}", text)
        for table, counter in (("files", "last_file"), ("documents", "last_document"), ("chunks", "last_chunk")):
            rows = self._tables.rows(
                f"SELECT max(r.id), b.{counter} FROM {{bases}} b JOIN {{{table}}} r ON r.base = b.id "  # noqa: S608
                f"WHERE b.id = %s GROUP BY b.{counter}",
                self._id,
            )
            if rows and rows[0][0] > rows[0][1]:
                text = t("store.counter", table=table, found=rows[0][0], counter=rows[0][1])
                yield Flaw("database", self.place, text)

    # --- files ---------------------------------------------------------------------------------------------------

    def files(self) -> dict[str, FileState]:
        """All files by source."""
        rows = self._tables.rows(
            "SELECT source, path, sha256, size, mtime_ns, ctime_ns, seen_ns, reasons FROM {files} WHERE base = %s",
            self._id,
        )
        states = [FileState(plain(row[0]), plain(row[1]), *row[2:7], tuple(json.loads(row[7]))) for row in rows]
        return {state.source: state for state in states}

    def files_without_documents(self) -> set[str]:
        """Sources of the files of which nothing could be read."""
        rows = self._tables.rows(
            "SELECT source FROM {files} f WHERE base = %s AND NOT EXISTS "
            "(SELECT 1 FROM {documents} d WHERE d.base = f.base AND d.file_id = f.id)",
            self._id,
        )
        return {plain(row[0]) for row in rows}

    def restamp(self, states: Iterable[FileState]) -> None:
        """New stamps of files whose content is the same."""
        statement = self._tables.named(
            "UPDATE {files} SET path = %s, mtime_ns = %s, ctime_ns = %s, seen_ns = %s "
            "WHERE base = %s AND md5(source) = md5(%s)"
        )
        rows = [(escaped(s.path), s.mtime_ns, s.ctime_ns, s.seen_ns, self._id, escaped(s.source)) for s in states]
        if rows:
            with self._server.transaction() as cursor:
                cursor.executemany(statement, rows)

    def put(self, files: Sequence[CutFile]) -> None:
        """Add or replace files with their documents and chunks: all of them or none."""
        if not files:
            return
        documents = [document for _, found in files for document in found]
        chunks = sum(len(cut) for _, cut in documents)
        with self._server.transaction() as cursor:
            file_id, document_id, chunk_id = self._numbers(cursor, len(files), len(documents), chunks)
            self._delete(cursor, [state.source for state, _ in files])
            new_files, new_documents, new_chunks = [], [], []
            for state, found in files:
                new_files.append(file_row(file_id, state))
                for document, cut in found:
                    new_documents.append(document_row(document_id, file_id, document))
                    new_chunks += chunk_rows(chunk_id, document_id, document, cut)
                    chunk_id, document_id = chunk_id + len(cut), document_id + 1
                file_id += 1
            for table, rows in (("files", new_files), ("documents", new_documents), ("chunks", new_chunks)):
                self._tables.copy(cursor, table, self._id, rows)

    def _numbers(self, cursor: Cursor[Any], files: int, documents: int, chunks: int) -> tuple[int, int, int]:
        """The first of so many new ids each, and the next generation; other writers wait until this one is done."""
        row = self._tables.run(
            cursor,
            "UPDATE {bases} SET last_file = last_file + %s, last_document = last_document + %s, "
            "last_chunk = last_chunk + %s, generation = generation + 1, changed = now() WHERE id = %s "
            "RETURNING last_file, last_document, last_chunk",
            files,
            documents,
            chunks,
            self._id,
        ).fetchone()
        if row is None:
            text = t("store.gone", place=self.place, base=self._id)
            raise BaseGoneError(text, hint=t("store.gone.hint", variable=self.config.variable))
        return row[0] - files + 1, row[1] - documents + 1, row[2] - chunks + 1

    def _delete(self, cursor: Cursor[Any], sources: Sequence[str]) -> None:
        named = [escaped(source) for source in sources]
        statement = "DELETE FROM {files} WHERE base = %s AND md5(source) IN (SELECT md5(s) FROM unnest(%s::text[]) s)"
        self._tables.run(cursor, statement, self._id, named)

    def remove(self, sources: Sequence[str], *, erase: bool = False) -> None:
        """Remove files with their documents and chunks: all of them or none.

        `erase` has the server free the space at once, as far as no older transaction still sees it; what stays in its
        files until that space is used again, in its log and in its backups, is the server's affair.
        """
        if not sources:
            return
        with self._server.transaction() as cursor:
            self._numbers(cursor, 0, 0, 0)
            self._delete(cursor, sources)
        if erase:
            self._server.vacuum([self._tables[name] for name in NAMES[2:]])

    def cut_again(self, cut: Callable[[Document], Sequence[Chunk]], fingerprint: str) -> None:
        """Replace the chunks of all documents by those of `cut(document)`, and remember the chunker's fingerprint."""
        with self._server.transaction() as cursor:
            self._numbers(cursor, 0, 0, 0)
            self._tables.run(cursor, "DELETE FROM {chunks} WHERE base = %s", self._id)
            ids = self._tables.run(
                cursor, "SELECT id FROM {documents} WHERE base = %s ORDER BY id", self._id
            ).fetchall()
            for begin in range(0, len(ids), _AT_ONCE):
                part = [row[0] for row in ids[begin : begin + _AT_ONCE]]
                found = [(number, document, cut(document)) for number, document, _ in self._documents(cursor, part)]
                first = self._more_chunks(cursor, sum(len(chunks) for _, _, chunks in found))
                rows: list[tuple[Any, ...]] = []
                for number, document, chunks in found:
                    rows += chunk_rows(first + len(rows), number, document, chunks)
                self._tables.copy(cursor, "chunks", self._id, rows)
            self.set_meta("chunker", fingerprint)

    def _more_chunks(self, cursor: Cursor[Any], count: int) -> int:
        statement = "UPDATE {bases} SET last_chunk = last_chunk + %s WHERE id = %s RETURNING last_chunk"
        row = self._tables.run(cursor, statement, count, self._id).fetchone() or (0,)
        return int(row[0]) - count + 1

    # --- documents and chunks ------------------------------------------------------------------------------------

    def documents(self) -> Iterator[StoredDocument]:
        """Each document, in the order in which they came; see `KnowledgeStore.documents`."""
        ids = [row[0] for row in self._tables.rows("SELECT id FROM {documents} WHERE base = %s ORDER BY id", self._id)]
        for begin in range(0, len(ids), _AT_ONCE):
            part = ids[begin : begin + _AT_ONCE]
            with self._server.transaction() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # one moment for both statements
                found = list(self._documents(cursor, part))
                chunks: dict[int, list[Chunk]] = {}
                rows = self._tables.run(
                    cursor,
                    'SELECT document_id, text, "start", "end", heading, metadata FROM {chunks} '
                    'WHERE base = %s AND document_id = ANY(%s) ORDER BY document_id, "start", id',
                    self._id,
                    part,
                )
                for number, text, start, end, heading, metadata in rows:
                    chunk = Chunk(plain(text), start, end, plain(heading), json.loads(metadata))
                    chunks.setdefault(number, []).append(chunk)
            for number, document, digest in found:
                yield StoredDocument(document, chunks.get(number, []), digest)

    def _documents(self, cursor: Cursor[Any], ids: Sequence[int]) -> list[tuple[int, Document, str]]:
        rows = self._tables.run(
            cursor,
            "SELECT id, text, source, title, metadata, sha256 FROM {documents} WHERE base = %s AND id = ANY(%s) "
            "ORDER BY id",
            self._id,
            list(ids),
        ).fetchall()
        return [
            (row[0], Document(plain(row[1]), plain(row[2]), plain(row[3]), json.loads(row[4])), row[5]) for row in rows
        ]

    def chunk_ids(self) -> set[int]:
        """Ids of all chunks."""
        return {row[0] for row in self._tables.rows("SELECT id FROM {chunks} WHERE base = %s", self._id)}

    def chunks(self, ids: Sequence[int]) -> Iterator[StoredChunk]:
        """The chunks of these ids in their order; those that are gone are left out."""
        for begin in range(0, len(ids), 1000):
            part = [int(item) for item in ids[begin : begin + 1000]]
            rows = self._tables.rows(
                'SELECT c.id, c.document_id, d.source, d.title, c.heading, c.text, c."start", c."end", c.line, '
                "d.metadata, c.metadata FROM {chunks} c JOIN {documents} d ON d.base = c.base AND d.id = c.document_id "
                "WHERE c.base = %s AND c.id = ANY(%s)",
                self._id,
                part,
            )
            found = {
                row[0]: StoredChunk(
                    *row[:2], *map(plain, row[2:6]), *row[6:9], {**json.loads(row[9]), **json.loads(row[10])}
                )
                for row in rows
            }
            yield from (found[chunk_id] for chunk_id in part if chunk_id in found)

    def metadata_names(self) -> set[str]:
        """What is known of documents and chunks, by name."""
        rows = self._tables.rows(
            "SELECT DISTINCT metadata FROM {documents} WHERE base = %s "
            "UNION SELECT DISTINCT metadata FROM {chunks} WHERE base = %s",
            self._id,
            self._id,
        )
        return {name for (metadata,) in rows for name in json.loads(metadata)}
