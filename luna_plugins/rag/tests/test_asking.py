"""What of a question only asks, and what answers of a kind look like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from luna_plugin_rag.asking import LIGHT, kinds_named
from luna_plugin_rag.knowledge_base import KnowledgeBase
from luna_plugin_rag.relevance import Question

from luna_kernel.data.portuguese import STOP_WORDS, fold
from luna_kernel.plugins.registry import Registry


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, examples: Path, registry: Registry) -> Iterator[KnowledgeBase]:
    with KnowledgeBase(tmp_path_factory.mktemp("kb"), registry) as knowledge:
        knowledge.sync([examples])
        yield knowledge


@pytest.mark.parametrize(
    ("query", "yes", "no"),
    [
        ("quanto custa?", "A camiseta sai por R$ 32,00.", "A camiseta é azul e tem 32 listras."),
        ("qual é o preço", "A entrada é gratuita.", "A entrada fica ao lado."),
        ("Quanto tempo dura?", "Vale por doze meses.", "Vale para doze pessoas."),
        ("quanto demora", "Leva cerca de 40 minutos.", "Leva 40 ovos."),
        ("qual o horário", "Abre às 8h30.", "Abre na rua 8."),
        ("qual o telefone", "Ligue para (44) 3222-0199.", "Ligue para a Neide."),
        ("qual a temperatura", "Asse a 220 graus.", "Asse por 220 minutos."),
        ("qual é o endereço", "Fica na Rua das Camélias, 410.", "Fica na rua de trás."),
        ("quanto pesa", "São 180 quilos.", "São 180 metros."),
        ("qual a altura", "Tem 12,5 m até o sino.", "Tem 12 sinos."),
        ("qual a idade", "Tem oito anos.", "Tem oito irmãos."),
        ("qual a voltagem", "Use 220 V.", "Use 220 g."),
        ("qual é o site", "Veja em www.luna.br.", "Veja no mural."),
        ("qual o e-mail", "Escreva a ana@luna.br.", "Escreva à Ana."),
    ],
)
def test_kinds(query: str, yes: str, no: str) -> None:
    (pattern, *_) = kinds_named(query).values()
    assert pattern.search(yes)
    assert not pattern.search(no)


def test_words_that_only_ask_are_not_what_is_asked_about() -> None:
    content = Question("Quanto tempo dura a garantia?", {}).content
    assert len(content) == 2, "the guarantee, and how long something lasts"
    assert "garant" in content
    assert not content & {"temp", "dur"}
    assert Question("como faço para usar o ônibus", {}).content == {"onibus"}
    assert Question("posso usar?", {}).content == {"us"}, "where there is nothing else"
    weights = {"temp": 3.0, "dur": 3.0, "garant": 3.0}
    weighed = Question("Quanto tempo dura a garantia?", weights).weights
    assert weighed["garant"] > weighed["dur"] > 0
    assert weighed["garant"] == 3


def test_light_words_are_folded_and_no_stop_words() -> None:
    assert {fold(word) for word in LIGHT} == LIGHT
    assert not LIGHT & STOP_WORDS


@pytest.mark.parametrize(
    ("query", "source"),
    [
        ("Quanto tempo dura a garantia?", "manual-da-cafeteira.md"),
        ("quando posso tirar ferias", "politica-de-ferias.txt"),
        ("que horas abre a biblioteca", "regulamento-da-biblioteca.txt"),
        ("quantos dias de férias tenho", "politica-de-ferias.txt"),
    ],
)
def test_short_questions_are_answered(base: KnowledgeBase, query: str, source: str) -> None:
    assert base.search(query).passages[0].source == source


@pytest.mark.parametrize("query", ["tem wifi na biblioteca?", "qual é a capital da França?", "quem foi dom pedro"])
def test_what_is_not_there_is_not_answered(base: KnowledgeBase, query: str) -> None:
    assert base.search(query).passages == []
