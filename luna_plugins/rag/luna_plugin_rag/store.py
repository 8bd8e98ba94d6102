"""The truth of a knowledge base: files, documents, chunks and state, in one SQLite database.

Ids of chunks are never used twice and a chunk never changes under its id, so an index knows from the ids alone what it
lacks and what it has too much. Every change of the chunks raises the `generation` in the same transaction.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from luna_kernel.base import durable
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import Chunk, Document

t = catalogue(__package__)

FORMAT = 1
DATABASE = "knowledge.sqlite"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT NOT NULL UNIQUE, path TEXT NOT NULL, sha256 TEXT NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, seen_ns INTEGER NOT NULL,
    reasons TEXT NOT NULL);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, file_id INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
    source TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL, metadata TEXT NOT NULL,
    sha256 TEXT NOT NULL DEFAULT '');
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document_id INTEGER NOT NULL REFERENCES documents (id) ON DELETE CASCADE,
    start INTEGER NOT NULL, "end" INTEGER NOT NULL, line INTEGER NOT NULL, heading TEXT NOT NULL, text TEXT NOT NULL,
    metadata TEXT NOT NULL);
CREATE INDEX documents_of_file ON documents (file_id);
CREATE INDEX chunks_of_document ON chunks (document_id);
"""
_FILE_COLUMNS = "source, path, sha256, size, mtime_ns, ctime_ns, seen_ns, reasons"


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


