"""Where conversations are kept: one SQLite database, one transaction per turn, 0600.

A turn that `add_turn` has returned for is on the disk; several processes may write at once.

    sessions   one row per conversation, with the name that `/save` gave it
    turns      one row per question: how it was answered (generator, sampling, timings, citations)
    messages   what was said, in order: rows of role `user` and `assistant`
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luna_kernel.base import paths
from luna_kernel.base.durable import make_schema, open_database, transaction
from luna_kernel.base.errors import UsageError
from luna_kernel.base.messages import catalogue
from luna_kernel.contracts.chat import Citation, Passage, Sampling, Turn
from luna_kernel.data.portuguese import fold

if TYPE_CHECKING:
    import sqlite3

t = catalogue(__package__)

SCHEMA_VERSION = 1

_SCHEMA = (
    """CREATE TABLE sessions (
        id TEXT PRIMARY KEY, name TEXT UNIQUE, model TEXT NOT NULL, plugins TEXT NOT NULL,
        created REAL NOT NULL, updated REAL NOT NULL)""",
    """CREATE TABLE turns (
        id INTEGER PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
        created REAL NOT NULL, model TEXT NOT NULL, generator TEXT NOT NULL, persona TEXT, stop_reason TEXT NOT NULL,
        sampling TEXT NOT NULL, usage TEXT NOT NULL, timings TEXT NOT NULL, citations TEXT NOT NULL,
        passages TEXT NOT NULL, searched INTEGER NOT NULL, notes TEXT NOT NULL)""",
    "CREATE INDEX turns_of_session ON turns(session_id, id)",
    """CREATE TABLE messages (
        id INTEGER PRIMARY KEY, turn_id INTEGER NOT NULL REFERENCES turns(id) ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('user', 'assistant')), content TEXT NOT NULL, thinking TEXT)""",
    "CREATE INDEX messages_of_turn ON messages(turn_id, id)",
)


@dataclass(frozen=True)
class StoredSession:
    """A conversation as `/load` and lists show it."""

    id: str
    name: str | None
    model: str
    plugins: str
    created: float
    """Seconds since 1970, as `updated`."""
    updated: float
    num_turns: int
    first_query: str


class SessionStore:
    """The database of conversations.

    Args:
        path: the file; by default `sessions.db` in the data folder.

    Raises:
        StorageError: the folder cannot be written, or the file is of a newer or foreign kind.
        IntegrityError: the file is damaged.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or paths.data_dir() / "sessions.db"
        self._lock = threading.Lock()
        self._connection = open_database(self.path, private=True, any_thread=True)
        try:
            make_schema(self._connection, self.path, _SCHEMA, SCHEMA_VERSION)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the database; nothing is pending, every turn was committed."""
        with self._lock:
            self._connection.close()

    def add_turn(
        self, session_id: str, turn: Turn, *, model: str, plugins: str = "", persona: str | None = None
    ) -> int:
        """Keep one turn; returns its id. The session's row is made with its first turn."""
        now = time.time()
        with self._lock, transaction(self._connection) as connection:
            connection.execute(
                "INSERT INTO sessions (id, model, plugins, created, updated) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET updated = excluded.updated",
                (session_id, model, plugins, now, now),
            )
            cursor = connection.execute(
                "INSERT INTO turns (session_id, created, model, generator, persona, stop_reason, sampling, usage, "
                "timings, citations, passages, searched, notes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    session_id,
                    now,
                    model,
                    turn.generator,
                    persona,
                    turn.stop_reason,
                    _dump(asdict(turn.sampling)),
                    _dump(turn.usage),
                    _dump(turn.timings),
                    _dump([asdict(item) for item in turn.citations]),
                    _dump([asdict(item) for item in turn.passages]),
                    int(turn.searched),
                    _dump(turn.notes),
                ),
            )
            turn_id = cursor.lastrowid
            assert turn_id is not None
            turn.created = now
            connection.executemany(
                "INSERT INTO messages (turn_id, role, content, thinking) VALUES (?, ?, ?, ?)",
                [(turn_id, "user", turn.query, None), (turn_id, "assistant", turn.answer, turn.thinking or None)],
            )
        return turn_id

    def turns(self, session_id: str) -> list[Turn]:
        """The turns of one conversation, oldest first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT t.generator, t.stop_reason, t.sampling, t.usage, t.timings, t.citations, t.passages, "
                "t.searched, t.notes, q.content, a.content, a.thinking, t.id, t.created FROM turns t "
                "JOIN messages q ON q.turn_id = t.id AND q.role = 'user' "
                "JOIN messages a ON a.turn_id = t.id AND a.role = 'assistant' "
                "WHERE t.session_id = ? ORDER BY t.id",
                (session_id,),
            ).fetchall()
        return [_turn(row) for row in rows]

    def remove_turn(self, turn_id: int) -> None:
        """Take one turn out; a conversation without turns goes with its last one."""
        with self._lock, transaction(self._connection) as connection:
            row = connection.execute("SELECT session_id FROM turns WHERE id = ?", (turn_id,)).fetchone()
            if row is None:
                return
            connection.execute("DELETE FROM turns WHERE id = ?", (turn_id,))
            connection.execute(
                "DELETE FROM sessions WHERE id = ? AND name IS NULL AND NOT EXISTS "
                "(SELECT 1 FROM turns WHERE session_id = sessions.id)",
                row,
            )

    def remove_session(self, session_id: str) -> None:
        """Take a conversation out, with all its turns."""
        with self._lock, transaction(self._connection) as connection:
            connection.execute("DELETE FROM sessions WHERE id = ?", (session_id,))

    def search(self, text: str) -> list[tuple[StoredSession, Turn]]:
        """The turns that hold every word of `text`, accents and case left aside, the newest first."""
        wanted = fold(text).split()
        found = []
        for session in self.sessions() if wanted else ():
            for turn in self.turns(session.id):
                said = fold(f"{turn.query}\n{turn.answer}")
                if all(word in said for word in wanted):
                    found.append((session, turn))
        return sorted(found, key=lambda pair: -pair[1].created)

    def set_name(self, session_id: str, name: str) -> None:
        """Give a conversation a name, so that `/load NAME` finds it.

        Raises:
            UsageError: the name is unsafe or another conversation's, or the conversation has no turn yet.
        """
        if not paths.is_safe_name(name):
            raise UsageError(t("store.bad_name", name=name[:80]), hint=t("store.bad_name.hint"))
        with self._lock, transaction(self._connection) as connection:
            row = connection.execute("SELECT id FROM sessions WHERE name = ?", (name,)).fetchone()
            if row is not None and row[0] != session_id:
                raise UsageError(t("store.name_taken", name=name), hint=t("store.name_taken.hint", name=name))
            changed = connection.execute("UPDATE sessions SET name = ? WHERE id = ?", (name, session_id)).rowcount
        if not changed:
            raise UsageError(t("store.empty"))

    def find(self, name: str) -> StoredSession:
        """The conversation of that name, or whose id begins so (eight characters or more).

        Raises:
            UsageError: there is none; names the nearest ones.
        """
        sessions = self.sessions()
        for session in sessions:
            if name in (session.name, session.id):
                return session
        if len(name) >= 8:
            begun = [session for session in sessions if session.id.startswith(name)]
            if len(begun) == 1:
                return begun[0]
        known = [session.name for session in sessions if session.name]
        hint = t("store.known", names=", ".join(known[:10])) if known else t("store.none_saved")
        raise UsageError(t("store.unknown", name=name[:80]), hint=hint)

    def sessions(self) -> list[StoredSession]:
        """All conversations, the last used first."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT s.id, s.name, s.model, s.plugins, s.created, s.updated, count(t.id), "
                "coalesce((SELECT content FROM messages m JOIN turns u ON u.id = m.turn_id "
                "WHERE u.session_id = s.id AND m.role = 'user' ORDER BY m.id LIMIT 1), '') "
                "FROM sessions s LEFT JOIN turns t ON t.session_id = s.id GROUP BY s.id ORDER BY s.updated DESC"
            ).fetchall()
        return [StoredSession(*row) for row in rows]


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)


def _known(kind: type[Any], data: dict[str, Any]) -> dict[str, Any]:
    """Only the fields that `kind` has: a database of another minor version may know more."""
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in data.items() if key in names}


def _passage(data: dict[str, Any]) -> Passage:
    passage = Passage(**_known(Passage, data))
    return replace(passage, page_starts=tuple(passage.page_starts))


def _turn(row: sqlite3.Row | tuple[Any, ...]) -> Turn:
    sampling = _known(Sampling, json.loads(row[2]))
    sampling["stop"] = tuple(sampling.get("stop", ()))
    return Turn(
        query=row[9],
        answer=row[10],
        thinking=row[11] or "",
        generator=row[0],
        stop_reason=row[1],
        sampling=Sampling(**sampling),
        usage=json.loads(row[3]),
        timings=json.loads(row[4]),
        citations=[Citation(**_known(Citation, item)) for item in json.loads(row[5])],
        passages=[_passage(item) for item in json.loads(row[6])],
        searched=bool(row[7]),
        notes=json.loads(row[8]),
        stored=row[12],
        created=row[13],
    )
