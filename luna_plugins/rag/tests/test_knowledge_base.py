"""A knowledge base follows its folder, survives damage, and says what it could not read."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.naming import place_for, place_of

from luna_kernel.base import durable
from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.plugins.registry import Registry

A = "# Horários\n\nA biblioteca abre às nove horas.\n"
B = "# Sino\n\nO sino da capela pesa 180 quilos.\n"
C = "# Bolo\n\nO bolo de fubá leva quatro ovos.\n"

Write = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "kb"


def sources(kb: KnowledgeBase, query: str, **options: Any) -> list[str]:
    return [passage.source for passage in kb.search(query, **{"threshold": 0.0, **options}).passages]


def check_whole(kb: KnowledgeBase) -> None:
    """Every document's chunks are its text, and every index holds just the chunks."""
    for document, chunks in kb.store.whole_documents():
        assert "".join(chunk.text for chunk in chunks) == document.text
        assert all(document.text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    for index in kb._indexes.current():
        assert index.retriever.ids() == kb.store.chunk_ids()


def test_follows_the_folder(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A, "sub/b.md": B})
    with KnowledgeBase(place, registry) as kb:
        first = kb.sync([docs])
        assert (first.added, first.chunks, first.skipped) == (["a.md", "sub/b.md"], 2, {})
        assert sources(kb, "quanto pesa o sino")[0] == "sub/b.md"
        assert kb.sync([docs]).unchanged == 2
        kept = {row[0]: row[1] for row in kb.store.connection.execute("SELECT source, id FROM documents")}
        write(**{"c.md": C, "a.md": A.replace("nove", "dez")})
        (docs / "sub" / "b.md").unlink()
        second = kb.sync([docs])
        assert (second.added, second.updated, second.removed) == (["c.md"], ["a.md"], ["sub/b.md"])
        assert "dez horas" in kb.search("quando abre a biblioteca", threshold=0).passages[0].text
        assert "sub/b.md" not in sources(kb, "quanto pesa o sino")
        third = kb.sync([docs])
        assert third.unchanged == 2
        now = {row[0]: row[1] for row in kb.store.connection.execute("SELECT source, id FROM documents")}
        assert now["a.md"] != kept["a.md"]
        check_whole(kb)


def test_only_what_changed_is_read(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        write(**{"a.md": A + "Mais.\n"})
        os.utime(docs / "b.md", (1, 1))
        seen: list[str] = []

        def note(stage: str, done: int, total: int, what: str) -> None:
            seen.append(what if stage == "reading" else f"{what} {done}/{total}")

        kb.sync([docs], progress=note)
        assert seen == ["a.md", "bm25 0/1", "tfidf 0/1"]
        seen.clear()
        kb.sync([docs], progress=note, rebuild=True)
        assert seen == ["a.md", "b.md", "bm25 0/2", "tfidf 0/2"]


def test_a_change_within_the_clocks_grain_is_seen(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A})
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        status = (docs / "a.md").stat()
        write(**{"a.md": A.replace("nove", "doze")})
        os.utime(docs / "a.md", ns=(status.st_atime_ns, status.st_mtime_ns))
        kb.sync([docs])
        assert "doze" in kb.search("biblioteca abre", threshold=0).passages[0].text


def test_passages_point_at_the_characters(examples: Path, place: Path, registry: Registry) -> None:
    with KnowledgeBase(place, registry) as kb:
        kb.sync([examples])
        for query in (
            "Quanto pesa o sino?",
            "Quantos ovos leva o bolo?",
            "qual o prazo dos livros",
            "ramal de pessoas",
        ):
            passages = kb.search(query, 4, threshold=0).passages
            assert [passage.number for passage in passages] == list(range(1, len(passages) + 1))
            assert passages
            for passage in passages:
                text = (examples / passage.source).read_text(encoding="utf-8")
                assert text[passage.start : passage.end] == passage.text == passage.text.strip()
                assert text.count("\n", 0, passage.start) + 1 == passage.line
                assert 0 <= passage.score <= 1
                assert passage.heading