class Store:
    """One open database.

    Raises:
        UsageError: it is of a newer format, or no knowledge base.
        IntegrityError: it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / DATABASE
        self.connection = durable.open_database(self.path, any_thread=True)
        try:
            self._prepare()
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self) -> None:
        tables = {name for (name,) in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            with durable.transaction(self.connection):
                # Another process may have made the tables while we waited for the transaction.
                if not self.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    for statement in _SCHEMA.split(";"):
                        self.connection.execute(statement)
                    state = {"format": FORMAT, "id": secrets.token_hex(16), "generation": 0, "created": _now()}
                    for key, value in state.items():
                        self.connection.execute("INSERT INTO meta VALUES (?, ?)", (key, str(value)))
        elif "meta" not in tables:
            raise UsageError(t("kb.foreign", path=self.path), hint=t("kb.foreign.hint"))
        found = self.meta("format") or "?"
        if not found.isdigit() or int(found) > FORMAT:
            raise UsageError(t("kb.newer", path=self.path, found=found, expected=FORMAT), hint=t("kb.newer.hint"))
        if tables and "sha256" not in {row[1] for row in self.connection.execute("PRAGMA table_info(documents)")}:
            with durable.transaction(self.connection) as connection:
                # Again inside the transaction: another process may have done it meanwhile.
                if "sha256" not in {row[1] for row in connection.execute("PRAGMA table_info(documents)")}:
                    connection.execute("ALTER TABLE documents ADD COLUMN sha256 TEXT NOT NULL DEFAULT ''")

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    # --- state ---------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
        """A value of the state, or None."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the state."""
        with durable.transaction(self.connection):
            self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def id(self) -> str:
        """What tells this knowledge base from all others."""
        return self.meta("id") or ""

    @property
    def generation(self) -> int:
        """Grows with every change of the chunks."""
        return int(self.meta("generation") or 0)

    def _next_generation(self) -> None:
        self.connection.execute("UPDATE meta SET value = CAST(value AS INTEGER) + 1 WHERE key = 'generation'")
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('changed', ?)", (_now(),))

    def counts(self) -> dict[str, int]:
        """How many files (with documents), documents and chunks there are."""
        queries = {
            "files": "SELECT count(DISTINCT file_id) FROM documents",
            "documents": "SELECT count(*) FROM documents",
            "chunks": "SELECT count(*) FROM chunks",
        }
        return {name: int(self.connection.execute(query).fetchone()[0]) for name, query in queries.items()}

    # --- files ---------------------------------------------------------------------------------------------------

    def files(self) -> dict[str, FileState]:
        """All files by source."""
        found = {}
        for row in self.connection.execute(f"SELECT {_FILE_COLUMNS} FROM files"):  # noqa: S608  a constant
            source, path, sha256, size, mtime_ns, ctime_ns, seen_ns, reasons = row
            stamps = (size, mtime_ns, ctime_ns, seen_ns)
            found[source] = FileState(source, path, sha256, *stamps, tuple(json.loads(reasons)))
        return found

    def files_without_documents(self) -> set[str]:
        """Sources of the files of which nothing could be read."""
        query = "SELECT source FROM files WHERE id NOT IN (SELECT file_id FROM documents)"
        return {row[0] for row in self.connection.execute(query)}

    def restamp(self, states: Iterable[FileState]) -> None:
        """New stamps of files whose content is the same."""
        with durable.transaction(self.connection):
            self.connection.executemany(
                "UPDATE files SET path = ?, mtime_ns = ?, ctime_ns = ?, seen_ns = ? WHERE source = ?",
                [(s.path, s.mtime_ns, s.ctime_ns, s.seen_ns, s.source) for s in states],
            )

    def put(self, files: Sequence[tuple[FileState, Sequence[tuple[Document, Sequence[Chunk]]]]]) -> None:
        """Add or replace files with their documents and chunks: all of them or none."""
        if not files:
            return
        with durable.transaction(self.connection) as connection:
            for state, documents in files:
                connection.execute("DELETE FROM files WHERE source = ?", (state.source,))
                cursor = connection.execute(
                    f"INSERT INTO files ({_FILE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608  a constant
                    (
                        state.source, state.path, state.sha256, state.size, state.mtime_ns, state.ctime_ns,
                        state.seen_ns, json.dumps(state.reasons, ensure_ascii=False),
                    ),
                )  # fmt: skip
                for document, chunks in documents:
                    self._put_document(int(cursor.lastrowid or 0), document, chunks)
            self._next_generation()

    def _put_document(self, file_id: int, document: Document, chunks: Sequence[Chunk]) -> None:
        cursor = self.connection.execute(
            "INSERT INTO documents (file_id, source, title, text, metadata, sha256) VALUES (?, ?, ?, ?, ?, ?)",
            (
                file_id,
                document.source,
                document.title,
                document.text,
                _json(document.metadata),
                text_hash(document.text),
            ),
        )
        self._put_chunks(int(cursor.lastrowid or 0), document, chunks)

    def _put_chunks(self, document_id: int, document: Document, chunks: Sequence[Chunk]) -> None:
        fixed = document.metadata.get("line")
        line, at = 1, 0
        rows = []
        for chunk in chunks:
            line += document.text.count("\n", at, chunk.start)
            at = chunk.start
            where = fixed if isinstance(fixed, int) else line
            metadata = _json(chunk.metadata)
            rows.append((document_id, chunk.start, chunk.end, where, chunk.heading, chunk.text, metadata))
        self.connection.executemany(
            'INSERT INTO chunks (document_id, start, "end", line, heading, text, metadata) '
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def remove(self, sources: Sequence[str], *, erase: bool = False) -> None:
        """Remove files with their documents and chunks: all of them or none.

        Args:
            sources: of the files; unknown ones are ignored.
            erase: overwrite what was theirs in the database file, instead of leaving it until it is used again.
        """
        if not sources:
            return
        if erase:
            self.connection.execute("PRAGMA secure_delete = ON")
        with durable.transaction(self.connection):
            self.connection.executemany("DELETE FROM files WHERE source = ?", [(source,) for source in sources])
            self._next_generation()
        if erase:
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def cut_again(self, cut: Any, fingerprint: str) -> None:
        """Replace the chunks of all documents by those of `cut(document)`, and remember the chunker's fingerprint."""
        with durable.transaction(self.connection):
            self.connection.execute("DELETE FROM chunks")
            rows = self.connection.execute("SELECT id, text, source, title, metadata FROM documents").fetchall()
            for document_id, text, source, title, metadata in rows:
                document = Document(text, source, title, json.loads(metadata))
                self._put_chunks(document_id, document, cut(document))
            self._next_generation()
            self.set_meta("chunker", fingerprint)

    # --- chunks --------------------------------------------------------------------------------------------------

    def chunks_that(self, holds: Callable[[StoredChunk], bool]) -> set[int]:
        """Ids of the chunks for which `holds` is true."""
        ids = sorted(self.chunk_ids())
        return {chunk.id for chunk in self.chunks(ids) if holds(chunk)}

    def metadata_names(self) -> set[str]:
        """What is known of documents and chunks, by name."""
        found = self.connection.execute(
            "SELECT DISTINCT key FROM documents, json_each(documents.metadata) "
            "UNION SELECT DISTINCT key FROM chunks, json_each(chunks.metadata)"
        )
        return {str(row[0]) for row in found}

    def chunk_ids(self) -> set[int]:
        """Ids of all chunks."""
        return {row[0] for row in self.connection.execute("SELECT id FROM chunks")}

    def texts(self, ids: Sequence[int]) -> Iterator[tuple[int, str]]:
        """(id, text to index) of chunks in the order of their ids: title and headings stand before the text."""
        for chunk in self.chunks(sorted(ids)):
            context = [part for part in (chunk.title, chunk.heading) if part and part not in chunk.text]
            yield chunk.id, "\n".join([*context, chunk.text])

    def chunks(self, ids: Sequence[int]) -> Iterator[StoredChunk]:
        """The chunks of these ids in their order; those that are gone are left out."""
        for begin in range(0, len(ids), 500):
            part = list(ids[begin : begin + 500])
            marks = ",".join("?" * len(part))
            rows = self.connection.execute(
                f"""SELECT c.id, c.document_id, d.source, d.title, c.heading, c.text, c.start, c."end", c.line,
                    c.metadata, d.metadata FROM chunks c JOIN documents d ON d.id = c.document_id
                    WHERE c.id IN ({marks})""",  # noqa: S608  question marks only
                part,
            ).fetchall()
            found: dict[int, StoredChunk] = {}
            for *fields, of_chunk, of_document in rows:
                number, document_id, source, title, heading, text, start, end, line = fields
                metadata = {**json.loads(of_document), **json.loads(of_chunk)}
                place = (text, start, end, line, metadata)
                found[number] = StoredChunk(number, document_id, source, title, heading, *place)
            yield from (found[chunk_id] for chunk_id in part if chunk_id in found)

    def whole_documents(self) -> Iterator[tuple[Document, list[Chunk]]]:
        """Each document with its chunks, for checks and exports."""
        rows = self.connection.execute("SELECT id, text, source, title, metadata FROM documents ORDER BY id").fetchall()
        for document_id, text, source, title, metadata in rows:
            chunks = self.connection.execute(
                'SELECT text, start, "end", heading, metadata FROM chunks WHERE document_id = ? ORDER BY start',
                (document_id,),
            ).fetchall()
            yield (
                Document(text, source, title, json.loads(metadata)),
                [Chunk(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in chunks],
            )


def text_hash(text: str) -> str:
    """SHA-256 of a document's text in UTF-8, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
