"""Slips of the pen in questions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_rag.spelling import corrected, slips

from luna_kernel.data.portuguese import terms

TEXTS = ("A fotossíntese das plantas", "O governador da província", "O governo e o governador")


def frequencies(asked: Sequence[str]) -> list[int]:
    return [sum(term in terms(text) for text in TEXTS) for term in asked]


@pytest.mark.parametrize("slip", ["fotosíntese", "fotossinteze", "ftoossíntese", "fotosssintese", "fotossintee"])
def test_a_slip_is_mended(slip: str) -> None:
    assert terms(corrected(f"O que é {slip}?", frequencies)) == terms("O que é fotossíntese?")


@pytest.mark.parametrize(
    "query", ["O que é a fotossíntese?", "plantações", "o xadrez", "plta", "guarda-provincja", "provinci4", "", "?"]
)
def test_what_is_known_or_too_far_or_no_plain_word_stays(query: str) -> None:
    assert corrected(query, frequencies) == query


def test_without_frequencies_nothing_changes() -> None:
    assert corrected("fotosíntese", lambda asked: []) == "fotosíntese"


@settings(deadline=None)
@given(st.text(alphabet="abcde", min_size=1, max_size=8))
def test_a_slip_can_be_undone_and_keeps_the_first_letter(word: str) -> None:
    for other in slips(word):
        assert other[0] == word[0]
        assert word in set(slips(other))


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_taken_and_what_is_known_stays(text: str) -> None:
    assert corrected(text, lambda asked: [1] * len(asked)) == text
    assert isinstance(corrected(text, frequencies), str)
