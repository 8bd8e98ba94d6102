"""Documents in a real PostgreSQL: the suite of knowledge stores, the verbs, and what goes wrong."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from luna_plugin_pgvector.config import ServerConfig
from luna_plugin_pgvector.rows import escaped, plain
from luna_plugin_pgvector.store import PostgresStore
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.verification import verify

from luna_kernel.base.errors import IntegrityError, StorageError, UsageError
from luna_kernel.cli.main import cli
from luna_kernel.contracts.knowledge import BaseGoneError, KnowledgeStore
from luna_kernel.plugins.registry import Registry
from luna_kernel.testing.knowledge import Again, KnowledgeStoreConformance, Make, cut_file

from .conftest import PASSWORD, Cluster

STORE = KnowledgeConfig(store={"name": "postgres"})
TEXTS = {
    "a.md": "# Capela\n\nO sino da capela pesa 180 quilos.\n",
    "b.md": "# Bolo\n\nO bolo de fubá leva quatro ovos.\n",
    "sub/c.txt": "Os livros da biblioteca voltam em catorze dias.\n",
}


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "kb"


def luna(*args: object, status: int = 0, **more: Any) -> Result:
    done = CliRunner().invoke(cli, ["--plugins", "rag,pgvector", *map(str, args)], **more)
    assert done.exit_code == status, done.output
    assert PASSWORD not in done.output
    return done


class TestPostgresStore(KnowledgeStoreConformance):
    @pytest.fixture
    def new(self, vectors: str, tmp_path: Path) -> Make:
        numbers = itertools.count()
        return lambda: PostgresStore(None, tmp_path / f"kb{next(numbers)}")

    @pytest.fixture
    def again(self) -> Again:
        def open_again(store: KnowledgeStore) -> KnowledgeStore:
            assert isinstance(store, PostgresStore)
            return PostgresStore(store.config, store.folder, store.id)

        return open_again


class TestFromAnotherMachine(TestPostgresStore):
    """The same base in another folder: only the server keeps two writers apart."""

    @pytest.fixture
    def again(self, tmp_path: Path) -> Again:
        numbers = itertools.count()

        def open_again(store: KnowledgeStore) -> KnowledgeStore:
            assert isinstance(store, PostgresStore)
            return PostgresStore(store.config, tmp_path / f"machine{next(numbers)}", store.id)

        return open_again


@given(st.text(alphabet=st.sampled_from("\0\x1a0aé")))
def test_escaped_texts_have_no_nul_and_come_back(text: str) -> None:
    assert "\0" not in escaped(text)
    assert plain(escaped(text)) == text


# --- the verbs -------------------------------------------------------------------------------------------------------


def test_the_verbs(vectors: str, docs: Path, place: Path, tmp_path: Path) -> None:
    made = json.loads(luna("index", docs, "--kb", place, "--store", "postgres", "--json").stdout)
    assert (made["files"], made["documents"]) == (3, 3)
    assert not (place / "knowledge.sqlite").exists()
    found = json.loads(luna("search", "quanto pesa o sino", "--kb", place, "--json").stdout)
    assert found["passages"][0]["source"] == "a.md"
    first = found["passages"][0]
    assert TEXTS["a.md"][first["start"] : first["end"]] == first["text"]
    stats = json.loads(luna("kb", "stats", "--kb", place, "--json").stdout)
    assert (stats["files"], stats["documents"]) == (3, 3)
    assert stats["characters"] == sum(map(len, TEXTS.values()))
    assert stats["database_bytes"] > stats["characters"]
    assert stats["formats"][".md"] == {"files": 2, "documents": 2, "chunks": 2}
    assert stats["created"] <= stats["changed"]
    assert "127.0.0.1" in stats["store"]
    assert "Inteira" in luna("kb", "verify", "--kb", place).stdout
    (docs / "a.md").write_text(TEXTS["a.md"].replace("180", "190"))
    done = json.loads(luna("index", docs, "--kb", place, "--json").stdout)  # it remembers where the documents are
    assert (done["added"], done["updated"], done["unchanged"]) == ([], ["a.md"], 2)
    luna("kb", "remove", "--kb", place, "b.md", "--yes")
    luna("kb", "export", "--kb", place, "-o", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["source"] for line in lines} == {"a.md", "sub/c.txt"}
    assert any("190" in line["text"] for line in lines)
    luna("index", docs, "--kb", place, "--store", "sqlite", status=2)
    luna("index", docs, "--kb", tmp_path / "other", "--store", "postgress", status=2)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


def test_a_copied_folder_is_the_same_base(vectors: str, docs: Path, tmp_path: Path, registry: Registry) -> None:
    with KnowledgeBase(tmp_path / "here", registry, STORE) as kb:
        kb.sync([docs])
        (tmp_path / "there").mkdir()
        (tmp_path / "there" / "store.json").write_bytes((tmp_path / "here" / "store.json").read_bytes())
        with KnowledgeBase.open(tmp_path / "there", registry) as other:
            assert other.search("quanto pesa o sino", threshold=0).passages[0].source == "a.md"
            kb.remove(["a.md"])
            assert {p.source for p in other.search("sino livros bolo", 9, threshold=0).passages} <= {
                "b.md",
                "sub/c.txt",
            }


def test_nothing_read_leaves_nothing(vectors: str, tmp_path: Path, place: Path) -> None:
    (tmp_path / "empty").mkdir()
    PostgresStore(None, tmp_path / "another").close()
    with psycopg.connect(vectors) as connection:
        before = connection.execute("SELECT count(*) FROM luna.knowledge_bases").fetchone()
    luna("index", tmp_path / "empty", "--kb", place, "--store", "postgres", status=2)
    assert not place.exists()
    with psycopg.connect(vectors) as connection:
        assert connection.execute("SELECT count(*) FROM luna.knowledge_bases").fetchone() == before


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("UPDATE luna.knowledge_documents SET text = replace(text, 'sino', 'sono') WHERE base = %s", "document"),
        ("UPDATE luna.knowledge_chunks SET text = replace(text, '180', '910') WHERE base = %s", "chunk"),
        ('UPDATE luna.knowledge_chunks SET "end" = "end" + 500 WHERE base = %s', "chunk"),
        ("DELETE FROM luna.knowledge_chunks WHERE id = 1 AND base = %s", "index"),
        ("DELETE FROM luna.knowledge_documents WHERE source = 'a.md' AND base = %s", "orphan"),
        ("UPDATE luna.knowledge_bases SET last_chunk = 1 WHERE id = %s", "database"),
    ],
)
def test_damage_is_found(vectors: str, docs: Path, place: Path, registry: Registry, damage: str, kind: str) -> None:
    with KnowledgeBase(place, registry, STORE) as kb:
        kb.sync([docs])
        assert verify(kb) == []
        base = kb.store.id
    with psycopg.connect(vectors) as connection:
        connection.execute("SET session_replication_role = replica")  # references are not looked after
        connection.execute(damage, (base,))
    found = json.loads(luna("kb", "verify", "--kb", place, "--json", status=1).stdout)
    assert kind in {item["kind"] for item in found["findings"]}
    with psycopg.connect(vectors) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM luna.knowledge_chunks WHERE base = %s", (base,))


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_another_server_is_not_taken_for_an_empty_one(
    vectors: str, docs: Path, place: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KnowledgeBase(place, registry, STORE) as kb:
        kb.sync([docs])
    with psycopg.connect(vectors, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS outro")
        connection.execute("CREATE DATABASE outro")
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", vectors.replace("/postgres", "/outro"))
    for verb in (("search", "sino"), ("kb", "stats"), ("kb", "verify")):
        assert "LUNA_PGVECTOR_DSN" in luna(*verb, "--kb", place, status=2).output
    assert "LUNA_PGVECTOR_DSN" in luna("index", docs, "--kb", place, status=2).output
    made = json.loads(luna("index", docs, "--kb", place, "--rebuild", "--json").stdout)  # said: it was lost
    assert made["files"] == 3
    assert json.loads((place / "store.json").read_text())["store"]["name"] == "postgres"
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", vectors)
    assert "LUNA_PGVECTOR_DSN" in luna("kb", "stats", "--kb", place, status=2).output


@pytest.mark.parametrize(
    "dsn", ["postgresql://luna:x@127.0.0.1:1/luna", "isto não é nada", "host=127.0.0.1 port=99999"]
)
def test_no_server_leaves_nothing_behind(docs: Path, place: Path, monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", dsn)
    assert "LUNA_PGVECTOR_DSN" in luna("index", docs, "--kb", place, "--store", "postgres", status=2).output
    assert not place.exists() or not [item for item in place.iterdir() if item.name != "lock"]


def test_a_newer_format_is_left_alone(vectors: str, docs: Path, place: Path, registry: Registry) -> None:
    with KnowledgeBase(place, registry, STORE) as kb:
        kb.sync([docs])
        base = kb.store.id
    with psycopg.connect(vectors) as connection:
        connection.execute("UPDATE luna.knowledge_bases SET format = 7 WHERE id = %s", (base,))
    assert "7" in luna("index", docs, "--kb", place, "--rebuild", status=2).output


def test_a_database_in_another_encoding_is_refused(vectors: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(vectors, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS latino")
        connection.execute("CREATE DATABASE latino ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", vectors.replace("/postgres", "/latino"))
    with pytest.raises(UsageError, match="LATIN1"):
        PostgresStore(None, place)


def test_a_user_without_rights_to_make_tables_fills_what_is_there(
    vectors: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    PostgresStore(None, place / "first").close()
    with psycopg.connect(vectors) as connection:
        connection.execute("DROP ROLE IF EXISTS pobre")
        connection.execute("CREATE ROLE pobre LOGIN PASSWORD 'x'")
        connection.execute("GRANT USAGE ON SCHEMA luna TO pobre")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA luna TO pobre")
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", vectors.replace(f"luna:{PASSWORD}", "pobre:x"))
    store = PostgresStore(None, place / "second")
    store.put([cut_file("a.md", "um texto")])
    store.remove(["a.md"], erase=True)
    with pytest.raises(UsageError, match=r"127\.0\.0\.1"):
        PostgresStore(ServerConfig(database_schema="outro_esquema"), place / "third")
    store.close()
    with psycopg.connect(vectors) as connection:
        connection.execute("DROP OWNED BY pobre")
        connection.execute("DROP ROLE pobre")


def test_a_server_that_was_started_again_is_asked_again(
    cluster: Cluster, docs: Path, place: Path, registry: Registry
) -> None:
    config = STORE.model_copy(update={"retrievers": ({"name": "pgtext"}, {"name": "pgvector"})})
    with KnowledgeBase(place, registry, config) as kb:
        kb.sync([docs])
        before = [passage.source for passage in kb.search("quanto pesa o sino", threshold=0).passages]
        cluster.stop()
        with pytest.raises(UsageError):
            kb.search("quanto pesa o sino", threshold=0)
        cluster.start()
        assert [passage.source for passage in kb.search("quanto pesa o sino", threshold=0).passages] == before
        kb.sync([docs], rebuild=True)
        assert verify(kb) == []


def test_a_lost_connection_loses_the_turn_to_write(cluster: Cluster, place: Path) -> None:
    store = PostgresStore(None, place)
    with pytest.raises(StorageError, match=r"127\.0\.0\.1"), store.lock():  # noqa: PT012  the block is the matter
        store.put([cut_file("a.md", "um")])
        cluster.stop()
        cluster.start()
        store.put([cut_file("b.md", "dois")])
    assert set(store.files()) == {"a.md"}
    with store.lock():
        store.put([cut_file("b.md", "dois")])
    assert store.counts()["files"] == 2
    store.close()


def test_a_base_deleted_meanwhile(vectors: str, place: Path) -> None:
    store, other = PostgresStore(None, place), None
    other = PostgresStore(None, place, store.id)
    store.discard()
    with pytest.raises(BaseGoneError):
        other.put([cut_file("a.md", "um")])
    with pytest.raises(BaseGoneError):
        assert other.generation
    other.close()


def test_a_broken_pointer_is_made_anew_from_the_documents(
    vectors: str, docs: Path, place: Path, registry: Registry
) -> None:
    with KnowledgeBase(place, registry, STORE) as kb:
        kb.sync([docs])
    (place / "store.json").write_text("{")
    with pytest.raises(IntegrityError):
        KnowledgeBase.open(place, registry)
    luna("index", docs, "--kb", place, status=1)
    luna("index", docs, "--kb", place, "--rebuild", "--store", "postgres")
    with KnowledgeBase.open(place, registry) as kb:
        assert verify(kb) == []


def test_one_indexes_while_others_search(vectors: str, docs: Path, tmp_path: Path, registry: Registry) -> None:
    with KnowledgeBase(tmp_path / "one", registry, STORE) as kb:
        kb.sync([docs])
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "store.json").write_bytes((tmp_path / "one" / "store.json").read_bytes())
    failed: list[BaseException] = []
    stop = threading.Event()

    def in_thread(work: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except Exception as error:
                failed.append(error)

        started = threading.Thread(target=run)
        started.start()
        return started

    def index(folder: str) -> None:
        with KnowledgeBase(tmp_path / folder, registry, STORE) as mine:
            for number in range(5):
                mine.sync([docs], rebuild=bool(number % 2), wait=60)
                mine.remove(["b.md"], wait=60)

    def search() -> None:
        with KnowledgeBase.open(tmp_path / "two", registry) as mine:
            while not stop.is_set():
                for passage in mine.search("quanto pesa o sino", 5, threshold=0).passages:
                    assert TEXTS[passage.source][passage.start : passage.end] == passage.text

    writers = [in_thread(lambda name=name: index(name)) for name in ("one", "two")]  # type: ignore[misc]
    reader = in_thread(search)
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    assert failed == []
    with KnowledgeBase.open(tmp_path / "two", registry) as kb:
        kb.sync([docs])
        assert verify(kb) == []
