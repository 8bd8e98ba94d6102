"""The knowledge store `sqlite`: files, documents, chunks and state in one SQLite database in the folder itself."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path

from luna_kernel.base import durable
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.data import Chunk, Document
from luna_kernel.contracts.knowledge import (
    CutFile,
    FileState,
    Flaw,
    KnowledgeStore,
    StoredChunk,
    StoredDocument,
    lines_of,
    text_hash,
)

t = catalogue(__package__)

FORMAT = 1
DATABASE, LOCK = "knowledge.sqlite", "lock"

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


class SqliteStore(KnowledgeStore):
    """One open database; see `KnowledgeStore`. The folder holds one knowledge base, whose id is in the database."""

    def __init__(self, config: None, folder: Path, base: str | None = None) -> None:
        self.path = folder / DATABASE
        self.place = DATABASE
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

    def discard(self) -> None:
        """See `KnowledgeStore.discard`: all of it lies in the folder."""
        self.close()

    def lock(self, *, wait: float = 0.0) -> AbstractContextManager[None]:
        """See `KnowledgeStore.lock`: a file beside the database."""
        return durable.lock(self.path.with_name(LOCK), wait=wait)

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

    def counts_by_file(self) -> Iterator[tuple[str, int, int]]:
        """(source, documents, chunks) of the files with documents."""
        yield from self.connection.execute(
            "SELECT f.source, count(DISTINCT d.id), count(c.id) FROM files f JOIN documents d ON d.file_id = f.id "
            "LEFT JOIN chunks c ON c.document_id = d.id GROUP BY f.id"
        ).fetchall()

    def size(self) -> int:
        """Bytes of the database with its write-ahead log."""
        return sum(path.stat().st_size for path in self.path.parent.glob(f"{DATABASE}*"))

    def flaws(self) -> Iterator[Flaw]:
        """Damaged pages, and rows whose parent is missing."""
        for (verdict,) in self.connection.execute("PRAGMA integrity_check(20)"):
            if verdict != "ok":
                yield Flaw("database", self.place, t("verify.pages", reason=verdict))
        for table, row, parent, _ in self.connection.execute("PRAGMA foreign_key_check"):
            yield Flaw(
                "orphan", f"{self.place}: {table} {row}", t("verify.orphan", table=table, row=row, parent=parent)
            )

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

    def put(self, files: Sequence[CutFile]) -> None:
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
        rows = [
            (document_id, chunk.start, chunk.end, line, chunk.heading, chunk.text, _json(chunk.metadata))
            for chunk, line in zip(chunks, lines_of(document, chunks), strict=True)
        ]
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

    def cut_again(self, cut: Callable[[Document], Sequence[Chunk]], fingerprint: str) -> None:
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

    def documents(self) -> Iterator[StoredDocument]:
        """Each document, in the order in which they came; see `KnowledgeStore.documents`."""
        ids = [row[0] for row in self.connection.execute("SELECT id FROM documents ORDER BY id")]
        for document_id in ids:
            rows = self.connection.execute(  # one statement sees one moment
                'SELECT d.text, d.source, d.title, d.metadata, d.sha256, c.text, c.start, c."end", c.heading, '
                "c.metadata FROM documents d LEFT JOIN chunks c ON c.document_id = d.id WHERE d.id = ? "
                "ORDER BY c.start",
                (document_id,),
            ).fetchall()
            if rows:
                text, source, title, metadata, digest = rows[0][:5]
                chunks = [Chunk(*row[5:9], json.loads(row[9])) for row in rows if row[5] is not None]
                yield StoredDocument(Document(text, source, title, json.loads(metadata)), chunks, digest)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
