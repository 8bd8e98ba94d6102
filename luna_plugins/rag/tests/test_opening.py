"""A knowledge base with its documents at hand: remade where it is damaged, not left behind where there is nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from luna_plugin_rag.chosen import COPY
from luna_plugin_rag.config import KnowledgeConfig
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.opening import open_filled

from luna_kernel.base.errors import IntegrityError, UsageError
from luna_kernel.plugins.registry import Registry

A = "# Horários\n\nA biblioteca abre às nove horas.\n"
B = "# Sino\n\nO sino da capela pesa 180 quilos.\n"

Write = Callable[..., Path]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "kb"


@pytest.mark.parametrize("when", ["opened", "filled"])
def test_what_is_made_of_documents_at_hand_is_remade_when_damaged(
    write: Write, place: Path, registry: Registry, when: str
) -> None:
    """Damage that is met at the opening, or only while the documents are taken in."""
    docs = write(**{"a.md": A, "b.md": B})
    open_filled([docs], place, registry)[0].close()
    if when == "opened":
        (place / "knowledge.sqlite").write_bytes(b"no database" * 1000)
    else:
        with sqlite3.connect(place / "knowledge.sqlite") as connection:
            [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'files'")
            [(size,)] = connection.execute("PRAGMA page_size")
        connection.close()
        with (place / "knowledge.sqlite").open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * size)
    with pytest.raises(IntegrityError) as error:
        open_filled([docs], place, registry, remake=lambda _: False)
    assert "--rebuild" in error.value.hint
    said: list[str] = []
    kb, summary = open_filled([docs], place, registry, say=said.append)
    with kb:
        assert summary.added == ["a.md", "b.md"]
        assert kb.search("quanto pesa o sino", threshold=0).passages[0].source == "b.md"
    assert len(said) == 1, "the old indexes are gone with what they were made of"
    assert "refeita" in said[0]


@pytest.mark.parametrize("lost", ["damaged", "gone", "copy too"])
def test_what_was_chosen_is_remembered_when_the_database_is_lost(
    write: Write, place: Path, registry: Registry, lost: str
) -> None:
    docs = write(**{"a.md": A, "b.md": B})
    chosen = KnowledgeConfig(retrievers=("bm25",), mend_mojibake=True, max_file_mb=7)  # type: ignore[arg-type]
    open_filled([docs], place, registry, chosen)[0].close()
    for path in place.glob("knowledge.sqlite*"):
        path.unlink()
    if lost == "damaged":
        (place / "knowledge.sqlite").write_bytes(b"no database" * 1000)
    elif lost == "copy too":
        (place / COPY).write_text("[")
    kb, _ = open_filled([docs], place, registry)
    with kb:
        if lost == "copy too":
            assert kb.retrievers()[:2] == ["bm25", "tfidf"]
        else:
            assert kb.retrievers() == ["bm25"]
            assert (kb.store.meta("mend_mojibake"), kb.store.meta("max_file_mb")) == ("true", "7")
    with KnowledgeBase.open(place, registry) as kb:
        assert (kb.retrievers() == ["bm25"]) is (lost != "copy too"), "and again after that"
    other = KnowledgeConfig(retrievers=("tfidf",))  # type: ignore[arg-type]
    (place / "knowledge.sqlite").write_bytes(b"no database" * 1000)
    with open_filled([docs], place, registry, other)[0] as kb:
        assert kb.retrievers() == ["tfidf"], "what is said now comes first"


def test_what_cannot_be_made_again_is_not_given_up(write: Write, place: Path, registry: Registry) -> None:
    docs = write(**{"a.md": A})
    open_filled([docs], place, registry)[0].close()
    (place / "knowledge.sqlite").write_bytes(b"no database" * 1000)
    (docs / "a.md").unlink()
    with pytest.raises(IntegrityError):
        open_filled([docs], place, registry)
    assert (place / "knowledge.sqlite").read_bytes() == b"no database" * 1000


def test_nothing_is_left_of_a_folder_of_which_nothing_could_be_read(
    write: Write, place: Path, registry: Registry
) -> None:
    docs = write(**{"a.md": ""})
    with pytest.raises(UsageError):
        open_filled([docs], place, registry)
    assert not place.exists()
    write(**{"a.md": A})
    open_filled([docs], place, registry)[0].close()
    (docs / "a.md").unlink()
    with pytest.raises(UsageError):
        open_filled([docs], place, registry)
    with KnowledgeBase.open(place, registry) as kb:
        assert len(kb) == 1, "what was there stays"
