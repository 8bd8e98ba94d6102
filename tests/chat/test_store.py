"""Conversations on the disk: whole turns, several processes, kills, versions."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luna_kernel.base.errors import IntegrityError, StorageError, UsageError
from luna_kernel.chat.store import SCHEMA_VERSION, SessionStore
from luna_kernel.contracts.chat import Citation, Passage, Sampling, Turn

TURN = Turn(
    query="Qual é o prazo? <|end|>",
    answer="Trinta dias. [1]",
    thinking="hum",
    citations=[Citation(1, "a.md", "A", 3, 15, "Trinta dias.", 2)],
    passages=[Passage(1, "a.md", "A", "Prazos", "O Trinta dias.", 0, 14, 0.9, 2, {"page": 1})],
    searched=True,
    sampling=Sampling(temperature=0.1, stop=("\n",), seed=3),
    stop_reason="end",
    generator="extractive",
    usage={"completion_tokens": 2},
    timings={"total": 0.25},
    notes={"history": {"turns": 0}},
)

WRITER = """
import sys
from pathlib import Path
from luna_kernel.chat.store import SessionStore
from luna_kernel.contracts.chat import Turn
store = SessionStore(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    store.add_turn(sys.argv[2], Turn(query=f"q{number}", answer=f"a{number}"), model="m")
    print(number, flush=True)
"""


def test_a_turn_comes_back_as_it_was(tmp_path: Path):
    store = SessionStore(tmp_path / "s.db")
    store.add_turn("s" * 32, TURN, model="demo", plugins="rag", persona="formal")
    assert store.turns("s" * 32) == [TURN]
    store.close()
    again = SessionStore(tmp_path / "s.db")
    assert again.turns("s" * 32) == [TURN]
    assert again.turns("other") == []
    (session,) = again.sessions()
    assert (session.num_turns, session.first_query, session.model, session.plugins) == (1, TURN.query, "demo", "rag")
    again.close()


def test_the_file_is_private(tmp_path: Path):
    store = SessionStore(tmp_path / "data" / "s.db")
    store.add_turn("x", TURN, model="m")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    store.close()


def test_names(tmp_path: Path):
    store = SessionStore(tmp_path / "s.db")
    with pytest.raises(UsageError, match="vazia"):
        store.set_name("a" * 32, "prazos")
    store.add_turn("a" * 32, TURN, model="m")
    store.add_turn("b" * 32, TURN, model="m")
    store.set_name("a" * 32, "prazos")
    store.set_name("a" * 32, "prazos")
    assert store.find("prazos").id == "a" * 32
    assert store.find("bbbbbbbb").id == "b" * 32
    with pytest.raises(UsageError):
        store.set_name("b" * 32, "prazos")
    with pytest.raises(UsageError, match="prazos"):
        store.find("prazo")
    for bad in ("", "../x", "A", "a/b", "a\0", "x" * 65, ".x", "con fusão"):
        with pytest.raises(UsageError):
            store.set_name("a" * 32, bad)
    store.close()


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0])
def test_a_database_of_another_kind_is_refused_untouched(tmp_path: Path, version: int):
    path = tmp_path / "s.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE sessions (x)")
    other.execute(f"PRAGMA user_version = {version}")
    other.commit()
    other.close()
    with pytest.raises(StorageError, match=r"s\.db"):
        SessionStore(path)
    other = sqlite3.connect(path)
    assert other.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    other.close()


def test_a_damaged_file_is_said(tmp_path: Path):
    (tmp_path / "s.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(IntegrityError, match=r"s\.db"):
        SessionStore(tmp_path / "s.db")


def test_two_processes_write_at_once(tmp_path: Path):
    path, count = tmp_path / "s.db", 40
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, name, str(count)], stdout=subprocess.PIPE) for name in ("one", "two")]
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        assert writer.returncode == 0
        assert out.split()[-1] == str(count - 1).encode()
    store = SessionStore(path)
    for name in ("one", "two"):
        assert [turn.query for turn in store.turns(name)] == [f"q{n}" for n in range(count)]
    store.close()


@pytest.mark.fault
def test_kill_loses_no_acknowledged_turn(tmp_path: Path):
    for trial in range(6):
        path = tmp_path / f"{trial}.db"
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), "s", "100000"], stdout=subprocess.PIPE, bufsize=0
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.01 * trial)
        os.kill(writer.pid, signal.SIGKILL)
        acknowledged = 1 + writer.stdout.read().count(b"\n")
        writer.stdout.close()
        writer.wait()
        store = SessionStore(path)
        queries = [turn.query for turn in store.turns("s")]
        assert queries == [f"q{n}" for n in range(len(queries))]
        assert len(queries) >= acknowledged
        store.close()
