"""Feedback on the disk: whole entries, several processes, kills, versions, a full disk; out and in as JSON lines."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from luna_plugin_feedback.entry import DIMENSIONS, Entry
from luna_plugin_feedback.exchange import from_json, read_file, to_json, to_line
from luna_plugin_feedback.store import SCHEMA_VERSION, FeedbackStore, opened

from luna_kernel.base.errors import IntegrityError, StorageError, UsageError
from luna_kernel.cli.main import cli

FULL = Entry(
    prompt=({"role": "system", "content": "Seja breve."}, {"role": "user", "content": "Oi \u2028 <|end|>"}),
    answer="Olá",
    verdict="bad",
    ratings={"accurate": 2, "helpful": 5},
    text="curta",
    correction="Olá!",
    model="demo",
    generator="luna",
    sources=({"source": "a.md", "start": 0},),
    session_id="s" * 32,
    response_id="r1",
)
WRITER = """
import sys
from pathlib import Path
from luna_plugin_feedback.entry import Entry
from luna_plugin_feedback.store import FeedbackStore
store = FeedbackStore(Path(sys.argv[1]))
for number in range(int(sys.argv[3])):
    store.add(Entry(answer="a" * 500, verdict="good", id=f"{sys.argv[2]}-{number}"))
    print(number, flush=True)
"""
SEED_LINE = {
    "id": "4e2c52a0-5b38-4a3c-8d4d-7d21bb1f6f4e",
    "timestamp": "2026-11-20T10:11:12.123456",
    "conversation_id": "c1",
    "response_id": "r9",
    "feedback": {"helpful": 4, "accurate": 2, "text_feedback": "datas erradas", "corrections": "Foi em 1822."},
}


def run(*args: str, status: int = 0) -> str:
    result = CliRunner().invoke(cli, ["feedback", *args])
    assert result.exit_code == status, result.output
    return result.output


def start(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_an_entry_comes_back_as_it_was(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "f.db") as store:
        store.add(FULL)
    with FeedbackStore(tmp_path / "f.db") as store:
        assert store.entries() == [FULL]
        assert store.entries(since=FULL.created + 1) == []
    assert (tmp_path / "f.db").stat().st_mode & 0o777 == 0o600


def test_later_words_amend_an_entry(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "f.db") as store:
        store.add(FULL)
        whole = store.add(Entry(id=FULL.id, verdict="good", ratings={"accurate": 4}))
        assert (whole.verdict, whole.ratings, whole.text) == ("good", {"accurate": 4, "helpful": 5}, "curta")
        assert store.entries() == [whole]


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    writers = [start(tmp_path / "f.db", name, 60) for name in "ab"]
    for writer in writers:
        assert writer.communicate()[0].split()[-1] == "59"
    with FeedbackStore(tmp_path / "f.db") as store:
        assert len(store) == 120


@pytest.mark.parametrize("after", [1, 7, 20])
def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path, after: int) -> None:
    writer = start(tmp_path / "f.db", "a", 10_000)
    assert writer.stdout is not None
    for _ in range(after):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    acknowledged = after + len(writer.communicate()[0].split())
    with FeedbackStore(tmp_path / "f.db") as store:
        kept = {entry.id for entry in store.entries()}
    assert {f"a-{number}" for number in range(acknowledged)} <= kept


def test_databases_of_other_kinds_are_not_touched(tmp_path: Path) -> None:
    newer, other, damaged = (tmp_path / name for name in ("newer.db", "other.db", "damaged.db"))
    FeedbackStore(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    damaged.write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="newer Luna"):
        FeedbackStore(newer)
    with pytest.raises(StorageError, match="something else"):
        FeedbackStore(other)
    with pytest.raises(IntegrityError):
        FeedbackStore(damaged)


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """SQLite's own limit of pages fails as a full disk does, with SQLITE_FULL."""
    with FeedbackStore(tmp_path / "f.db") as store:
        store.add(FULL)
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
        with pytest.raises(StorageError, match="full"):
            store.add(Entry(answer="x" * 200_000, verdict="good"))
        assert store.entries() == [FULL]


def test_what_is_deleted_is_gone_from_the_file() -> None:
    with opened() as store:
        store.add(Entry(text="segredo-um", verdict="bad", session_id="s1", id="e1"))
        store.add(Entry(text="fica aqui", verdict="bad", session_id="s2", id="e2"))
        store.add_reflection("e1", model="m", text="sobre segredo-um")
        path = store.path
    assert "1 entry deleted" in run("delete", "--session", "s1")
    with opened() as store:
        assert [entry.id for entry in store.entries()] == ["e2"]
        assert store.reflections() == []
    for file in path.parent.glob("feedback.db*"):
        assert b"segredo-um" not in file.read_bytes()
    assert "0 entries have an id" in run("delete", "zzz", status=2)
    assert "Nothing was named" in run("delete", status=2)


def test_a_deletion_whose_remains_stay_says_so(tmp_path: Path) -> None:
    """A file that is cleaned needs as much room again; without it the deletion holds, and that is said."""
    with FeedbackStore(tmp_path / "f.db") as store:
        store.add(Entry(text="segredo " * 5000, verdict="bad", id="e1"))
        store.add(FULL)
        reading = sqlite3.connect(tmp_path / "f.db", isolation_level=None)
        store._connection.execute("PRAGMA busy_timeout = 50").fetchall()
        forget = store._forget
        store._forget = lambda: (reading.execute("BEGIN IMMEDIATE"), forget())  # type: ignore[assignment]  # in between
        with pytest.raises(StorageError, match="remains"):
            store.delete(ids=["e1"])
        reading.execute("ROLLBACK")
        reading.close()
        assert store.entries() == [FULL]
        forget()
    assert b"segredo" not in (tmp_path / "f.db").read_bytes()


