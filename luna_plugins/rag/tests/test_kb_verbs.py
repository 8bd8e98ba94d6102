"""`luna kb`: what it says is true, what is damaged is found, what was removed is gone."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.verification import verify

from luna_kernel.base.errors import UsageError
from luna_kernel.cli.main import cli
from luna_kernel.plugins.registry import Registry

A = "# Horários\n\nA biblioteca abre às nove horas.\n\nFecha às seis.\n"
B = "# Sino\n\nO sino da capela pesa 180 quilos, e o ferreiro Zebedeu o fundiu.\n"

Write = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "kb"


@pytest.fixture
def knowledge(write: Write, place: Path, registry: Registry) -> KnowledgeBase:
    docs = write(**{"a.md": A, "sub/b.md": B, "sub/c.txt": "Os livros voltam em catorze dias."})
    kb = KnowledgeBase(place, registry)
    kb.sync([docs])
    return kb


def luna(*args: object, status: int = 0, **more: Any) -> Result:
    done = CliRunner().invoke(cli, ["--plugins", "rag", *map(str, args)], **more)
    assert done.exit_code == status, done.output
    return done


def test_stats_count_what_is_there(knowledge: KnowledgeBase, place: Path) -> None:
    found = json.loads(luna("kb", "stats", "--kb", place, "--json").stdout)
    assert (found["files"], found["documents"], found["chunks"]) == (3, 3, 3)
    assert found["characters"] == len(A) + len(B) + 33
    assert found["words"] == len((A + " " + B).split()) + 6
    assert found["formats"] == {
        ".md": {"files": 2, "documents": 2, "chunks": 2},
        ".txt": {"files": 1, "documents": 1, "chunks": 1},
    }
    assert found["tokens"] is None
    assert found["created"] <= found["changed"]
    assert [(item["name"], item["state"]) for item in found["indexes"]] == [("bm25", "whole"), ("tfidf", "whole")]
    assert "Trechos" in luna("kb", "stats", "--kb", place).stdout


def test_a_whole_base_is_whole(knowledge: KnowledgeBase, place: Path) -> None:
    assert verify(knowledge) == []
    assert "3 documentos, 3 trechos" in luna("kb", "verify", "--kb", place).stdout


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("UPDATE documents SET text = replace(text, 'nove', 'doze') WHERE source = 'a.md'", "document"),
        ("UPDATE chunks SET text = replace(text, '180', '910')", "chunk"),
        ('UPDATE chunks SET "end" = "end" + 500 WHERE id = 1', "chunk"),
        ("DELETE FROM chunks WHERE id = 1", "index"),
        ("DELETE FROM documents WHERE source = 'a.md'", "orphan"),
    ],
)
def test_damage_in_the_database_is_found(knowledge: KnowledgeBase, place: Path, damage: str, kind: str) -> None:
    knowledge.close()
    with sqlite3.connect(place / "knowledge.sqlite") as connection:  # foreign keys are off, as in any other program
        connection.execute(damage)
    connection.close()
    found = json.loads(luna("kb", "verify", "--kb", place, "--json", status=1).stdout)
    assert kind in {item["kind"] for item in found["findings"]}
    assert not found["ok"]
    assert all(item["mend"] for item in found["findings"])


def test_a_damaged_index_is_found_and_repaired(knowledge: KnowledgeBase, place: Path) -> None:
    knowledge.close()
    file = next((place / "index" / "bm25" / "data").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert "danificado: index/bm25" in luna("kb", "verify", "--kb", place, status=1).stdout
    done = luna("kb", "verify", "--kb", place, "--repair")
    assert "Inteira" in done.stdout
    assert "Inteira" in luna("kb", "verify", "--kb", place).stdout


def test_a_changed_or_lost_file_is_a_remark(knowledge: KnowledgeBase, place: Path, tmp_path: Path) -> None:
    (tmp_path / "docs" / "a.md").write_text(A + "Mais.")
    (tmp_path / "docs" / "sub" / "b.md").unlink()
    found = json.loads(luna("kb", "verify", "--kb", place, "--json").stdout)
    assert found["ok"]
    assert [(item["kind"], item["place"]) for item in found["findings"]] == [("stale", "a.md"), ("stale", "sub/b.md")]


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("a.md", {"a.md"}),
        ("sub", {"sub/b.md", "sub/c.txt"}),
        ("*.md", {"a.md", "sub/b.md"}),
        ("./sub/", {"sub/b.md", "sub/c.txt"}),
    ],
)
def test_remove_takes_out_what_is_named(knowledge: KnowledgeBase, place: Path, pattern: str, gone: set[str]) -> None:
    done = json.loads(luna("kb", "remove", "--kb", place, pattern, "--yes", "--json").stdout)
    assert set(done["removed"]) == gone
    assert done["chunks"] == len(gone)
    assert set(knowledge.store.files()) == {"a.md", "sub/b.md", "sub/c.txt"} - gone
    assert [item.kind for item in verify(knowledge)] == []


def test_what_was_removed_leaves_no_word_behind(knowledge: KnowledgeBase, place: Path) -> None:
    def holders() -> list[str]:
        return [path.name for path in place.rglob("*") if path.is_file() and b"zebed" in path.read_bytes().lower()]

    assert holders()
    knowledge.close()
    luna("kb", "remove", "--kb", place, "sub/b.md", "--yes")
    assert holders() == []


def test_removing_asks_and_reads_nothing_again(knowledge: KnowledgeBase, place: Path) -> None:
    refused = luna("kb", "remove", "--kb", place, "a.md", status=2)
    assert "--yes" in refused.output
    unknown = luna("kb", "remove", "--kb", place, "sub/b.mdx", "--yes", status=2)
    assert "sub/b.md" in unknown.output
    assert len(knowledge) == 3
    rows = "SELECT id FROM chunks WHERE document_id IN (SELECT id FROM documents WHERE source <> 'a.md')"
    before = knowledge.store.connection.execute(rows).fetchall()
    knowledge.remove(["a.md"])
    assert knowledge.store.connection.execute(rows).fetchall() == before


def test_export_has_the_very_characters(knowledge: KnowledgeBase, place: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in luna("kb", "export", "--kb", place).stdout.splitlines()]
    assert [line["source"] for line in lines] == ["a.md", "sub/b.md", "sub/c.txt"]
    for line in lines:
        text = (tmp_path / "docs" / line["source"]).read_text(encoding="utf-8")
        assert text[line["start"] : line["end"]] == line["text"]
        assert text.count("\n", 0, line["start"]) + 1 == line["line"]
    out = tmp_path / "fora.md"
    luna("kb", "export", "--kb", place, "--format", "markdown", "-o", out)
    written = out.read_text(encoding="utf-8")
    assert written.startswith("# a.md")
    assert "> A biblioteca abre às nove horas." in written


def test_which_base_must_be_said(place: Path) -> None:
    assert "--docs" in luna("kb", "stats", status=2).output
    assert "luna index" in luna("kb", "stats", "--kb", place, status=2).output


def test_another_encoder_is_an_error_not_a_wrong_answer(write: Write, place: Path) -> None:
    pytest.importorskip("luna_plugin_faiss")
    from luna_kernel.plugins import load_plugins

    registry = load_plugins("rag,faiss").registry
    docs = write(**{"a.md": A, "b.md": B})

    def config(dimension: int) -> KnowledgeConfig:
        return KnowledgeConfig(retrievers=({"name": "faiss", "encoder": {"name": "lsa", "dimension": dimension}},))

    with KnowledgeBase(place, registry, config(2)) as kb:
        kb.sync([docs])
    with KnowledgeBase(place, registry, config(3)) as kb, pytest.raises(UsageError, match="lsa") as refused:
        kb.search("sino")
    assert "luna index" in (refused.value.hint or "")
    said: list[str] = []
    with KnowledgeBase(place, registry, config(3), say=said.append) as kb:
        kb.sync([docs])
        assert kb.search("quanto pesa o sino", threshold=0).passages
    assert len(said) == 1
    assert "lsa" in said[0]


def test_an_index_of_other_settings_is_said_until_it_is_written(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        identity = kb.store.id
    other = KnowledgeConfig(retrievers=({"name": "bm25", "k1": 2.0}, {"name": "tfidf"}))
    for _ in range(2):
        said: list[str] = []
        with KnowledgeBase.open(place, registry, other, say=said.append) as kb:
            for query in ("sino", "biblioteca"):
                assert kb.search(query, threshold=0).passages
        assert len(said) == 1
        for part in ("“bm25”", "k1 1.2 → 2.0", "luna index", "luna kb verify --repair --kb"):
            assert part in said[0]
    said = []
    with KnowledgeBase.open(place, registry, other, say=said.append) as kb:
        kb.repair()
        assert len(said) == 1
        assert "luna index" not in said[0]
    with KnowledgeBase.open(place, registry, other, say=said.append) as kb:
        assert kb.search("sino", threshold=0).passages
    assert len(said) == 1
    manifest = place / "index" / "bm25" / "index.json"
    manifest.write_text(manifest.read_text("utf-8").replace(identity, "another"), encoding="utf-8")
    with KnowledgeBase.open(place, registry, other, say=said.append) as kb:
        assert kb.search("sino", threshold=0).passages
    assert "outra base" in said[1]


@pytest.mark.parametrize(
    ("pattern", "near"), [("b", "sub/b.md"), ("sup", "sub/b.md"), ("C.TXT", "sub/c.txt"), ("a.mb", "a.md")]
)
def test_a_name_that_no_file_has_gets_the_nearest(
    knowledge: KnowledgeBase, place: Path, pattern: str, near: str
) -> None:
    refused = luna("kb", "remove", "--kb", place, pattern, "--yes", status=2)
    assert near in refused.stderr
    assert len(knowledge.store.files()) == 3
    refused = luna("kb", "remove", "--kb", place, "helicóptero", "--yes", status=2)
    assert "Parecidos" not in refused.stderr
