"""The SQLite store passes the suite of knowledge stores; which store a folder means."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.store import SqliteStore

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.contracts.knowledge import KnowledgeStore
from luna_kernel.plugins.registry import Registry
from luna_kernel.testing.knowledge import Again, KnowledgeStoreConformance, Make


class TestSqliteStore(KnowledgeStoreConformance):
    @pytest.fixture
    def new(self, tmp_path: Path) -> Make:
        numbers = itertools.count()
        return lambda: SqliteStore(None, tmp_path / f"kb{next(numbers)}")

    @pytest.fixture
    def again(self) -> Again:
        def open_again(store: KnowledgeStore) -> KnowledgeStore:
            assert isinstance(store, SqliteStore)
            return SqliteStore(None, store.path.parent)

        return open_again


def test_a_pointer_that_says_nothing_is_damage(tmp_path: Path, registry: Registry) -> None:
    for content in (
        "",
        "[]",
        "{}",
        '{"format": 1, "base": 3, "version": 1, "store": {"name": "sqlite"}}',
        '{"format":',
    ):
        (tmp_path / "store.json").write_text(content)
        with pytest.raises(IntegrityError, match=r"store\.json"):
            KnowledgeBase(tmp_path, registry)
    (tmp_path / "store.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="99"):
        KnowledgeBase(tmp_path, registry)


def test_a_store_that_no_plugin_has_is_named(tmp_path: Path, registry: Registry) -> None:
    named = {"format": 1, "base": "x", "version": 1, "store": {"name": "inexistente"}}
    (tmp_path / "store.json").write_text(json.dumps(named))
    with pytest.raises(UsageError, match="inexistente"):
        KnowledgeBase(tmp_path, registry)
    assert {item.name for item in tmp_path.iterdir()} == {"store.json"}


def test_documents_stay_in_the_store_where_they_are(tmp_path: Path, registry: Registry) -> None:
    KnowledgeBase(tmp_path / "kb", registry, KnowledgeConfig(store="sqlite")).close()  # type: ignore[arg-type]
    assert not (tmp_path / "kb" / "store.json").exists()
    with pytest.raises(UsageError, match="sqlite"):
        KnowledgeBase(tmp_path / "kb", registry, KnowledgeConfig(store={"name": "postgres"}))