def test_what_a_model_wrote_about_personal_data_is_masked_too() -> None:
    with opened() as store:
        store.add(Entry(text="sem dados", verdict="bad", id="e1"))
        store.add_reflection("e1", model="m", text="A pessoa pediu resposta a ana@exemplo.com.br.")
        path = store.path
    run("redact")
    with opened() as store:
        assert [item.text for item in store.reflections()] == ["A pessoa pediu resposta a [E-MAIL]."]
    for file in path.parent.glob("feedback.db*"):
        assert b"ana@exemplo" not in file.read_bytes()


def test_personal_data_in_the_store_is_masked_for_good() -> None:
    with opened() as store:
        store.add(Entry(text="meu e-mail é ana@exemplo.com.br", verdict="bad", id="e1"))
        path = store.path
    assert json.loads(run("redact", "--json"))["changed"] == 1
    with opened() as store:
        assert store.entries()[0].text == "meu e-mail é [E-MAIL]"
    assert b"ana@exemplo" not in b"".join(file.read_bytes() for file in path.parent.glob("feedback.db*"))


# --- JSON lines ----------------------------------------------------------------------------------------------------


def test_export_and_import_give_the_same_entries(tmp_path: Path) -> None:
    assert from_json(json.loads(to_line(FULL))) == FULL
    with opened() as store:
        store.add(FULL)
    file = tmp_path / "feedback.jsonl"
    run("export", "-o", str(file))
    assert "exists already" in run("export", "-o", str(file), status=2)
    assert json.loads(run("import", str(file), "--json")) == {"ok": True, "added": 0, "known": 1, "faults": []}
    run("delete", "--all")
    assert json.loads(run("import", str(file), "--json"))["added"] == 1
    with opened() as store:
        assert store.entries() == [FULL]


def test_a_line_of_the_older_form_is_read() -> None:
    found = from_json(SEED_LINE)
    assert found.ratings == {"helpful": 4, "accurate": 2}
    assert (found.text, found.correction) == ("datas erradas", "Foi em 1822.")
    assert (found.session_id, found.response_id, found.id) == ("c1", "r9", SEED_LINE["id"])
    assert set(to_json(found)["feedback"]) == set(SEED_LINE["feedback"])


BAD = {
    "broken JSON at column": '{"id": "a", "feedb',
    "not an object": "[1, 2]",
    "whole number from 1 to 5": '{"feedback": {"helpful": 6}}',
    "helpful=4.5": '{"feedback": {"helpful": 4.5}}',
    "helpful=True": '{"feedback": {"helpful": true}}',
    "no dimension charm": '{"feedback": {"charm": 3}}',
    "says nothing": '{"feedback": {}}',
    "unknown fields: note": '{"feedback": {"helpful": 3}, "note": 1}',
    "no time such as": '{"feedback": {"helpful": 3}, "timestamp": "ontem"}',
    "no identifier": '{"feedback": {"helpful": 3}, "id": "../x"}',
    "without a known `role`": '{"feedback": {"helpful": 3}, "prompt": [{"role": "boss", "content": "a"}]}',
    "half characters": '{"feedback": {"text_feedback": "\\ud800"}}',
    "not accepted": '{"feedback": {"helpful": NaN}}',
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_line_is_named_and_nothing_is_imported(tmp_path: Path, reason: str) -> None:
    file = tmp_path / "feedback.jsonl"
    file.write_text(f"{json.dumps(SEED_LINE)}\n\n{BAD[reason]}\n{to_line(FULL)}", encoding="utf-8")
    text = run("import", str(file), status=2)
    assert f"{file}:3:" in text
    assert reason in text
    with opened() as store:
        assert len(store) == 0
    report = json.loads(run("import", str(file), "--skip-bad", "--json"))
    assert (report["added"], report["faults"][0]["line"]) == (2, 3)


def test_a_torn_tail_long_lines_and_other_encodings_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "feedback.jsonl"
    good = to_line(FULL).encode()
    file.write_bytes(b"\xef\xbb\xbf" + good + b"x" * (5 << 20) + b"\n" + '{"a": "é"}\n'.encode("latin-1") + good[:40])
    read = read_file(file)
    assert len(read.entries) == 1
    assert [number for number, _ in read.faults] == [2, 3, 4]
    file.write_text("\n\n", encoding="utf-8")
    assert "no feedback in it" in run("import", str(file), status=2)
    with pytest.raises(UsageError, match="cannot be read"):
        read_file(tmp_path)


# --- lists and figures ---------------------------------------------------------------------------------------------


def test_an_empty_store_says_what_to_do() -> None:
    assert "/good" in run("list")
    assert "50 more are needed" in run("stats")
    assert json.loads(run("stats", "--json"))["missing"] == 50


def test_the_list_shows_the_newest() -> None:
    with opened() as store:
        for number in range(5):
            store.add(Entry(answer=f"resposta {number}", verdict="good", created=1000.0 + number))
        store.add_reflection(store.entries()[-1].id, model="m", text="Faltou um exemplo.")
    shown = run("list", "--limit", "2")
    assert "resposta 4" in shown
    assert "resposta 2" not in shown
    assert "Faltou um exemplo." in run("list", "--reflections")
    assert json.loads(run("list", "--since", "7d", "--json"))["entries"] == []
    assert set(DIMENSIONS) == set(json.loads(run("stats", "--json"))["ratings"])
