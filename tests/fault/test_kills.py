"""Kills at random moments with two writers, and a disk that is really full."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from luna_kernel.base import durable, integrity
from luna_kernel.base.errors import StorageError

pytestmark = pytest.mark.fault


def test_kills_of_two_writers_lose_nothing_acknowledged(drive: Callable[..., Any]) -> None:
    seed = time.time_ns() % 1_000_000
    outcome = drive("counter.py", seed, 50)
    print(f"seed {seed}: {outcome['acknowledged']} acknowledged in 50 trials of two killed writers")
    assert not outcome["wrong"], f"seed {seed}: {outcome['wrong'][:5]}"
    assert outcome["acknowledged"] > 50


def test_a_full_disk_leaves_the_old_and_says_what_is_missing(small_disk: Path) -> None:
    durable.write_json(small_disk / "a.json", {"which": "old"})
    with pytest.raises(StorageError) as refused:
        durable.write_json(small_disk / "a.json", {"which": "x" * 3_000_000})
    assert "a.json" in refused.value.text
    assert "3.0 MB" in refused.value.text
    assert "1.0 MB are free" in refused.value.text
    assert refused.value.hint
    assert integrity.read_json(small_disk / "a.json") == {"which": "old"}
    assert [path.name for path in small_disk.iterdir()] == ["a.json"]


def fill(model: Path, which: str, size: int) -> None:
    with durable.replace_folder(model) as new:
        (new / "by-a-library").write_bytes(b"x" * size)
        durable.write_json(new / "luna.json", {"which": which})


def test_a_full_disk_while_a_folder_is_filled(small_disk: Path) -> None:
    fill(small_disk / "model", "old", 10)
    with pytest.raises(StorageError, match="model was not written"):
        fill(small_disk / "model", "new", 2_000_000)
    assert integrity.read_json(small_disk / "model" / "luna.json") == {"which": "old"}
    assert [path.name for path in small_disk.iterdir()] == ["model"]


def test_a_full_disk_undoes_the_transaction(small_disk: Path) -> None:
    connection = durable.open_database(small_disk / "store.db")
    with durable.transaction(connection):
        connection.execute("CREATE TABLE store (text TEXT)")
        connection.execute("INSERT INTO store VALUES ('old')")

    def overfill() -> None:
        with durable.transaction(connection):
            connection.execute("DELETE FROM store")
            connection.executemany("INSERT INTO store VALUES (?)", [("x" * 10_000,)] * 300)

    with pytest.raises(StorageError, match=r"store\.db"):
        overfill()
    assert connection.execute("SELECT text FROM store").fetchall() == [("old",)]
    connection.close()


def test_a_full_disk_is_what_opening_a_database_says(small_disk: Path) -> None:
    durable.open_database(small_disk / "own.db").close()
    with contextlib.suppress(OSError), (small_disk / "fill").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(StorageError, match="full"):
        durable.open_database(small_disk / "own.db")


def test_a_full_disk_cuts_no_log(small_disk: Path) -> None:
    durable.append_line(small_disk / "log.jsonl", "{}")
    with pytest.raises(StorageError):
        durable.append_line(small_disk / "log.jsonl", "x" * 2_000_000)
    assert (small_disk / "log.jsonl").read_text() == "{}\n"
