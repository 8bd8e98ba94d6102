"""Chunks tile the text exactly, keep sentences and sections, and never pass the limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from luna_plugin_rag.chunker import ParagraphChunker
from luna_plugin_rag.config import ParagraphConfig

from luna_kernel.contracts.data import Document

EXAMPLES = sorted((Path(__file__).parents[3] / "docs" / "exemplos").glob("*.[mt]*"))

PIECES = st.sampled_from(
    ["O Sr. Dr. João", " pagou R$ 1.500,00.", "\n\n", "\n", "# Título\n", "## A\n\n", "```\nx\n\ny\n```\n", "…", "!?",
     " ", "á", "e\u0301" * 3, "👩‍👩‍👧", "\u2028", "a" * 60, "- item\n", "1. Artigo\n\n", "Fim. ", "\t", "\u00a0",
     "==\n", "\r\n"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=400), st.lists(PIECES, max_size=40).map("".join))


def check(text: str, config: ParagraphConfig) -> None:
    chunks = ParagraphChunker(config).chunk(Document(text, "x"))
    if not text.strip():
        assert chunks == []
        return
    assert "".join(chunk.text for chunk in chunks) == text
    assert all(text[chunk.start : chunk.end] == chunk.text for chunk in chunks)
    assert [chunk.start for chunk in chunks] == [0, *[chunk.end for chunk in chunks[:-1]]]
    assert all(0 < len(chunk.text) <= config.max_chars for chunk in chunks)
    if config.max_words is not None:
        assert all(len(chunk.text.split()) <= config.max_words for chunk in chunks)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(40, 200), st.sampled_from([None, 8, 20]))
@example("```\n\n\n", 40, None)
@example("x" * 500, 40, None)
@example("e" + "\u0301" * 200, 40, None)
def test_chunks_tile_any_text(text: str, size: int, words: int | None) -> None:
    check(text, ParagraphConfig(max_chars=size, min_chars=min(40, size), max_words=words))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_documents(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    check(text, ParagraphConfig())
    check(text, ParagraphConfig(max_chars=120, min_chars=0))


def headings(text: str, **config: object) -> list[tuple[str, str]]:
    chunks = ParagraphChunker(ParagraphConfig(**config)).chunk(Document(text, "x"))
    return [(chunk.heading, chunk.text.strip()) for chunk in chunks]


def test_headings_begin_chunks_and_are_kept_as_a_path() -> None:
    text = (
        "# Manual\n\nComeço.\n\n## Limpeza\n\nLave a jarra.\n\n### Alça\n\nCuidado.\n\n## Garantia\n\nDezoito meses.\n"
    )
    assert headings(text) == [
        ("Manual", "# Manual\n\nComeço."),
        ("Manual › Limpeza", "## Limpeza\n\nLave a jarra."),
        ("Manual › Limpeza › Alça", "### Alça\n\nCuidado."),
        ("Manual › Garantia", "## Garantia\n\nDezoito meses."),
    ]
    assert len(headings(text, headings=False)) == 1


def test_headings_of_plain_text() -> None:
    text = (
        "REGULAMENTO\n\n1. Horário\n\nA biblioteca abre às nove horas.\n\n2. Multa\n\nNão há multa em dinheiro aqui.\n"
    )
    assert [heading for heading, _ in headings(text)] == ["REGULAMENTO › 1. Horário", "REGULAMENTO › 2. Multa"]


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        ("Capítulo 1", "Capítulo 2", "Capítulo 2"),
        ("Capítulo I", "Capítulo II", "Capítulo II"),
        ("1. Horário", "2. Multa", "2. Multa"),
        ("Art. 1", "Art. 2", "Art. 2"),
        ("1. Horário", "1.1 Feriados", "1. Horário › 1.1 Feriados"),
        ("Contrato", "Capítulo 1", "Contrato › Capítulo 1"),
        ("Capítulo 1", "Prazos", "Capítulo 1 › Prazos"),
    ],
)
def test_headings_that_are_numbered_alike_are_siblings(first: str, second: str, path: str) -> None:
    body = "A biblioteca abre às nove horas e fecha às seis da tarde."
    found = headings(f"{first}\n\n{body}\n\n{second}\n\n{body}\n")
    assert [heading for heading, _ in found] == [first, path]


def test_a_comment_in_code_is_no_heading() -> None:
    text = "# Guia\n\n```\n# isto é código\n\nx = 1\n```\n\nFim do guia.\n"
    assert {heading for heading, _ in headings(text)} == {"Guia"}


def test_sentences_stay_whole_where_they_fit() -> None:
    sentence = "O Sr. Silva, do n.º 12, pagou R$ 1.234,56 à Dra. Souza em 3.5 parcelas… e saiu. "
    chunks = ParagraphChunker(ParagraphConfig(max_chars=200, min_chars=0)).chunk(Document(sentence * 20, "x"))
    assert len(chunks) == 10
    assert all(chunk.text == sentence * 2 for chunk in chunks)


def test_short_paragraphs_are_put_together_and_long_ones_are_not() -> None:
    short, long = "Curto.\n\n", "Uma frase comprida que enche o parágrafo. " * 6 + "\n\n"
    assert len(headings(short * 5)) == 1
    assert len(headings(long * 3)) == 3
    assert len(headings(short * 5, min_chars=0)) == 5
