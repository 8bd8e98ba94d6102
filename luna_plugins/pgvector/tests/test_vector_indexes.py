"""The indexes of pgvector on a real server: what they find beside the exact search, and what becomes of old ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from luna_plugin_pgvector.config import VectorConfig
from luna_plugin_pgvector.vectors import VectorRetriever, lists_for
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase

from luna_kernel.base.errors import ConfigError, UsageError
from luna_kernel.contracts.retrievers import Encoder
from luna_kernel.plugins.registry import Registry

ROWS, LENGTH, K = 3000, 24, 10


class Clustered(Encoder):
    """A text is the number of a row of fixed vectors that lie in clusters, as those of passages do."""

    def __init__(self, config: Any = None, dimension: int = LENGTH) -> None:
        super().__init__(config)
        rng = np.random.default_rng(3)
        centres = rng.standard_normal((40, dimension))
        rows = centres[rng.integers(0, 40, ROWS + 200)] + 0.5 * rng.standard_normal((ROWS + 200, dimension))
        self.table = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        self.dimension = dimension

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Any:
        return self.table[[int(text) for text in texts]]

    def save(self, folder: Path) -> None:
        """Nothing to keep."""

    @classmethod
    def load(cls, config: Any, folder: Path) -> Clustered:
        return cls(config)


@pytest.fixture
def chosen(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder in the place of `lsa`, which would have to learn from texts."""
    component = registry.get("encoder", "lsa")
    monkeypatch.setattr(type(component), "load", lambda self: Clustered if self.kind == "encoder" else load(self))
    load = type(component).load


def filled(registry: Registry, folder: Path, **settings: Any) -> VectorRetriever:
    retriever = VectorRetriever(VectorConfig(**settings), registry)
    retriever.add(range(ROWS), [str(number) for number in range(ROWS)])
    folder.mkdir()
    retriever.save(folder)
    return retriever


def plan(retriever: VectorRetriever, dsn: str) -> str:
    """How the server finds the nearest vectors."""
    with retriever.server.transaction() as cursor:
        retriever._effort(cursor, K)
        statement = retriever.nearest(cursor)
        cursor.execute(
            "EXPLAIN " + statement.as_string(cursor), ("[" + ",".join("0.1" for _ in range(LENGTH)) + "]", K)
        )  # type: ignore[operator]
        return "\n".join(row[0] for row in cursor)


def recall(retriever: VectorRetriever, exact: VectorRetriever) -> float:
    found = 0
    for number in range(ROWS, ROWS + 100):
        wanted = {hit.chunk_id for hit in exact.search(str(number), K)}
        found += len(wanted & {hit.chunk_id for hit in retriever.search(str(number), K)})
    return found / (100 * K)


