"""Processes and servers that are killed while documents are indexed into PostgreSQL."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.verification import verify

from luna_kernel.plugins.registry import Registry

from .conftest import Cluster

pytestmark = [pytest.mark.fault, pytest.mark.slow, pytest.mark.timeout(900)]

KILLS, CRASHES, FILES = 100, 6, 12
CONFIG = KnowledgeConfig(store={"name": "postgres"}, retrievers=({"name": "bm25"}, {"name": "pgtext"}))
TOPICS = ("sino", "forno", "navio", "juiz", "livro", "trem")

WORK = """
import sys
from pathlib import Path
from luna_kernel.plugins import load_plugins
from luna_plugin_rag.knowledge_base import KnowledgeBase
place, docs = map(Path, sys.argv[1:])
with KnowledgeBase.open(place, load_plugins("rag,pgvector").registry) as kb:
    print("open", flush=True)
    while True:
        kb.sync([docs], wait=60)
        kb.remove(sorted(kb.store.files())[:2], wait=60)
        kb.sync([docs], rebuild=True, wait=60)
"""

DIES = """
import os, signal, sys
from pathlib import Path
from luna_kernel.plugins import load_plugins
from luna_plugin_pgvector.collection import CollectionRetriever
from luna_plugin_rag.knowledge_base import KnowledgeBase
place, docs, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
work = getattr(CollectionRetriever, moment)
def die(self, *args):
    if moment == "save":
        work(self, *args)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(CollectionRetriever, moment, die)
with KnowledgeBase.open(place, load_plugins("rag,pgvector").registry) as kb:
    kb.sync([docs], rebuild=True)
"""
"""Ends by a signal when the collection has been saved, or when its pointer has been placed and nothing after that."""


def text_of(number: int, version: int) -> str:
    """A document that tells its number and version in every paragraph."""
    subject = f"o {TOPICS[number % 6]} " + "é antigo e " * 12
    body = [
        f"Parágrafo {place} do documento {number}, versão v{version}v: {subject}pesa {place} quilos."
        for place in range(6)
    ]
    return f"# Documento {number}\n\n" + "\n\n".join(body) + "\n"


def write_documents(docs: Path, version: int, rng: random.Random) -> None:
    """A quarter of the files change, some go."""
    docs.mkdir(exist_ok=True)
    for number in range(FILES):
        fate = rng.random()
        if version == 0 or fate < 0.25:
            (docs / f"d{number}.md").write_text(text_of(number, version), encoding="utf-8")
        elif fate < 0.33 and number:
            (docs / f"d{number}.md").unlink(missing_ok=True)


def start(place: Path, docs: Path) -> subprocess.Popen[bytes]:
    """A process that indexes and removes until it is stopped."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(place), str(docs)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def check_whole(place: Path, registry: Registry, versions: int) -> bool:
    """Whether an index is behind; every file is whole and of one version, and nothing is damaged."""
    said: list[str] = []
    with KnowledgeBase.open(place, registry, say=said.append) as kb:
        wrong = [item for item in verify(kb) if item.is_damage]
        assert all(item.kind == "index" for item in wrong), wrong
        states = {item.state for item in kb.conditions()}
        assert not states & {"damaged", "other"}
        for document, chunks in kb.store.whole_documents():
            number = int(document.source[1:].split(".")[0])
            assert document.text in {text_of(number, version) for version in range(versions + 1)}
            assert "".join(chunk.text for chunk in chunks) == document.text
        held = kb.store.chunk_ids()
        found = kb.search("quantos quilos pesa o sino", 10, threshold=0.0).passages
        assert {passage.metadata["chunk"] for passage in found} <= held
        assert all(index.retriever.ids() == held for index in kb._indexes.current())
    assert said == []
    return "behind" in states


def begin(tmp_path: Path, registry: Registry, rng: random.Random) -> tuple[Path, Path]:
    """A knowledge base and its documents."""
    place, docs = tmp_path / "kb", tmp_path / "docs"
    write_documents(docs, 0, rng)
    with KnowledgeBase(place, registry, CONFIG) as kb:
        kb.sync([docs])
    return place, docs


