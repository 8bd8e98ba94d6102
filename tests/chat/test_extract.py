"""Quoted sentences are exact, answer the question, and follow what it asks for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.chat.extract import best_sentences, kind_asked
from luna_kernel.contracts.chat import Passage

TEXT = (
    "A capela foi erguida com pedras do rio. O sino, fundido em bronze, pesa 180 quilos. A escola da vila abriu na casa da "
    "professora Leocádia Prates. Em 1922 chegou a estrada de ferro. Ela fechou porque o rio subiu."
)


def passage(text: str, number: int = 1, start: int = 100, score: float = 1.0) -> Passage:
    return Passage(number, "vila.md", "História", "A vila", text, start, start + len(text), score, line=7)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Quanto pesa o sino?", "O sino, fundido em bronze, pesa 180 quilos."),
        ("Quando chegou a estrada de ferro?", "Em 1922 chegou a estrada de ferro."),
        ("Na casa de quem abriu a escola?", "A escola da vila abriu na casa da professora Leocádia Prates."),
        ("com que pedras foi erguida a capela", "A capela foi erguida com pedras do rio."),
        ("Por que fechou?", "Ela fechou porque o rio subiu."),
    ],
)
def test_the_sentence_that_answers(question: str, answer: str) -> None:
    quotes = best_sentences(question, [passage(TEXT)])
    assert quotes[0].text == answer
    assert TEXT[quotes[0].start - 100 : quotes[0].end - 100] == answer
    assert (quotes[0].number, quotes[0].source, quotes[0].line) == (1, "vila.md", 7)


def test_lines_of_a_list_are_sentences_and_lines_are_counted() -> None:
    text = "Leva:\n\n- 4 ovos\n- 2 xícaras de fubá\n- 1 colher de fermento\n"
    (quote,) = best_sentences("Quantos ovos leva?", [passage(text)], limit=1)
    assert (quote.text, quote.line) == ("4 ovos", 9)


def test_headings_are_not_answers() -> None:
    text = "## Multa\n\nA biblioteca não cobra multa em dinheiro."
    assert best_sentences("E a multa?", [passage(text)])[0].text == "A biblioteca não cobra multa em dinheiro."


def test_nothing_in_common_gives_nothing() -> None:
    assert best_sentences("Qual a capital da Mongólia?", [passage("Bolo de milho com coco.")]) == []
    assert best_sentences("Quanto pesa?", []) == []
    assert best_sentences("???", [passage(TEXT)]) == []


def test_a_long_sentence_is_cut_at_a_clause() -> None:
    text = "O sino pesa, " + "como se sabe, " * 80 + "muito."
    (quote,) = best_sentences("Quanto pesa o sino?", [passage(text)], limit=1)
    assert len(quote.text) <= 600
    assert quote.text == text[: len(quote.text)]
    assert quote.text.endswith("sabe")


def test_the_passage_that_fits_better_wins() -> None:
    passages = [passage("O sino da capela é antigo.", 1), passage("O sino da capela pesa 180 quilos.", 2, 0)]
    assert best_sentences("Quanto pesa o sino da capela?", passages, limit=1)[0].number == 2


@pytest.mark.parametrize(
    ("question", "has_kind"),
    [
        ("Quantos anos?", True),
        ("Em que ano foi?", True),
        ("Quem fundou?", True),
        ("Onde fica?", True),
        ("O que é?", False),
    ],
)
def test_kinds(question: str, has_kind: bool) -> None:
    assert (kind_asked(question) is not None) is has_kind


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.lists(st.text(max_size=200), max_size=4), st.integers(0, 4))
def test_any_text(question: str, texts: list[str], limit: int) -> None:
    passages = [passage(text, number, start=number * 1000) for number, text in enumerate(texts, 1)]
    quotes = best_sentences(question, passages, limit=limit)
    assert len(quotes) <= limit
    for quote in quotes:
        text = texts[quote.number - 1]
        start = quote.number * 1000
        assert quote.text
        assert text[quote.start - start : quote.end - start] == quote.text
