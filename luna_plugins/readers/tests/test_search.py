"""Documents of these formats in a knowledge base: what is found, and where citations point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from luna_kernel.plugins import load_plugins

from .conftest import pdf_of, zipped

pytest.importorskip("luna_plugin_rag")

LONG = "O carteiro sai às seis horas da manhã e só volta às duas da tarde, de segunda a"


@pytest.fixture
def knowledge(tmp_path: Path) -> Iterator[Any]:
    from luna_plugin_rag.knowledge_base import KnowledgeBase

    docs = tmp_path / "docs"
    docs.mkdir()
    pages = [["Manual do carteiro", LONG], ["sexta, com chuva ou sol.", "A bicicleta tem garantia de dezoito meses."]]
    (docs / "carteiro.pdf").write_bytes(pdf_of(pages))
    (docs / "mais.zip").write_bytes(zipped({"clube/piscina.html": "<p>A piscina fecha às nove da noite.</p>"}))
    (docs / "precos.csv").write_text("Produto;Preço\nCafé torrado;18,50\nChá mate;7,20\n", encoding="utf-8")
    (docs / "quebrado.pdf").write_bytes(b"%PDF-1.4 nada")
    with KnowledgeBase(tmp_path / "kb", load_plugins("rag,readers").registry) as base:
        base.summary = base.sync([docs])
        yield base


def test_a_broken_file_is_reported_and_hinders_none(knowledge: Any) -> None:
    assert list(knowledge.summary.skipped) == ["quebrado.pdf"]
    assert knowledge.summary.added == ["carteiro.pdf", "mais.zip", "precos.csv"]


def test_a_passage_of_a_pdf_knows_its_page(knowledge: Any) -> None:
    passage = knowledge.search("De quanto tempo é a garantia da bicicleta?", threshold=0.0).passages[0]
    assert passage.source == "carteiro.pdf"
    assert passage.page_at(passage.start + passage.text.index("bicicleta")) == 2
    assert "page_starts" not in passage.metadata


def test_a_passage_over_two_pages_knows_where_the_second_begins(knowledge: Any) -> None:
    passage = knowledge.search("A que horas o carteiro sai de manhã?", threshold=0.0).passages[0]
    begin = passage.start
    assert passage.page_at(begin + passage.text.index("seis horas")) == 1
    assert passage.page_at(begin + passage.text.index("com chuva")) == 2


def test_a_file_in_an_archive_is_named(knowledge: Any) -> None:
    passage = knowledge.search("A que horas fecha a piscina?", threshold=0.0).passages[0]
    assert passage.source == "mais.zip/clube/piscina.html"
    assert passage.page == 0


def test_what_stands_beside_a_text_in_json_is_found_too(knowledge: Any, tmp_path: Path) -> None:
    (tmp_path / "docs" / "atas.json").write_text(
        '[{"titulo": "Ata de maio", "relatora": "Zulmira", "texto": "A praça será pintada."}]', encoding="utf-8"
    )
    knowledge.sync([tmp_path / "docs"])
    passage = knowledge.search("Quem é a relatora da ata de maio?", threshold=0.0).passages[0]
    assert "relatora: Zulmira" in passage.text


def test_rows_of_any_table_are_found(knowledge: Any) -> None:
    passage = knowledge.search("Qual é o preço do chá mate?", threshold=0.0).passages[0]
    assert (passage.text, passage.line) == ("Produto: Chá mate\nPreço: 7,20", 3)
