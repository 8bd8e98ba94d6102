"""`luna sessions`, and `luna run --batch` and `--input`, as whole processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .test_chat_verbs import ECHO


@pytest.fixture
def echo(tmp_path: Path) -> tuple[str, ...]:
    (tmp_path / "echo.py").write_text(ECHO, encoding="utf-8")
    return ("--plugins", "none,./echo.py", "--generator", "echo")


@pytest.fixture
def kept(luna, echo):
    """Two conversations: one of two questions with a name, one without."""
    luna("run", *echo, "--session", "prazos", input="Qual é o prazo?\nE a exceção?\n")
    luna("run", *echo, "--query", "Bom dia")


def listed(luna) -> list[dict]:
    return json.loads(luna("sessions", "list", "--json").stdout)["sessions"]


def test_list_show_search(luna, kept):
    newest, first = listed(luna)
    assert (first["name"], first["num_turns"], first["first_query"]) == ("prazos", 2, "Qual é o prazo?")
    assert newest["name"] is None
    table = luna("sessions", "list").stdout
    assert "prazos" in table
    assert newest["id"][:8] in table
    shown = luna("sessions", "show", "prazos").stdout
    assert "**You:** E a exceção?" in shown
    assert "**Luna:** E a exceção?" in shown
    assert json.loads(luna("sessions", "show", newest["id"][:8], "--json").stdout)["turns"][0]["query"] == "Bom dia"
    found = json.loads(luna("sessions", "search", "EXCECAO", "--json").stdout)["found"]
    assert [item["query"] for item in found] == ["E a exceção?"]
    assert "No conversation" in luna("sessions", "search", "prazo", "exceção").stderr


def test_export(luna, kept, tmp_path: Path):
    out = tmp_path / "tudo.jsonl"
    assert luna("sessions", "export", "--all", "-o", str(out)).returncode == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert sorted(line["query"] for line in lines) == ["Bom dia", "E a exceção?", "Qual é o prazo?"]
    assert all(line["created"] > 0 and line["answer"] for line in lines)
    assert out.stat().st_mode & 0o077 == 0
    again = luna("sessions", "export", "prazos", "-o", str(out))
    assert again.returncode == 2
    assert "--force" in again.stderr
    assert "# prazos" in luna("sessions", "export", "prazos").stdout
    assert luna("sessions", "export").returncode == 2
    assert luna("sessions", "export", "nada").returncode == 2


def test_delete(luna, kept):
    refused = luna("sessions", "delete", "prazos")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert len(listed(luna)) == 2
    assert luna("sessions", "delete", "prazos", "--yes").returncode == 0
    (left,) = listed(luna)
    assert left["first_query"] == "Bom dia"
    assert luna("sessions", "show", "prazos").returncode == 2
    assert luna("sessions", "delete", "--all", "--yes").returncode == 0
    assert "luna run" in luna("sessions", "list").stderr


def test_resume(luna, kept, echo):
    assert luna("sessions", "resume", "nada").returncode == 2
    for args in ((), ("--", "--generator", "echo", "--context", "seja breve")):
        done = luna(*echo[:2], "sessions", "resume", "prazos", *args, input="/stats\n")
        assert "resumed: 2" in done.stderr, done.stderr
    newest = luna(*echo[:2], "sessions", "resume", input="e?\n")
    assert "resumed: 1" in newest.stderr, newest.stderr
    assert listed(luna)[0]["num_turns"] == 2


def test_batch_and_input(luna, echo, tmp_path: Path):
    (tmp_path / "consultas.json").write_text(json.dumps([{"query": "um", "temperature": 0.8}, {"query": "dois"}]))
    done = luna("run", *echo, "--batch", "consultas.json", "--output", "respostas.json")
    assert done.returncode == 0, done.stderr
    assert "[2/2]" in done.stderr
    assert [item["answer"] for item in json.loads((tmp_path / "respostas.json").read_text())] == ["um ", "dois "]
    assert luna("run", *echo, "--batch", "consultas.json", "--output", "respostas.json").returncode == 2
    (tmp_path / "perguntas.txt").write_text("olá\n")
    assert luna("run", *echo, "--input", "perguntas.txt", "--output", "r.txt").returncode == 0
    assert (tmp_path / "r.txt").read_text() == "> olá\nolá\n\n"
    assert listed(luna) == [], "a batch is no conversation"


@pytest.mark.parametrize(
    "args",
    [
        ("--batch", "a.json"),
        ("--output", "r.txt"),
        ("--input", "a.json", "--output", "a.json"),
        ("--batch", "a.json", "--input", "a.json", "--output", "r.txt"),
        ("--batch", "nada.json", "--output", "r.txt"),
        ("--batch", "a.json", "--output", "r.txt"),
    ],
)
def test_bad_batches(luna, echo, tmp_path: Path, args):
    (tmp_path / "a.json").write_text('[{"query": "um", "persona": "formal"}]')
    done = luna("run", *echo, *args)
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "r.txt").exists()