def test_the_examples_questions(examples: Path, place: Path, registry: Registry) -> None:
    questions = Path(__file__).parents[3] / "tests" / "data" / "perguntas_dos_exemplos.jsonl"
    items = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    with KnowledgeBase(place, registry) as kb:
        kb.sync([examples])
        found = {item["question"]: kb.search(item["question"], 4).passages for item in items}
        everywhere = {item["question"]: kb.search(item["question"], 4, threshold=0).passages for item in items}
    known = [item for item in items if item["quote"]]
    first = [q for q in known if (e := everywhere[q["question"]]) and q["quote"] in e[0].text]
    assert len(first) >= 0.9 * len(known)
    right = [item for item in known if any(item["quote"] in p.text for p in found[item["question"]])]
    assert len(right) >= 0.85 * len(known)
    refused = [item for item in items if not item["quote"] and not found[item["question"]]]
    assert len(refused) >= 0.4 * (len(items) - len(known))


@pytest.mark.parametrize(
    "query",
    ["Qual é a capital da Mongólia?", "Quem ganhou a Copa de 1958?", "como instalar o Python no Windows", "xyzzy"],
)
def test_foreign_questions_find_nothing(examples: Path, place: Path, registry: Registry, query: str) -> None:
    with KnowledgeBase(place, registry) as kb:
        kb.sync([examples])
        found = kb.search(query)
        assert found.passages == []
        assert found.confidence < 0.3
        assert kb.search(query, threshold=0.0).passages or query == "xyzzy"


# --- what is read, and what is not ---


def test_formats_and_faults(write: Write, place: Path, registry: Registry) -> None:
    docs = write(
        **{
            "bom.md": A,
            "latin.txt": "A canção da manhã é tão bonita.\n".encode("latin-1"),
            "utf16.txt": "O chapéu de palha custa cinco reais.\n".encode("utf-16"),
            "faq.csv": "pergunta,resposta\nQual é o ramal da gráfica?,O ramal da gráfica é 214.\n",
            "linhas.jsonl": '{"text": "O barco sai às sete da manhã."}\nruim\n{"text": "O barco volta à noite."}\n',
            "binario.txt": b"\x00\x01\x02\xff" * 100,
            "vazio.md": "",
            "foto.png": b"\x89PNG",
            ".oculto.md": B,
        }
    )
    with KnowledgeBase(place, registry) as kb:
        summary = kb.sync([docs])
        assert set(summary.added) == {"bom.md", "latin.txt", "utf16.txt", "faq.csv", "linhas.jsonl"}
        assert set(summary.skipped) == {"binario.txt", "vazio.md", "foto.png"}
        assert ".png" not in summary.skipped["foto.png"]
        assert ".md" in summary.skipped["foto.png"]
        assert list(summary.partly) == ["linhas.jsonl"]
        assert summary.partly["linhas.jsonl"][0].startswith("linha 2: JSON inválido")
        assert "canção da manhã" in kb.search("cancao bonita", threshold=0).passages[0].text
        assert sources(kb, "chapeu de palha")[0] == "utf16.txt"
        (row, *_) = kb.search("ramal da gráfica", threshold=0).passages
        assert (row.source, row.line) == ("faq.csv", 2)
        assert kb.search("que horas o barco volta", threshold=0).passages[0].line == 3
        # What could not be read is not read again, and still said.
        again = kb.sync([docs])
        assert (again.skipped, again.partly, again.unchanged) == (summary.skipped, summary.partly, 5)


@pytest.mark.parametrize("content", [{}, {"x.bin": b"1"}, {"a.txt": b"\x00\x01\x02\xff" * 50, "b.md": "  \n"}])
def test_nothing_to_read_is_said(write: Write, tmp_path: Path, place: Path, registry: Registry, content: dict) -> None:
    (tmp_path / "docs").mkdir()
    docs = write(**content) if content else tmp_path / "docs"
    with KnowledgeBase(place, registry) as kb:
        with pytest.raises(UsageError) as error:
            kb.sync([docs])
        assert str(docs) in error.value.text
        assert all(name in error.value.text for name in content)
        with pytest.raises(UsageError, match="não existe"):
            kb.sync([tmp_path / "nada"])