@pytest.mark.usefixtures("chosen")
@pytest.mark.parametrize("settings", [{"index": "hnsw"}, {"index": "ivfflat", "lists": 30, "probes": 12}])
def test_an_index_is_used_and_finds_nearly_all(
    vectors: str, registry: Registry, tmp_path: Path, settings: dict[str, Any]
) -> None:
    exact = filled(registry, tmp_path / "flat")
    retriever = filled(registry, tmp_path / "index", **settings)
    assert f"vectors_{retriever.collection}" in plan(retriever, vectors)
    assert "vectors_" not in plan(exact, vectors).replace("vectors_pkey", "")
    assert recall(retriever, exact) >= 0.95
    opened = VectorRetriever.load(retriever.config, tmp_path / "index", registry)
    assert recall(opened, exact) >= 0.95
    for hit in opened.search("7", 3):  # scores are cosines, whichever way they were found
        assert hit.score == pytest.approx(float(Clustered().table[7] @ Clustered().table[hit.chunk_id]), abs=1e-5)
    scores = [hit.score for hit in opened.search("7", 50)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 50


@pytest.mark.usefixtures("chosen")
def test_less_effort_finds_less(vectors: str, registry: Registry, tmp_path: Path) -> None:
    """The setting reaches the server."""
    exact = filled(registry, tmp_path / "flat")
    one = filled(registry, tmp_path / "one", index="ivfflat", lists=60, probes=1)
    assert recall(one, exact) < 0.95


@pytest.mark.usefixtures("chosen")
def test_more_hits_than_an_index_gives_are_found_exactly(vectors: str, registry: Registry, tmp_path: Path) -> None:
    exact = filled(registry, tmp_path / "flat", min_score=-1)
    for number, settings in enumerate(({"index": "hnsw"}, {"index": "ivfflat", "lists": 50, "probes": 1})):
        retriever = filled(registry, tmp_path / str(number), min_score=-1, **settings)
        assert [hit.chunk_id for hit in retriever.search("5", 2000)] == [
            hit.chunk_id for hit in exact.search("5", 2000)
        ]


@pytest.mark.usefixtures("chosen")
def test_what_is_removed_or_comes_later(vectors: str, registry: Registry, tmp_path: Path) -> None:
    retriever = filled(registry, tmp_path / "one", index="hnsw")
    best = retriever.search("5", 1)[0].chunk_id
    assert best == 5
    retriever.remove([5])
    assert 5 not in {hit.chunk_id for hit in retriever.search("5", K)}
    retriever.add([90_000], ["5"])
    assert retriever.search("5", 1)[0].chunk_id == 90_000
    (tmp_path / "two").mkdir()
    retriever.save(tmp_path / "two")
    assert VectorRetriever.load(retriever.config, tmp_path / "two", registry).search("5", 1)[0].chunk_id == 90_000


def test_vectors_too_long_for_an_index_are_refused_before_they_are_computed(
    vectors: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = VectorRetriever(VectorConfig(index="hnsw"), registry)
    retriever._encoder.encoder = Clustered(None, 2100)
    with pytest.raises(UsageError, match="2100"):
        retriever.add([1], ["1"])
    retriever = VectorRetriever(VectorConfig(), registry)
    retriever._encoder.encoder = Clustered(None, 2100)
    retriever.add([1, 2], ["1", "2"])
    assert retriever.search("1", 1)[0].chunk_id == 1


def test_settings_that_do_not_fit(registry: Registry) -> None:
    component = registry.get("retriever", "pgvector")
    for bad in ({"index": "ivf"}, {"index": "hnsw", "neighbours": 64, "build_effort": 64}, {"lists": 0}):
        with pytest.raises(ConfigError):
            component.make_config(bad)


def test_the_default_number_of_lists() -> None:
    assert [lists_for(count) for count in (0, 10, 5000, 1_000_000, 4_000_000)] == [1, 1, 5, 1000, 2000]


# --- collections that nobody needs any more --------------------------------------------------------------------------


def collections(dsn: str) -> set[str]:
    with psycopg.connect(dsn) as connection:
        return {row[0] for row in connection.execute("SELECT id FROM luna.collections")}


def age(dsn: str) -> None:
    """Two days pass."""
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE luna.collections SET made = made - interval '2 days'")


@pytest.mark.usefixtures("chosen")
def test_a_collection_that_was_replaced_goes_when_nobody_uses_it(
    vectors: str, registry: Registry, tmp_path: Path
) -> None:
    old = filled(registry, tmp_path / "old", index="hnsw")
    new = VectorRetriever(VectorConfig(), registry)
    new.add([1], ["1"])
    new.replaces(tmp_path / "old")
    (tmp_path / "new").mkdir()
    new.save(tmp_path / "new")
    assert old.collection in collections(vectors)  # a day of grace: another may just be opening it
    age(vectors)
    new.save(tmp_path / "new")
    assert old.collection in collections(vectors)  # and `old` still searches in it
    assert old.search("5", 1)
    old.close()
    new.save(tmp_path / "new")
    assert old.collection not in collections(vectors)
    assert new.collection in collections(vectors)
    with psycopg.connect(vectors) as connection:
        query = "SELECT count(*) FROM pg_class WHERE relname = %s"
        assert connection.execute(query, (f"vectors_{old.collection}",)).fetchone() == (0,)


def test_a_base_whose_index_is_made_anew_leaves_no_collection(vectors: str, registry: Registry, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(4):
        (docs / f"{number}.txt").write_text(f"O sino número {number} pesa {number} quilos e fica na capela.")
    before: set[str] = set()
    for dimension in (2, 3):
        node = {"name": "pgvector", "encoder": {"name": "lsa", "dimension": dimension}}
        with KnowledgeBase(tmp_path / "kb", registry, KnowledgeConfig(retrievers=({"name": "pgtext"}, node))) as kb:
            kb.sync([docs])
        if dimension == 2:
            before = collections(vectors)
    age(vectors)
    with KnowledgeBase.open(tmp_path / "kb", registry) as kb:
        kb.sync([docs], rebuild=True)
    assert len(before - collections(vectors)) >= 1


def test_a_transaction_that_fails_leaves_the_next_one_whole(vectors: str, registry: Registry) -> None:
    """The tables of a first batch that failed are not taken for made."""
    retriever = VectorRetriever(VectorConfig(database_schema="novo_esquema"), registry)
    with psycopg.connect(vectors) as connection:
        connection.execute("CREATE SCHEMA novo_esquema")
        connection.execute("CREATE TABLE novo_esquema.collections (id integer)")  # of somebody else
    with pytest.raises(Exception, match=r"127\.0\.0\.1"):
        retriever.add([1], ["o sino da capela"])
    with psycopg.connect(vectors) as connection:
        connection.execute("DROP SCHEMA novo_esquema CASCADE")
    retriever.add([1], ["o sino da capela"])
    assert retriever.search("sino", 1)[0].chunk_id == 1


def test_an_extension_off_the_search_path(vectors: str, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(vectors, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS arrumado")
        connection.execute("CREATE DATABASE arrumado")
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", vectors.replace("/postgres", "/arrumado"))
    with psycopg.connect(vectors.replace("/postgres", "/arrumado")) as connection:
        connection.execute("CREATE SCHEMA extensions")
        connection.execute("CREATE EXTENSION vector SCHEMA extensions")
    retriever = VectorRetriever(VectorConfig(index="hnsw"), registry)
    retriever.add([1, 2, 3], ["o sino da capela", "o bolo de fubá", "o trem da estação"])
    retriever._make_index()
    assert retriever.search("sino", 1)[0].chunk_id == 1
    retriever.close()