def check_end(place: Path, docs: Path, registry: Registry) -> None:
    """One more synchronisation makes all as the folder is."""
    with KnowledgeBase.open(place, registry) as kb:
        kb.sync([docs], wait=60)
        assert verify(kb) == []
        assert {d.source: d.text for d, _ in kb.store.whole_documents()} == {
            path.name: path.read_text(encoding="utf-8") for path in docs.iterdir()
        }


def test_killed_processes_leave_whole_files_in_or_out(vectors: str, tmp_path: Path, registry: Registry) -> None:
    rng = random.Random(11)
    place, docs = begin(tmp_path, registry, rng)
    behind = 0
    for version in range(1, KILLS + 1):
        write_documents(docs, version, rng)
        process = start(place, docs)
        time.sleep(rng.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        behind += check_whole(place, registry, version)
    assert 0 < behind < KILLS  # they hit the middle of the work, and not only that
    check_end(place, docs, registry)
    with psycopg.connect(vectors) as connection:  # the server let go of what the dead held
        held = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
    assert held == (0,)


@pytest.mark.parametrize("moment", ["save", "placed"])
def test_a_death_around_the_pointers_placing_leaves_no_collection(
    vectors: str, tmp_path: Path, registry: Registry, moment: str
) -> None:
    with psycopg.connect(vectors) as connection:
        connection.execute("DROP SCHEMA IF EXISTS luna CASCADE")
    place, docs = begin(tmp_path, registry, random.Random(3))
    for number in range(1, 9):  # so much is gone that the index is made anew, in a collection of its own
        (docs / f"d{number}.md").unlink()
    died = subprocess.run([sys.executable, "-c", DIES, str(place), str(docs), moment], capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    with psycopg.connect(vectors) as connection:
        before = connection.execute("SELECT count(*) FROM luna.collections").fetchone()
    check_end(place, docs, registry)
    with psycopg.connect(vectors) as connection:
        connection.execute("UPDATE luna.collections SET made = now() - interval '2 days' WHERE NOT saved")
    (docs / "d0.md").write_text(text_of(0, 1), encoding="utf-8")
    check_end(place, docs, registry)  # a later writing sweeps
    pointer = json.loads((place / "index" / "pgtext" / "data" / "collection.json").read_text(encoding="utf-8"))
    with psycopg.connect(vectors) as connection:
        left = connection.execute("SELECT count(*) FROM luna.collections").fetchone()
        needed = connection.execute("SELECT saved FROM luna.collections WHERE id = %s", (pointer["collection"],))
        assert needed.fetchone() == (True,)
    assert before == (2,)
    assert left == (1,)


def test_a_server_that_crashes_leaves_whole_files_in_or_out(
    cluster: Cluster, tmp_path: Path, registry: Registry
) -> None:
    rng = random.Random(7)
    place, docs = begin(tmp_path, registry, rng)
    for version in range(1, CRASHES + 1):
        write_documents(docs, version, rng)
        process = start(place, docs)
        time.sleep(rng.uniform(0.0, 0.5))
        cluster.stop(signal.SIGQUIT)  # all of its processes at once, without a checkpoint
        _, told = process.communicate(timeout=60)
        assert process.returncode not in (0, -signal.SIGKILL)
        assert b"Nada deste passo foi escrito" in told or b"LUNA_PGVECTOR_DSN" in told, told.decode()
        cluster.start()
        check_whole(place, registry, version)
    check_end(place, docs, registry)


def test_a_backend_that_is_killed_ends_the_work_with_an_error(vectors: str, tmp_path: Path, registry: Registry) -> None:
    rng = random.Random(5)
    place, docs = begin(tmp_path, registry, rng)
    process = start(place, docs)
    with psycopg.connect(vectors, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'luna'")
    process.communicate(timeout=60)
    assert process.returncode == 1
    check_whole(place, registry, 0)
    check_end(place, docs, registry)
