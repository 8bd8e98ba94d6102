from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError, StorageError, UsageError

HOLD = """
import sys
from luna_kernel.base import durable
with durable.lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=-1, stdout=-1, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_error_says_who_holds_the_lock_and_its_death_frees_it(tmp_path: Path) -> None:
    with hold(tmp_path / "run" / "lock") as holder:
        with pytest.raises(UsageError, match=f"process {holder.pid}"), durable.lock(tmp_path / "run" / "lock"):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        with durable.lock(tmp_path / "run" / "lock", wait=5):
            pass
    with durable.lock(tmp_path / "run" / "lock"):
        pass


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    seen: list[str] = []

    def work() -> None:
        for _ in range(20):
            with durable.lock(tmp_path / "lock", wait=10):
                seen.append("in")
                seen.append("out")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == ["in", "out"] * 60


def test_a_stale_or_broken_lock_file_is_no_obstacle(tmp_path: Path) -> None:
    for content in ('{"pid": 1, "boot": "another", "host": "x"}', "\0\0", ""):
        (tmp_path / "lock").write_text(content)
        mine = durable.lock(tmp_path / "lock")
        with mine, pytest.raises(UsageError, match=f"process {os.getpid()}"), durable.lock(tmp_path / "lock"):
            pass
        assert (tmp_path / "lock").read_text() == ""


def test_a_removed_lock_file_does_not_let_two_in(tmp_path: Path) -> None:
    with durable.lock(tmp_path / "lock"):
        (tmp_path / "lock").unlink()
        with durable.lock(tmp_path / "lock"):
            pass
    with durable.lock(tmp_path / "lock"), pytest.raises(UsageError), durable.lock(tmp_path / "lock"):
        pass


def opened(path: Path) -> sqlite3.Connection:
    connection = durable.open_database(path)
    with durable.transaction(connection):
        connection.execute("CREATE TABLE IF NOT EXISTS store (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    return connection


class TestDatabase:
    def test_settings_and_modes(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            connection = opened(tmp_path / "state" / "store.db")
        finally:
            os.umask(before)
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10000}
        modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
        assert modes == {".db": 0o600, ".db-wal": 0o600, ".db-shm": 0o600}
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        connection.close()

    def test_all_or_nothing(self, tmp_path: Path) -> None:
        connection = opened(tmp_path / "store.db")

        def half() -> None:
            with durable.transaction(connection):
                connection.execute("INSERT INTO store (text) VALUES ('a')")
                with durable.transaction(connection):  # joins the outer one
                    connection.execute("INSERT INTO store (text) VALUES (NULL)")

        with pytest.raises(sqlite3.IntegrityError):
            half()
        assert connection.execute("SELECT count(*) FROM store").fetchone() == (0,)
        with durable.transaction(connection):
            connection.execute("INSERT INTO store (text) VALUES ('a')")
        connection.close()
        again = opened(tmp_path / "store.db")
        assert again.execute("SELECT text FROM store").fetchall() == [("a",)]
        again.close()

    @pytest.mark.parametrize("damage", ["header", "middle", "text"])
    def test_damage_is_named(self, tmp_path: Path, damage: str) -> None:
        connection = opened(tmp_path / "store.db")
        with durable.transaction(connection):
            connection.executemany("INSERT INTO store (text) VALUES (?)", [("x" * 500,)] * 100)
        connection.close()
        data = bytearray((tmp_path / "store.db").read_bytes())
        if damage == "header":
            data[:16] = b"not a database!!"
        elif damage == "middle":
            data[4096 : 3 * 4096] = bytes(2 * 4096)
        (tmp_path / "store.db").write_bytes(b"some text file\n" * 10 if damage == "text" else data)
        with pytest.raises(IntegrityError, match=r"store\.db"):
            durable.open_database(tmp_path / "store.db")

    def test_a_busy_database_is_a_storage_error(self, tmp_path: Path) -> None:
        one, two = opened(tmp_path / "store.db"), opened(tmp_path / "store.db")
        two.execute("PRAGMA busy_timeout = 10")

        def both() -> None:
            with durable.transaction(one), durable.transaction(two):
                pass

        with pytest.raises(StorageError, match="in use"):
            both()
        one.close()
        two.close()

    def test_a_second_connection_does_not_free_the_first_one_s_lock(self, tmp_path: Path) -> None:
        """Opening and closing the file itself would: POSIX locks belong to the process."""
        one = opened(tmp_path / "store.db")
        with durable.transaction(one):
            one.execute("INSERT INTO store (text) VALUES ('a')")
            durable.open_database(tmp_path / "store.db").close()
            script = "import sys, sqlite3; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
            other = subprocess.run(
                [sys.executable, "-c", script, tmp_path / "store.db"], capture_output=True, check=False
            )
            assert b"database is locked" in other.stderr
        one.close()

    def test_what_is_no_place_for_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StorageError):
            durable.open_database(tmp_path / "file" / "store.db")
        (tmp_path / "folder").mkdir()
        with pytest.raises(StorageError):
            durable.open_database(tmp_path / "folder")
