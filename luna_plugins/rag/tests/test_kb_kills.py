"""Processes that are killed while they index or remove, and processes that work on one knowledge base at once."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.verification import verify

from luna_kernel.plugins.registry import Registry

pytestmark = [
    pytest.mark.fault,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

KILLS, FILES = 100, 12
TOPICS = ("sino", "forno", "navio", "juiz", "livro", "trem")


def text_of(number: int, version: int) -> str:
    """A document that tells its number and version in every paragraph."""
    topic = TOPICS[number % len(TOPICS)]
    filled = "é antigo e " * 12
    body = [
        f"Parágrafo {place} do documento {number}, versão v{version}v: o {topic} {filled}pesa {place} quilos."
        for place in range(6)
    ]
    return f"# Documento {number}\n\n" + "\n\n".join(body) + "\n"


def write_documents(docs: Path, version: int, rng: random.Random) -> None:
    """A third of the files change, come or go."""
    docs.mkdir(exist_ok=True)
    for number in range(FILES):
        fate = rng.random()
        path = docs / f"d{number}.md"
        if version == 0 or fate < 0.25:
            path.write_text(text_of(number, version), encoding="utf-8")
        elif fate < 0.33 and number:
            path.unlink(missing_ok=True)


def in_child(job: Callable[[], object]) -> int:
    """Start a process that does `job` and leaves with 0, or with 1 and a traceback."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            job()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return pid


def check_whole(place: Path, registry: Registry, versions: int) -> bool:
    """Whether the kill came between two of its steps, so that an index is behind.

    It opens; every file in it is whole, of one version, and every chunk and index entry is where it belongs."""
    said: list[str] = []
    with KnowledgeBase(place, registry, say=said.append) as kb:
        # An index may be behind the database after a kill: it follows at the next search. Nothing may be damaged.
        wrong = [item for item in verify(kb) if item.is_damage]
        assert all(item.kind == "index" for item in wrong), wrong
        states = {item.state for item in kb.conditions()}
        assert not states & {"damaged", "other"}
        for document, chunks in kb.store.whole_documents():
            number = int(document.source[1:].split(".")[0])
            assert document.text in {text_of(number, version) for version in range(versions + 1)}
            assert "".join(chunk.text for chunk in chunks) == document.text
        held = kb.store.chunk_ids()
        if held:
            found = kb.search("quantos quilos pesa o sino", 10, threshold=0.0).passages
            assert {passage.metadata["chunk"] for passage in found} <= held
        assert all(index.retriever.ids() == held for index in kb._indexes.current())
    assert said == []
    return "behind" in states


def test_a_hundred_kills_leave_whole_files_in_or_out(tmp_path: Path, registry: Registry) -> None:
    place, docs, rng = tmp_path / "kb", tmp_path / "docs", random.Random(11)
    write_documents(docs, 0, rng)

    def work() -> None:
        with KnowledgeBase(place, registry) as kb:
            while True:
                kb.sync([docs])
                kb.remove(sorted(kb.store.files())[:2])
                kb.sync([docs], rebuild=True)

    behind = 0
    for version in range(1, KILLS + 1):
        write_documents(docs, version, rng)
        pid = in_child(work)
        time.sleep(rng.uniform(0.0, 0.6))
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        behind += check_whole(place, registry, version)
    assert 0 < behind < KILLS  # they hit the middle of the work, and not only that
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        assert verify(kb) == []
        assert {d.source: d.text for d, _ in kb.store.whole_documents()} == {
            path.name: path.read_text(encoding="utf-8") for path in docs.iterdir()
        }
    left = [path.name for path in place.rglob("*") if "luna-" in path.name]
    assert left == []


def test_two_index_while_two_search(tmp_path: Path, registry: Registry) -> None:
    place, docs, rng = tmp_path / "kb", tmp_path / "docs", random.Random(5)
    write_documents(docs, 0, rng)
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
    stop = tmp_path / "stop"

    def index(seed: int) -> None:
        own = random.Random(seed)
        with KnowledgeBase(place, registry) as kb:
            for _ in range(6):
                kb.sync([docs], rebuild=own.random() < 0.5, wait=60)
                kb.remove([own.choice(sorted(kb.store.files()))], wait=60)

    def search() -> None:
        said: list[str] = []
        asked = 0
        with KnowledgeBase(place, registry, say=said.append) as kb:
            while not stop.exists():
                for passage in kb.search("quantos quilos pesa o navio", 5, threshold=0.0).passages:
                    number = int(passage.source[1:].split(".")[0])
                    assert text_of(number, 0)[passage.start : passage.end] == passage.text
                asked += 1
        assert asked > 3
        assert said == []

    writers = [in_child(lambda seed=seed: index(seed)) for seed in (1, 2)]
    readers = [in_child(search) for _ in range(2)]
    ends = [os.waitpid(pid, 0)[1] for pid in writers]
    stop.touch()
    ends += [os.waitpid(pid, 0)[1] for pid in readers]
    assert ends == [0, 0, 0, 0]
    with KnowledgeBase(place, registry) as kb:
        kb.sync([docs])
        assert verify(kb) == []