def test_patterns_name_files_and_folders(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A, "sub/b.md": B, "sub/c.txt": C, ".oculto/d.md": A, "outra/x/e.md": A})

    def read(*patterns: Path) -> set[str]:
        with KnowledgeBase(place, registry) as kb:
            kb.sync(patterns)
            return set(kb.store.files())

    assert read(docs / "*.md") == {"a.md"}
    assert read(docs / "**" / "*.md") == {"a.md", "sub/b.md", "outra/x/e.md"}
    assert read(docs / "s*") == {"sub/b.md", "sub/c.txt"}
    assert read(docs / "*" / "*.md", docs / "sub") == {"docs/sub/b.md", "sub/b.md", "sub/c.txt"}
    with KnowledgeBase(place, registry) as kb, pytest.raises(UsageError, match="corresponde"):
        kb.sync([docs / "*.pdf"])
    write(**{"[1].md": B})
    assert read(docs / "[1].md") == {"[1].md"}, "a file of that very name is no pattern"


def test_several_folders(write: Write, tmp_path: Path, place: Path, registry: Registry) -> None:
    docs = write(**{"x/a.md": A, "y/a.md": B, "solto.md": C})
    with KnowledgeBase(place, registry) as kb:
        assert kb.sync([docs / "x", docs / "y", docs / "solto.md"]).added == ["x/a.md", "y/a.md", "solto.md"]
    assert place_for([docs / "x"]) == place_for([docs / "y" / ".." / "x"]) != place_for([docs / "y"])


def test_places(home: Path) -> None:
    assert place_of("manuais") == home / "data" / "knowledge" / "manuais"
    assert place_of("./x") == Path("x")
    for bad in ("Más", "a b", "", "a" * 80):
        with pytest.raises(UsageError):
            place_of(bad)


# --- settings ---


def test_another_chunker_cuts_anew(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A + "Uma frase inteira aqui. " * 20})
    with KnowledgeBase(place, registry) as kb:
        assert kb.sync([docs]).chunks == 1
    config = KnowledgeConfig(chunker={"name": "paragraph", "max_chars": 80, "min_chars": 0})
    with KnowledgeBase(place, registry, config) as kb:
        seen: list[str] = []
        assert kb.sync([docs], progress=lambda *told: seen.append(told[0])).chunks > 5
        assert set(seen) == {"indexing"}
        check_whole(kb)


