"""Where feedback is kept: one SQLite database, one transaction per judgement, 0600.

    entries      one row per judged answer, with the prompt, the answer and the sources beside it
    reflections  what a model wrote about entries; never mixed with what people say

An entry that `add` has returned for is on the disk; several processes may write at once.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luna_kernel.base import paths
from luna_kernel.base.durable import make_schema, open_database, transaction
from luna_kernel.base.errors import StorageError
from luna_kernel.base.messages import catalogue

from .entry import Entry

t = catalogue(__package__)

SCHEMA_VERSION = 1
FILE = "feedback.db"

_SCHEMA = (
    """CREATE TABLE entries (
        id TEXT PRIMARY KEY, created REAL NOT NULL, updated REAL NOT NULL, session_id TEXT NOT NULL,
        response_id TEXT NOT NULL, model TEXT NOT NULL, generator TEXT NOT NULL, prompt TEXT NOT NULL,
        answer TEXT NOT NULL, sources TEXT NOT NULL, verdict TEXT CHECK (verdict IN ('good', 'bad')),
        ratings TEXT NOT NULL, text TEXT NOT NULL, correction TEXT NOT NULL)""",
    "CREATE INDEX entries_by_time ON entries(created)",
    """CREATE TABLE reflections (
        id TEXT PRIMARY KEY, entry_id TEXT NOT NULL REFERENCES entries(id) ON DELETE CASCADE,
        created REAL NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL)""",
    "CREATE INDEX reflections_of_entry ON reflections(entry_id)",
)
_COLUMNS = (
    "id, created, session_id, response_id, model, generator, prompt, answer, sources, verdict, ratings, text, "
    "correction"
)


@dataclass(frozen=True)
class Reflection:
    """What a model wrote about an entry."""

    id: str
    entry_id: str
    created: float
    model: str
    text: str


class FeedbackStore:
    """The database of feedback.

    Args:
        path: the file; by default `feedback.db` in the data folder.

    Raises:
        StorageError: the folder cannot be written, or the file is of a newer or foreign kind.
        IntegrityError: the file is damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or paths.data_dir() / FILE
        self._connection = open_database(self.path, private=True, any_thread=True)
        try:
            # What is deleted is overwritten: it may be what somebody wants forgotten.
            self._connection.execute("PRAGMA secure_delete = ON").fetchall()
            make_schema(self._connection, self.path, _SCHEMA, SCHEMA_VERSION)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the database; nothing is pending."""
        self._connection.close()

    def __enter__(self) -> FeedbackStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- writing -------------------------------------------------------------------------------------------------

    def add(self, entry: Entry) -> Entry:
        """Keep an entry; one that is there under its id is amended. Returns what is kept now."""
        with transaction(self._connection):
            former = self.get(entry.id)
            whole = entry if former is None else former.amended(entry)
            self._put(whole)
        return whole

    def add_new(self, entries: Iterable[Entry]) -> int:
        """Keep those whose id is not there yet, all or none; returns how many."""
        count = 0
        with transaction(self._connection):
            for entry in entries:
                if self.get(entry.id) is None:
                    self._put(entry)
                    count += 1
        return count

    def _put(self, entry: Entry) -> None:
        self._connection.execute(
            f"INSERT INTO entries ({_COLUMNS}, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608
            "ON CONFLICT (id) DO UPDATE SET verdict = excluded.verdict, ratings = excluded.ratings, "
            "text = excluded.text, correction = excluded.correction, prompt = excluded.prompt, "
            "answer = excluded.answer, sources = excluded.sources, updated = excluded.updated",
            (
                entry.id, entry.created, entry.session_id, entry.response_id, entry.model, entry.generator,
                _dump(entry.prompt), entry.answer, _dump(entry.sources), entry.verdict, _dump(entry.ratings),
                entry.text, entry.correction, time.time(),
            ),
        )  # fmt: skip

    def rewrite(self, change: Callable[[Entry], Entry], reflected: Callable[[str], str]) -> int:
        """Replace every entry and every reflection on one, all or none; returns how many are other than before.

        Args:
            change: makes an entry of an entry.
            reflected: makes the text of a reflection of its text: it may quote the entry.

        Raises:
            StorageError: the disk refuses; if it says so, all is replaced, and older bytes are still in the file.
        """
        with transaction(self._connection) as connection:
            changed = [new for old in self.entries() if (new := change(old)) != old]
            for entry in changed:
                self._put(entry)
            others = [(new, item.id) for item in self.reflections() if (new := reflected(item.text)) != item.text]
            connection.executemany("UPDATE reflections SET text = ? WHERE id = ?", others)
        self._forget()
        return len(changed) + len(others)

    def delete(self, *, ids: Iterable[str] = (), session: str | None = None, everything: bool = False) -> int:
        """Delete entries with the reflections on them, also from the file's free pages; returns how many.

        Raises:
            StorageError: the disk refuses; if it says so, they are deleted, and older bytes are still in the file.
        """
        with transaction(self._connection) as connection:
            before = len(self)
            if everything:
                connection.execute("DELETE FROM entries")
            connection.executemany("DELETE FROM entries WHERE id = ?", [(name,) for name in ids])
            if session is not None:
                connection.execute("DELETE FROM entries WHERE session_id = ?", (session,))
            gone = before - len(self)
        self._forget()
        return gone

    def _forget(self) -> None:
        """Leave no older bytes in the file or in its log."""
        import sqlite3

        try:
            self._connection.execute("VACUUM")  # takes as much room again as the file
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.OperationalError as error:
            text = t("forget.failed", path=self.path, reason=str(error))
            raise StorageError(text, hint=t("forget.failed.hint")) from error

    def add_reflection(self, entry_id: str, *, model: str, text: str) -> str:
        """Keep what `model` wrote about an entry; returns the reflection's id."""
        name = str(uuid.uuid4())
        with transaction(self._connection) as connection:
            connection.execute(
                "INSERT INTO reflections (id, entry_id, created, model, text) VALUES (?, ?, ?, ?, ?)",
                (name, entry_id, time.time(), model, text),
            )
        return name

    # --- reading -------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM entries").fetchone()[0])

    def get(self, name: str) -> Entry | None:
        """The entry of that id."""
        row = self._connection.execute(f"SELECT {_COLUMNS} FROM entries WHERE id = ?", (name,)).fetchone()  # noqa: S608
        return None if row is None else _entry(row)

    def entries(self, since: float = 0.0) -> list[Entry]:
        """Those that are not older than `since` (seconds since 1970), oldest first."""
        rows = self._connection.execute(
            f"SELECT {_COLUMNS} FROM entries WHERE created >= ? ORDER BY created, id",  # noqa: S608
            (since,),
        )
        return [_entry(row) for row in rows.fetchall()]

    def reflections(self) -> list[Reflection]:
        """All, oldest first."""
        rows = self._connection.execute(
            "SELECT id, entry_id, created, model, text FROM reflections ORDER BY created, id"
        )
        return [Reflection(*row) for row in rows.fetchall()]


@contextlib.contextmanager
def opened() -> Iterator[FeedbackStore]:
    """The store of this user, closed at the end of the block."""
    store = FeedbackStore()
    try:
        yield store
    finally:
        store.close()


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry(
        id=row[0],
        created=row[1],
        session_id=row[2],
        response_id=row[3],
        model=row[4],
        generator=row[5],
        prompt=tuple(json.loads(row[6])),
        answer=row[7],
        sources=tuple(json.loads(row[8])),
        verdict=row[9],
        ratings=json.loads(row[10]),
        text=row[11],
        correction=row[12],
    )
