"""Search in a real PostgreSQL: what is found, what is refused, what is never said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from luna_plugin_faiss.retriever import FaissRetriever
from luna_plugin_pgvector.config import TextConfig, VectorConfig
from luna_plugin_pgvector.text import TextRetriever
from luna_plugin_pgvector.vectors import VectorRetriever
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase
from pydantic import ValidationError

from luna_kernel.base.errors import IntegrityError, LunaError, UsageError
from luna_kernel.contracts.retrievers import Retriever
from luna_kernel.plugins.registry import Registry

from .conftest import PASSWORD

TEXTS = [
    "O sino da capela, fundido em bronze, pesa 180 quilos.",
    "A capela foi erguida com pedras tiradas do rio.",
    "O bolo de fubá leva quatro ovos e duas xícaras de fubá.",
    "Bata os ovos, o açúcar e o fubá; asse o bolo em forno quente.",
    "A estrada de ferro trouxe o trem e os passageiros.",
    "O trem parava na estação e os passageiros desciam.",
]


def make(kind: str, registry: Registry, texts: list[str] = TEXTS) -> Any:
    retriever: Any = VectorRetriever(None, registry) if kind == "vectors" else TextRetriever(None, registry)
    retriever.add([10 + place for place in range(len(texts))], texts)
    return retriever


def ids(retriever: Retriever, query: str, k: int = 10) -> list[int]:
    return [hit.chunk_id for hit in retriever.search(query, k)]


def save_and_load(retriever: Any, folder: Path, registry: Registry) -> Any:
    folder.mkdir(exist_ok=True)
    retriever.save(folder)
    return type(retriever).load(retriever.config, folder, registry)


@pytest.fixture(params=["vectors", "texts"])
def kind(request: pytest.FixtureRequest, vectors: str) -> str:
    return str(request.param)


def test_finds_by_matter(kind: str, registry: Registry) -> None:
    retriever = make(kind, registry)
    assert ids(retriever, "Quanto pesa o sino?")[0] == 10
    assert set(ids(retriever, "receita de bolo com ovos", 2)) == {12, 13}
    assert set(ids(retriever, "ESTACAO do trem", 2)) == {14, 15}
    hits = retriever.search("trem", 10)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 for hit in hits)


def test_empty_one_and_nothing_known(kind: str, registry: Registry) -> None:
    assert ids(make(kind, registry, []), "sino") == []
    one = make(kind, registry, TEXTS[:1])
    assert ids(one, "sino") == [10]
    for query in ("", "?!", "xyzzyq", "sino" * 0, "'; DROP TABLE luna.texts; --", "a & b | !c:* <-> \\", "\0"):
        assert ids(one, query) == [], query
    assert ids(one, "sino", 0) == []
    assert ids(one, "o sino'; DROP SCHEMA luna CASCADE; --") == [10]


def test_the_cosines_are_those_of_faiss(vectors: str, registry: Registry) -> None:
    ours, theirs = make("vectors", registry), FaissRetriever(None, registry)
    theirs.add([10 + place for place in range(len(TEXTS))], TEXTS)
    for query in ("Quanto pesa o sino?", "bolo com ovos", "passageiros do trem"):
        one, two = ours.search(query, 5), theirs.search(query, 5)
        assert [hit.chunk_id for hit in one] == [hit.chunk_id for hit in two]
        assert np.allclose([hit.score for hit in one], [hit.score for hit in two], atol=1e-5)


def test_removed_is_hidden_at_once_and_deleted_when_saved(
    kind: str, registry: Registry, tmp_path: Path, vectors: str
) -> None:
    retriever = make(kind, registry)
    retriever.remove([10, 999])
    assert 10 not in ids(retriever, "sino capela")
    assert ids(retriever, "sino capela", 1) == [11]
    with psycopg.connect(vectors) as connection:
        count = f"SELECT count(*) FROM luna.{kind} WHERE collection = %s"
        assert connection.execute(count, (retriever.collection,)).fetchone() == (6,)
        loaded = save_and_load(retriever, tmp_path / "one", registry)
        assert connection.execute(count, (retriever.collection,)).fetchone() == (5,)
    assert loaded.ids() == {11, 12, 13, 14, 15}
    loaded.add([77], ["O sino novo é de ferro."])
    assert 77 in ids(loaded, "sino")
    assert len(loaded) == 6


def test_ids_are_new_and_a_batch_is_all_or_nothing(kind: str, registry: Registry, vectors: str) -> None:
    retriever = make(kind, registry)
    for bad in ([10], [-1], [3, 3]):
        with pytest.raises(ValueError):
            retriever.add(bad, ["x"] * len(bad))
    with pytest.raises(LunaError):
        retriever.add([50, 2**70], ["sino", "sino"])  # the second one does not fit the column
    assert 50 not in retriever.ids()
    with psycopg.connect(vectors) as connection:
        query = f"SELECT count(*) FROM luna.{kind} WHERE collection = %s AND id = 50"
        assert connection.execute(query, (retriever.collection,)).fetchone() == (0,)


def test_collections_do_not_mix(kind: str, registry: Registry) -> None:
    one, two = make(kind, registry), make(kind, registry, ["O sino de outra vila."])
    assert ids(two, "sino") == [10]
    assert len(ids(one, "sino capela")) == 2


def test_a_collection_that_is_gone_is_an_index_to_make_anew(
    kind: str, registry: Registry, tmp_path: Path, vectors: str
) -> None:
    retriever = make(kind, registry)
    save_and_load(retriever, tmp_path / "one", registry)
    with psycopg.connect(vectors) as connection:
        connection.execute("DELETE FROM luna.collections WHERE id = %s", (retriever.collection,))
    with pytest.raises(IntegrityError):
        type(retriever).load(retriever.config, tmp_path / "one", registry)


def test_a_knowledge_base_on_the_server(vectors: str, registry: Registry, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for place, text in enumerate(TEXTS):
        (docs / f"{place}.txt").write_text(text, encoding="utf-8")
    config = KnowledgeConfig(retrievers=({"name": "bm25"}, {"name": "pgtext"}, {"name": "pgvector"}))
    said: list[str] = []
    with KnowledgeBase(tmp_path / "kb", registry, config, say=said.append) as kb:
        kb.sync([docs])
        assert kb.search("Quanto pesa o sino?", threshold=0).passages[0].source == "0.txt"
        kb.remove(["0.txt"])
        assert all(item.state == "whole" for item in kb.conditions())
    with KnowledgeBase.open(tmp_path / "kb", registry, say=said.append) as kb:  # it remembers its retrievers
        assert kb.retrievers() == ["bm25", "pgtext", "pgvector"]
        assert "0.txt" not in {p.source for p in kb.search("sino capela", threshold=0).passages}
    with psycopg.connect(vectors) as connection:
        connection.execute("TRUNCATE luna.collections CASCADE")
    with KnowledgeBase.open(tmp_path / "kb", registry, say=said.append) as kb:
        assert kb.search("Quem trouxe os passageiros?", threshold=0).passages[0].source in ("4.txt", "5.txt")
    assert len(said) == 2  # both collections were gone, which is said, and were made anew


def test_no_file_holds_the_password(vectors: str, registry: Registry, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text(TEXTS[0], encoding="utf-8")
    config = KnowledgeConfig(retrievers=({"name": "pgtext"},))
    with KnowledgeBase(tmp_path / "kb", registry, config) as kb:
        kb.sync([docs])
    for path in (tmp_path / "kb").rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()


# --- a server without pgvector, and none at all ---


def test_where_pgvector_is_missing_that_is_said(plain: str, registry: Registry) -> None:
    with psycopg.connect(plain) as connection:
        if connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone():
            pytest.skip("this server has pgvector")
    with pytest.raises(UsageError, match="“vector”") as refused:
        make("vectors", registry)
    assert "pgtext" in (refused.value.hint or "")
    assert PASSWORD not in str(refused.value)


def test_words_need_no_extension(plain: str, registry: Registry) -> None:
    retriever = make("texts", registry)
    assert ids(retriever, "quanto pesa o sino")[0] == 10
    assert set(ids(retriever, "ESTACAO dos passageiros", 2)) == {14, 15}
    with psycopg.connect(plain) as connection:
        found = connection.execute("SELECT to_tsvector('luna.luna_portuguese', 'Estação')::text").fetchone()
        has = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'unaccent'").fetchone()
    assert found is not None
    assert ("estaca" in found[0]) == bool(has)  # unaccent stands before the stemmer


def test_no_server_is_an_error_without_the_password(monkeypatch: pytest.MonkeyPatch, registry: Registry) -> None:
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", f"postgresql://luna:{PASSWORD}@127.0.0.1:1/luna")
    with pytest.raises(UsageError, match=r"127\.0\.0\.1:1/luna") as refused:
        make("texts", registry)
    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None
    for bad in (f"postgresql://luna:{PASSWORD}@[::1", f"host=a password='{PASSWORD}", f"{PASSWORD}"):
        monkeypatch.setenv("LUNA_PGVECTOR_DSN", bad)
        with pytest.raises(UsageError) as refused:
            make("texts", registry)
        assert PASSWORD not in str(refused.value)


def test_a_wrong_password_is_refused_and_not_shown(
    vectors: str, monkeypatch: pytest.MonkeyPatch, registry: Registry
) -> None:
    monkeypatch.setenv("LUNA_PGVECTOR_DSN", vectors.replace(PASSWORD, "errada-e-secreta"))
    with pytest.raises(UsageError) as refused:
        make("texts", registry)
    assert "errada-e-secreta" not in str(refused.value)


def test_a_schema_is_a_plain_name(registry: Registry) -> None:
    for bad in ('x"; DROP', "X", "", "a b", "a" * 60):
        with pytest.raises(ValidationError):
            TextConfig(database_schema=bad)
    assert VectorConfig(encoder="lsa").encoder == {"name": "lsa"}  # type: ignore[arg-type]