def test_another_retriever_is_made_from_the_database(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
    for config in (
        KnowledgeConfig(retrievers=["tfidf"]),
        KnowledgeConfig(retrievers=[{"name": "bm25", "k1": 2.0}], reranker=None),
    ):
        with KnowledgeBase.open(place, registry, config) as kb:
            assert sources(kb, "sino")[0] == "b.md"
            check_whole(kb)
    with pytest.raises(UsageError, match="bm25"):
        KnowledgeBase.open(place, registry, KnowledgeConfig(retrievers=["bm26"]))


def test_a_rebuild_is_an_update_and_drops_what_has_grown_too_large(
    write: Write, place: Path, registry: Registry
) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    with KnowledgeBase(place, registry, KnowledgeConfig(max_file_mb=1)) as kb:
        kb.sync([docs])
        summary = kb.sync([docs], rebuild=True)
        assert (summary.added, summary.updated) == ([], ["a.md", "b.md"])
        write(**{"a.md": "o sino " * 200_000})
        summary = kb.sync([docs], rebuild=True)
        assert (summary.updated, summary.removed, list(summary.skipped)) == (["b.md"], ["a.md"], ["a.md"])
        assert set(kb.store.files()) == {"b.md"}


# --- damage ---


def test_a_broken_index_is_noticed_and_made_anew(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        expected = [(p.text, p.score) for p in kb.search("sino", threshold=0).passages]
    files = [path for path in (place / "index").glob("*/**/*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        data = path.read_bytes()
        for damaged in (data[: len(data) // 2], b"", data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]):
            path.write_bytes(damaged)
            said: list[str] = []
            with KnowledgeBase.open(place, registry, say=said.append) as kb:
                assert [(p.text, p.score) for p in kb.search("sino", threshold=0).passages] == expected
                assert len(said) == 1
                assert "refeito" in said[0]
        path.unlink()
        with KnowledgeBase.open(place, registry) as kb:
            assert [(p.text, p.score) for p in kb.search("sino", threshold=0).passages] == expected
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["bm25", "tfidf"])
def test_damage_that_opening_does_not_meet_is_met_by_what_needs_it(
    write: Write, place: Path, registry: Registry, name: str
) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        expected = [(p.text, p.score) for p in kb.search("sino", threshold=0).passages]
    path = place / "index" / name / "data" / "postings.safetensors"
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    middle = sum(header["rows"]["data_offsets"]) // 2 + 8 + int.from_bytes(data[:8], "little")

    def damage() -> None:
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])

    for use in ("search", "sync"):
        damage()
        said: list[str] = []
        with KnowledgeBase.open(place, registry, say=said.append) as kb:
            assert [item.state for item in kb.conditions() if item.name == name] == ["damaged"]
            if use == "search":
                assert [(p.text, p.score) for p in kb.search("sino", threshold=0).passages] == expected
            else:
                write(**{"c.md": "Um sino novo.\n"})
                kb.sync([docs])
                check_whole(kb)
            assert [name in text and "refeito" in text for text in said] == [True]
            assert kb.search("sino", threshold=0).passages
    with KnowledgeBase.open(place, registry, say=said.append) as kb:
        assert {item.state for item in kb.conditions()} == {"whole"}
    assert len(said) == 1


def test_the_index_of_another_knowledge_base_is_not_used(write: Write, tmp_path: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    for name, path in (("one", docs / "a.md"), ("two", docs / "b.md")):
        with KnowledgeBase(tmp_path / name, registry) as kb:
            kb.sync([path])
    durable.remove_folder(tmp_path / "one" / "index")
    (tmp_path / "two" / "index").rename(tmp_path / "one" / "index")
    with KnowledgeBase.open(tmp_path / "one", registry) as kb:
        assert sources(kb, "biblioteca") == ["a.md"]
        check_whole(kb)


def test_a_torn_database_is_an_integrity_error(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A})
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
    database = place / "knowledge.sqlite"
    database.write_bytes(b"nothing of the kind" + database.read_bytes()[19:])
    with pytest.raises(IntegrityError):
        KnowledgeBase(place, registry)


def test_what_is_no_knowledge_base_is_left_alone(tmp_path: Path, registry: Registry) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").write_bytes(b"1")
    with pytest.raises(UsageError):
        KnowledgeBase(tmp_path / "photos", registry)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["x.jpg"]
    with pytest.raises(UsageError):
        KnowledgeBase.open(tmp_path / "nada", registry)
    assert not (tmp_path / "nada").exists()
    (tmp_path / "other").mkdir()
    connection = sqlite3.connect(tmp_path / "other" / "knowledge.sqlite")
    connection.execute("CREATE TABLE x (y)")
    connection.commit()
    connection.close()
    with pytest.raises(UsageError):
        KnowledgeBase(tmp_path / "other", registry)


def test_an_index_that_is_not_there_is_said_until_it_is_written(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    said: list[str] = []
    with KnowledgeBase(place, registry, say=said.append) as kb:
        kb.warm_up()  # nothing is in it yet: nothing is missing
        kb.sync([docs])
    assert said == []
    durable.remove_folder(place / "index" / "tfidf")
    for _ in range(2):  # a search writes nothing
        said.clear()
        with KnowledgeBase.open(place, registry, say=said.append) as kb:
            assert sources(kb, "sino")[0] == "b.md"
        assert len(said) == 1
        assert "“tfidf”" in said[0]
        assert "passa sem ele" in said[0]
        assert "luna index" in said[0]
        assert "--repair" in said[0]
    durable.remove_folder(place / "index" / "bm25")
    said.clear()
    with KnowledgeBase.open(place, registry, say=said.append) as kb:  # with no index at all it makes them
        assert sources(kb, "sino")[0] == "b.md"
        assert kb.retrievers() == ["bm25", "tfidf"]
    assert ["na memória" in line for line in said] == [True, True]
    with KnowledgeBase.open(place, registry) as kb:
        kb.repair()
    durable.remove_folder(place / "index" / "tfidf")
    said.clear()
    with KnowledgeBase.open(place, registry, say=said.append) as kb:
        assert kb.retrievers() == ["bm25"]
        kb.repair()  # what was left out is made now
        assert sorted(kb.retrievers()) == ["bm25", "tfidf"]
        check_whole(kb)
    assert len(said) == 1
    said.clear()
    with KnowledgeBase.open(place, registry, say=said.append) as kb:
        assert sources(kb, "sino")[0] == "b.md"
    assert said == []


def test_a_newer_format_is_refused(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A})
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        kb.store.set_meta("format", "99")
    with pytest.raises(UsageError, match="99"):
        KnowledgeBase(place, registry)


# --- two processes, and death ---

_INDEXER = """
import sys
from pathlib import Path
from luna_kernel.plugins import load_plugins
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag import filling
from luna_plugin_rag.knowledge_base import KnowledgeBase
filling._FLUSH_FILES = 3
kb = KnowledgeBase(Path(sys.argv[1]), load_plugins("rag").registry)
print("go", flush=True)
kb.sync([Path(sys.argv[2])], wait=60)
print("done", flush=True)
"""


def start(place: Path, docs: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _INDEXER, str(place), str(docs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_reader_sees_what_another_process_writes(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A})
    with KnowledgeBase(place, registry) as reader:
        reader.sync([docs])
        assert sources(reader, "sino") == []
        write(**{"b.md": B})
        with start(place, docs) as other:
            assert other.wait(60) == 0
        assert sources(reader, "sino")[0] == "b.md"
        check_whole(reader)


def test_two_writers_wait_for_each_other(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{f"{i}.md": B.replace("180", str(i)) for i in range(30)})
    with start(place, docs) as one, start(place, docs) as two:
        assert one.wait(60) == two.wait(60) == 0
    with KnowledgeBase.open(place, registry) as kb:
        assert kb.store.counts() == {"files": 30, "documents": 30, "chunks": 30}
        check_whole(kb)
        with durable.lock(place / "lock"), pytest.raises(UsageError):
            kb.sync([docs], wait=0)


@pytest.mark.fault
def test_killed_while_indexing_it_opens_whole(write: Write, tmp_path: Path, registry: Registry) -> None:
    docs = write(**{f"{i:02}.md": (A + B + C).replace("180", str(i)) for i in range(40)})
    with KnowledgeBase(tmp_path / "calm", registry) as kb:
        kb.sync([docs])
        expected = [(p.source, p.text, round(p.score, 5)) for p in kb.search("sino 17 quilos", threshold=0).passages]
    place = tmp_path / "kb"
    seen = set()
    for attempt in range(12):
        if attempt % 4 == 0:
            durable.remove_folder(place)
        with start(place, docs) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.03 * (attempt % 4) + 0.02 * attempt)
            process.kill()
        with KnowledgeBase(place, registry) as kb:
            check_whole(kb)
            seen.add(kb.store.counts()["files"])
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        check_whole(kb)
        found = [(p.source, p.text, round(p.score, 5)) for p in kb.search("sino 17 quilos", threshold=0).passages]
    assert found[0] == expected[0]
    assert sorted(found) == sorted(expected)
