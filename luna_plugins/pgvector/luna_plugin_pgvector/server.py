"""The server: where it is, how it is asked, and what people read when it refuses.

Values reach it as parameters, names as quoted identifiers; no SQL is put together from anything else. The password
stays in the connection string: it is in no message, no log and no file of Luna's.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from luna_kernel.base.errors import LunaError, StorageError, UsageError
from luna_kernel.base.messages import catalogue

t = catalogue(__package__)

VARIABLE = "LUNA_PGVECTOR_DSN"
_LOCK = 4_806_611
"""Of the transactions that make tables: two that make the same at once fail even with IF NOT EXISTS."""


def dsn(variable: str = VARIABLE) -> str:
    """The connection string: from the environment, else from `[plugin.pgvector] dsn`; empty leaves all to libpq.

    Raises:
        UsageError: it is none.
    """
    found = os.environ.get(variable, "")
    if not found:
        from luna_kernel.base.settings import Settings

        found = str(Settings().plugins_config.get("pgvector", {}).get("dsn", ""))
    try:
        conninfo_to_dict(found)
    except psycopg.Error:  # its own text would repeat the string, password and all
        raise UsageError(t("dsn.bad"), hint=t("dsn.hint", variable=variable)) from None
    return found


def place(text: str) -> str:
    """`host:port/database` of a connection string, without user and password."""
    fields = conninfo_to_dict(text)
    host = fields.get("host") or fields.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
    port = fields.get("port") or os.environ.get("PGPORT") or "5432"
    name = fields.get("dbname") or os.environ.get("PGDATABASE") or "postgres"
    return f"{host}:{port}/{name}"


class Server:
    """One connection, opened when it is first needed and again when it was lost; one thread at a time uses it.

    Args:
        schema: where the tables are.
        variable: of the environment, with the connection string.
    """

    def __init__(self, schema: str, variable: str = VARIABLE) -> None:
        self.schema = schema
        self._variable = variable
        self._connection: psycopg.Connection[Any] | None = None
        self._turn = threading.RLock()
        self._kept: set[int] = set()
        self._holds = False
        """Whether a lock of the server's hangs on this very connection."""

    @property
    def place(self) -> str:
        """`host:port/database`."""
        return place(dsn(self._variable))

    def name(self, table: str) -> sql.Identifier:
        """A table of Luna's, quoted."""
        return sql.Identifier(self.schema, table)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """All of the block or nothing; what it did is on the server's disk when it ends.

        Inside another one it is a part of that, undone alone if it fails.

        Raises:
            UsageError: no server answers, or it lets nobody in; a permission is missing.
            StorageError: the server refused, or went away.
        """
        with self._turn:
            text = dsn(self._variable)
            connection = self._connected(text)
            try:
                with connection.transaction(), connection.cursor() as cursor:
                    yield cursor
            except LunaError:
                raise
            except psycopg.errors.InsufficientPrivilege as error:
                raise self._refused(UsageError, error, text, t("server.permission.hint")) from None
            except psycopg.Error as error:
                raise self._refused(StorageError, error, text, t("server.refused.hint")) from None

    def _connected(self, text: str) -> psycopg.Connection[Any]:
        if self._connection is not None and (self._connection.closed or _is_lost(self._connection)):
            self._connection.close()
            self._connection = None
        if self._connection is None:
            if self._holds:  # the lock went with the connection: another may be writing now
                raise StorageError(t("server.lost", place=place(text)), hint=t("server.refused.hint"))
            try:
                self._connection = psycopg.connect(
                    text, connect_timeout=10, application_name="luna", client_encoding="utf8"
                )
            except psycopg.Error as error:
                reason = _without_secrets(str(error), text)
                raise UsageError(
                    t("server.unreachable", place=place(text), reason=reason),
                    hint=t("dsn.hint", variable=self._variable),
                ) from None
            if self._kept:
                self._share(self._connection, sorted(self._kept))
        return self._connection

    @staticmethod
    def _share(connection: psycopg.Connection[Any], keys: Sequence[int]) -> None:
        with connection.transaction():
            connection.execute("SELECT pg_advisory_lock_shared(k) FROM unnest(%s::bigint[]) k", (list(keys),))

    def keep(self, key: int) -> None:
        """Tell others, as long as this object is connected, that something is in use: see `is_kept`."""
        with self._turn, self.transaction() as cursor:
            if key not in self._kept:
                cursor.execute("SELECT pg_advisory_lock_shared(%s)", (key,))
                self._kept.add(key)

    def is_kept(self, cursor: psycopg.Cursor[Any], key: int) -> bool:
        """Whether another connection keeps `key`; if not, none can until the transaction ends."""
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s)", (key,))
        return not (cursor.fetchone() or (False,))[0]

    def _refused(self, kind: type[LunaError], error: psycopg.Error, text: str, hint: str) -> LunaError:
        return kind(t("server.refused", place=place(text), reason=_without_secrets(str(error), text)), hint=hint)

    @contextlib.contextmanager
    def lock(self, key: int, *, wait: float) -> Iterator[None]:
        """Hold the server's advisory lock `key`; a connection that is lost loses it, and every transaction then fails.

        Args:
            key: 64 bits with a sign.
            wait: seconds to wait for another holder.

        Raises:
            UsageError: another holds it.
        """
        deadline = time.monotonic() + wait
        while not self._try_lock(key):
            if time.monotonic() >= deadline:
                raise UsageError(t("lock.held", place=self.place), hint=t("lock.held.hint"))
            time.sleep(0.05)
        try:
            yield
        finally:
            with contextlib.suppress(LunaError), self.transaction() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", (key,))
            self._holds = False

    def _try_lock(self, key: int) -> bool:
        with self.transaction() as cursor:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (key,))
            self._holds = bool((cursor.fetchone() or (False,))[0])
        return self._holds

    def make_schema(self, cursor: psycopg.Cursor[Any]) -> None:
        """The schema, if it is missing; until the transaction ends no other makes tables."""
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (self.schema,))
        if cursor.fetchone() is None:  # IF NOT EXISTS would ask for the right to make schemas all the same
            cursor.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(self.schema)))

    def has_table(self, cursor: psycopg.Cursor[Any], table: str) -> bool:
        """Whether a table of Luna's is there."""
        cursor.execute("SELECT to_regclass(%s)", (f'"{self.schema}"."{table}"',))
        return (cursor.fetchone() or (None,))[0] is not None

    def need(self, cursor: psycopg.Cursor[Any], extension: str) -> str:
        """Switch an extension of the server on, and say in which schema its types and functions are.

        Raises:
            UsageError: the server has not got it.
        """
        if not self.has(cursor, extension):
            text = t("extension.missing", extension=extension, place=self.place)
            raise UsageError(text, hint=t("extension.missing.hint"))
        found = self.schema_of(cursor, extension)
        if found is None:
            cursor.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(extension)))
            found = self.schema_of(cursor, extension)
        return found or "public"

    def has(self, cursor: psycopg.Cursor[Any], extension: str) -> bool:
        """Whether the server could switch an extension on."""
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", (extension,))
        return cursor.fetchone() is not None

    def schema_of(self, cursor: psycopg.Cursor[Any], extension: str) -> str | None:
        """The schema of an extension that is on; None where it is off."""
        cursor.execute(
            "SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = %s",
            (extension,),
        )
        row = cursor.fetchone()
        return None if row is None else str(row[0])

    def vacuum(self, tables: Sequence[sql.Identifier]) -> None:
        """Have the server free the space of deleted rows; if it cannot now, it does so later by itself."""
        with self._turn, contextlib.suppress(psycopg.Error):
            connection = self._connected(dsn(self._variable))
            connection.autocommit = True
            try:
                for table in tables:
                    connection.execute(sql.SQL("VACUUM {}").format(table))
            finally:
                connection.autocommit = False

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; the next transaction opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def lock_key(name: str) -> int:
    """The server's lock of something: 64 bits of its name's hash, with a sign."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def _is_lost(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has ended an idle connection: then its farewell, or the end of the stream, lies unread."""
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        return False
    try:
        while select.select([connection.fileno()], [], [], 0)[0]:
            connection.pgconn.consume_input()  # a farewell first, then the end of the stream, which is an error
    except (OSError, ValueError, psycopg.Error):
        return True
    return connection.pgconn.status != psycopg.pq.ConnStatus.OK


def _without_secrets(text: str, connection_string: str) -> str:
    """An error's first line, without the password should it be in there."""
    line = text.strip().split("\n")[0][:300]
    password = str(conninfo_to_dict(connection_string).get("password") or os.environ.get("PGPASSWORD") or "")
    return line.replace(password, "…") if password else line
