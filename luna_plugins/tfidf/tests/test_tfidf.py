"""TF-IDF: cosines of n-gram counts, forgiving of typing errors, the same however chunks came and went."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from luna_kernel.data.portuguese import words
from luna_plugin_tfidf.config import TfidfConfig
from luna_plugin_tfidf.ngrams import ngrams
from luna_plugin_tfidf.retriever import TfidfRetriever

TEXTS = ["O sino da capela pesa 180 quilos.", "A enchente levou a ponte de madeira.", "Bolo de fubá com goiabada"]
TEXT = st.lists(st.sampled_from("sino capela rio pedra livro ferro água".split()), max_size=10).map(" ".join)


def make(texts: list[str], **config: object) -> TfidfRetriever:
    retriever = TfidfRetriever(TfidfConfig(**config))
    retriever.add(range(len(texts)), texts)
    return retriever


def search(retriever: TfidfRetriever, query: str, k: int = 10) -> list[tuple[int, float]]:
    return [(hit.chunk_id, hit.score) for hit in retriever.search(query, k)]


def test_ngrams_keep_within_words() -> None:
    assert ngrams("casa", 3, 5) == [" ca", "cas", "asa", "sa ", " cas", "casa", "asa ", " casa", "casa "]
    assert ngrams("a", 3, 5) == [" a "]
    assert ngrams("a", 4, 5) == [" a "]


@pytest.mark.parametrize(("query", "first"), [("cappela", 0), ("enchemte", 1), ("goibada", 2), ("PONTES", 1), ("fuba", 2)])
def test_typing_errors_are_forgiven(query: str, first: int) -> None:
    assert search(make(TEXTS), query)[0][0] == first


def test_empty_one_and_two() -> None:
    assert search(TfidfRetriever(), "sino") == []
    assert search(make(TEXTS), "") == []
    assert search(make([""]), "sino") == []
    assert search(make(TEXTS), "xyzw") == []
    assert search(make(["o sino"]), "sino") == [(0, pytest.approx(1.0))]
    assert [chunk for chunk, _ in search(make(["o sino", "o sino"]), "sino")] == [0, 1]


def reference(texts: list[str], query: str) -> list[float]:
    """The formula of the module, with dictionaries."""

    def count(text: str) -> Counter[str]:
        return Counter(gram for word in words(text) for gram in ngrams(word, 3, 5))

    counted = [count(text) for text in texts]

    def weigh(counts: Counter[str]) -> dict[str, float]:
        holding = {gram: sum(gram in other for other in counted) for gram in counts}
        return {g: (1 + math.log(c)) * (1 + math.log((1 + len(texts)) / (1 + holding[g]))) for g, c in counts.items()}

    asked = weigh(count(query))
    cosines = []
    for counts in counted:
        vector = weigh(counts)
        norms = math.hypot(*vector.values()) * math.hypot(*asked.values())
        dot = sum(asked[gram] * vector[gram] for gram in asked.keys() & vector.keys())
        cosines.append(dot / norms if norms else 0.0)
    return cosines


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=8), TEXT)
def test_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    expected = {i: score for i, score in enumerate(reference(texts, query)) if score > 0}
    assert dict(search(make(texts, stop_words=False), query, 100)) == pytest.approx(expected, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=8), st.sets(st.integers(0, 7)), TEXT)
def test_incremental_equals_fresh(texts: list[str], gone: set[int], query: str) -> None:
    grown = TfidfRetriever()
    for i, text in enumerate(texts):
        grown.add([i], [text])
        grown.search(query, 3)
    grown.remove(sorted(gone))
    kept = [i for i in range(len(texts)) if i not in gone]
    fresh = TfidfRetriever()
    fresh.add(kept, [texts[i] for i in kept])
    assert dict(search(grown, query, 100)) == pytest.approx(dict(search(fresh, query, 100)), rel=1e-4)


def test_options_do_what_they_say() -> None:
    assert not search(make(["xampu"], min_n=5, max_n=5), "rampa")
    assert search(make(["xampu"], min_n=3, max_n=3), "rampa")
    assert search(make(["para todos", "xis"], stop_words=False), "paraíso")
    assert not search(make(["para festa", "xis"]), "paraíso")
    with pytest.raises(ValidationError):
        TfidfConfig(min_n=5, max_n=4)


def test_save_and_load(tmp_path: Path) -> None:
    retriever = make(TEXTS)
    retriever.remove([1])
    retriever.save(tmp_path)
    loaded = TfidfRetriever.load(None, tmp_path)
    assert search(loaded, "cappela") == search(retriever, "cappela")
    loaded.add([5], ["um helicóptero"])
    assert search(loaded, "helicoptero")[0][0] == 5
    assert loaded.ids() == {0, 2, 5}
