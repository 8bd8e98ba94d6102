"""Sentence spans tile the text and end where Portuguese sentences end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.data.sentences import sentences, trimmed

PIECES = [
    "Sr. ",
    "O fim. ",
    "p. ex. ",
    "R$ 1.234,56 ",
    "\n\n",
    "\n",
    "… ",
    "?! ",
    "«Ah!» ",
    "Ele ",
    "etc. ",
    "\u2028",
    "é",
    " ",
]


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_spans_tile_any_text(text: str) -> None:
    spans = list(sentences(text))
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(start < end for start, end in spans)
    for span in spans:
        start, end = trimmed(text, span)
        assert text[start:end] == text[slice(*span)].strip()


@pytest.mark.parametrize(
    "marked",
    [
        "O Sr. Silva saiu.| A Dra. Souza ficou.",
        "Mora na Av. Brasil, n.º 12.| Fim.",
        "Custa R$ 1.234,56.| É caro.",
        "Use vírgula, ponto, p. ex. assim.| Certo?| Sim!",
        "Ele parou… e seguiu.| Depois…| Nada.",
        "«Ah!», disse ela.| Saiu.",
        "J. K. Rowling escreveu.| Eu li.",
        "Maçãs, peras etc.| A feira acabou.",
        "Primeiro parágrafo sem ponto\n\n|Segundo parágrafo",
        "1. Abra a tampa.\n|2. Feche.",
        "Veio às 10h30min.| Saiu às 11.| Voltou?",
        "Ver art. 5º da lei.| E o § 2º.",
        "A rendição de Atenas em 404 a.C.| As condições foram duras.",
        "Estudou na S.A. Lopes.| Foi para o Grupo A.| Já o rival caiu.",
        "Subiu ao grupo B.| Paulo ficou.",
        "O vice-pres. João veio.| Ver fig. 3.| Ver.| Depois ir.",
        "Nasceu em 3 de jan. 1900.| Sair em jan.| Voltar logo.",
        "Espere 10 min.| Mexa.| O Min. Barroso votou.",
        "Andou 5 km.| Parou.",
        "Item\n|- um\n|- dois\n|— Sim.\n|— Não.",
        "Abra tudo.| 2. Feche.",
        "«Vou.»| (E foi.)| [Fim.]",
        "Veja http://a.pt/b.c?d=1.| Depois leia.",
        "Dê 1.5 a 2.5.| Só isso.",
        "Antes. \n\n|de novo",
        "Termina...| Recomeça.",
        "...Começa assim.| Continua.",
        "Nasceu em Recife, PE.| Mora em Cuiabá, MT.| O PP venceu no PP.| Ver pp. 3 a 5.",
        "O PE. JOSÉ MORA NA AL. SANTOS.| O pe. José, na al. Santos.",
    ],
)
def test_boundaries(marked: str) -> None:
    text = marked.replace("|", "")
    found = "|".join(text[start:end] for start, end in sentences(text))
    assert found.replace(" |", "| ") == marked


def test_a_short_line_was_ended_on_purpose() -> None:
    full = "Uma linha cheia que foi quebrada porque não havia mais lugar nela para a palavra"
    text = (
        f"Capítulo primeiro\n{full}\nSeguinte, e daí em diante tudo continua como estava antes de quebrar\n{full}\nFim"
    )
    assert [text[a:b] for a, b in sentences(text)] == ["Capítulo primeiro\n", text[18:]]
    verses = "Minha terra tem palmeiras\nOnde canta o sabiá\nAs aves\nQue aqui gorjeiam"
    assert list(sentences(verses)) == [(0, len(verses))]


def test_any_word_of_six_small_letters_ends_a_sentence_at_once_or_later() -> None:
    """What the expression decides by itself is what the rules would decide."""
    for mark in ".!?":
        for close in ("", '"', "”", "»", ")"):
            text = f"Era cedo e dormiam{mark}{close} Acordou."
            assert [b for _, b in sentences(text)] == [text.index("Acordou"), len(text)]


@pytest.mark.skipif("LUNA_DEV_DATA" not in os.environ, reason="needs the development data")
def test_treebank() -> None:
    for path in (Path(os.environ["LUNA_DEV_DATA"]) / "ud-gsd").glob("*.conllu"):
        lines = path.read_text(encoding="utf-8").splitlines()
        gold = [line[9:].strip() for line in lines if line.startswith("# text = ")]
        parts: list[str] = []
        ends: set[int] = set()
        for sentence in gold:  # headings and items have no mark; they ended a line
            parts += [sentence, " " if sentence.rstrip("\"'”’»)] ")[-1:] in tuple(".!?…") else "\n\n"]
            ends.add(sum(map(len, parts[-2:])) + max(ends, default=0))
        text = "".join(parts)
        found = {end for _, end in sentences(text)}
        right = len(found & ends)
        assert 2 * right / (len(found) + len(ends)) >= 0.995
