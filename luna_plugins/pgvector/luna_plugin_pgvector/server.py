"""The server: where it is, how it is asked, and what people read when it refuses.

Values reach it as parameters, names as quoted identifiers; no SQL is put together from anything else. The password
stays in the connection string: it is in no message, no log and no file of Luna's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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


def dsn() -> str:
    """The connection string: from the environment, else from `[plugin.pgvector] dsn`; empty leaves all to libpq.

    Raises:
        UsageError: it is none.
    """
    found = os.environ.get(VARIABLE, "")
    if not found:
        from luna_kernel.base.settings import Settings

        found = str(Settings().plugins_config.get("pgvector", {}).get("dsn", ""))
    try:
        conninfo_to_dict(found)
    except psycopg.Error:  # its own text would repeat the string, password and all
        raise UsageError(t("dsn.bad"), hint=t("dsn.hint", variable=VARIABLE)) from None
    return found


def place(text: str) -> str:
    """`host:port/database` of a connection string, without user and password."""
    fields = conninfo_to_dict(text)
    host = fields.get("host") or fields.get("hostaddr") or os.environ.get("PGHOST") or "localhost"
    port = fields.get("port") or os.environ.get("PGPORT") or "5432"
    name = fields.get("dbname") or os.environ.get("PGDATABASE") or "postgres"
    return f"{host}:{port}/{name}"


class Server:
    """One connection, opened when it is first needed and again when it was lost.

    Args:
        schema: where the tables are.
    """

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._connection: psycopg.Connection[Any] | None = None

    def name(self, table: str) -> sql.Identifier:
        """A table of Luna's, quoted."""
        return sql.Identifier(self.schema, table)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """All of the block or nothing; what it did is on the server's disk when it ends.

        Raises:
            UsageError: no server answers, or it lets nobody in; a permission is missing.
            StorageError: the server refused.
        """
        text = dsn()
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(text, connect_timeout=10, application_name="luna")
        except psycopg.Error as error:
            reason = _without_secrets(str(error), text)
            raise UsageError(
                t("server.unreachable", place=place(text), reason=reason), hint=t("dsn.hint", variable=VARIABLE)
            ) from None
        try:
            with self._connection.transaction(), self._connection.cursor() as cursor:
                yield cursor
        except LunaError:
            raise
        except psycopg.errors.InsufficientPrivilege as error:
            reason = _without_secrets(str(error), text)
            raise UsageError(
                t("server.refused", place=place(text), reason=reason), hint=t("server.permission.hint")
            ) from None
        except psycopg.Error as error:
            reason = _without_secrets(str(error), text)
            raise StorageError(
                t("server.refused", place=place(text), reason=reason), hint=t("server.refused.hint")
            ) from None

    def make_tables(self, cursor: psycopg.Cursor[Any]) -> None:
        """The schema and the table of collections, if they are missing."""
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.schema)))
        cursor.execute(
            sql.SQL(
                "CREATE TABLE IF NOT EXISTS {} (id text PRIMARY KEY, kind text NOT NULL, saved boolean NOT NULL "
                "DEFAULT false, made timestamptz NOT NULL DEFAULT now())"
            ).format(self.name("collections"))
        )

    def need(self, cursor: psycopg.Cursor[Any], extension: str) -> None:
        """Switch an extension of the server on.

        Raises:
            UsageError: the server has not got it.
        """
        if not self.has(cursor, extension):
            text = t("extension.missing", extension=extension, place=place(dsn()))
            raise UsageError(text, hint=t("extension.missing.hint"))
        cursor.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(extension)))

    def has(self, cursor: psycopg.Cursor[Any], extension: str) -> bool:
        """Whether the server could switch an extension on."""
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = %s", (extension,))
        return cursor.fetchone() is not None

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; the next transaction opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _without_secrets(text: str, connection_string: str) -> str:
    """An error's first line, without the password should it be in there."""
    line = text.strip().split("\n")[0][:300]
    password = str(conninfo_to_dict(connection_string).get("password") or os.environ.get("PGPASSWORD") or "")
    return line.replace(password, "…") if password else line
