"""Words and stems: accents do not matter, forms of a word meet, nothing breaks on odd text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.data.portuguese import STOP_WORDS, fold, stem, terms, words


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Ação", "acao"),
        ("PÃO de Açúcar", "pao de acucar"),
        ("São José", "sao jose"),
        ("straße", "strasse"),
        ("a\u0301", "a"),
    ],
)
def test_folding(text: str, plain: str) -> None:
    assert fold(text) == plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dá-me o livro", "da me o livro"),
        ("far-se-á amanhã", "fara se amanha"),
        ("dar-lhe-íamos", "dariamos lhe"),
        ("guarda-chuvas", "guarda chuvas"),
        ("comprá-lo", "compra lo"),
        ("copo d'água", "copo d agua"),
        ("em 1.500 metros", "em 1500 metros"),
        ("3,14 e 2.5", "3,14 e 2.5"),
        ("versão 10.4.20", "versao 10.4.20"),
        ("n.º 1º, 2ª", "n 1 2"),
        ("COVID-19 e H2O", "covid 19 e h2o"),
        ("não_sei", "nao sei"),
        ("...", ""),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


@pytest.mark.parametrize(
    "forms",
    [
        "casa casas", "livro livros", "menino menina meninos", "limitação limitações", "animal animais", "fácil fáceis",
        "papel papéis", "jardim jardins", "flor flores", "vez vezes", "comprar comprou compraram comprando comprado",
        "vender vendeu venderam vendendo", "partir partiu partiram", "empregado empregada empregados",
        "rapidamente rápido rápida", "civil civis", "órgão órgãos",
    ],
)  # fmt: skip
def test_forms_of_a_word_share_a_stem(forms: str) -> None:
    assert len({stem(fold(form)) for form in forms.split()}) == 1


@pytest.mark.parametrize("pair", ["casa caso", "porto porta", "carro cargo", "livro livre"])
def test_short_words_that_differ_in_more_than_an_ending_stay_apart_or_are_known_to_meet(pair: str) -> None:
    first, second = (stem(word) for word in pair.split())
    assert (first == second) is (pair in ("casa caso", "porto porta", "livro livre"))


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aBçÃ1²_-'’.,?! \u00a0\n", max_size=20))
def test_plain_text_is_split_as_any_other(text: str) -> None:
    """Text of letters, digits and blanks takes a short way; a hyphenated word after it makes it take the long one."""
    assert words(text) == words(f"{text} | x-y")[:-2]


@settings(deadline=None)
@given(st.text())
def test_any_text_gives_folded_words(text: str) -> None:
    for word in words(text):
        assert word
        assert word == fold(word)
    assert terms(text) == terms(text)
    assert bool(terms(text)) == bool(words(text))


@settings(deadline=None)
@given(st.text(alphabet="abcçéãõsirlnmaeou", min_size=1, max_size=12))
def test_accents_never_matter(word: str) -> None:
    assert terms(word) == terms(fold(word))
    assert stem(fold(word)) == stem(fold(word.upper()))


def test_a_text_of_stop_words_keeps_them() -> None:
    assert terms("o que é isso") == ["o", "que", "e", stem("isso")]
    assert terms("o que é poesia") == [stem("poesia")]
    assert all(word == fold(word) for word in STOP_WORDS)
