"""Sentence spans tile the text and end where Portuguese sentences end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luna_kernel.data.sentences import sentences, trimmed

PIECES = ["Sr. ", "O fim. ", "p. ex. ", "R$ 1.234,56 ", "\n\n", "\n", "… ", "?! ", "«Ah!» ", "Ele ", "etc. ", "\u2028", "é", " "]


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
    ],
)
def test_boundaries(marked: str) -> None:
    text = marked.replace("|", "")
    found = "|".join(text[start:end] for start, end in sentences(text))
    assert found.replace(" |", "| ") == marked


@pytest.mark.skipif("LUNA_DEV_DATA" not in os.environ, reason="needs the development data")
def test_treebank() -> None:
    for path in (Path(os.environ["LUNA_DEV_DATA"]) / "ud-gsd").glob("*.conllu"):
        lines = path.read_text(encoding="utf-8").splitlines()
        gold = [line[9:].strip() for line in lines if line.startswith("# text = ")]
        text, ends, position = " ".join(gold), set(), 0
        for sentence in gold:
            position += len(sentence) + 1
            ends.add(position)
        found = {end for _, end in sentences(text)}
        right = len(found & ends)
        assert 2 * right / (len(found) + len(ends)) > 0.98
