"""BM25: the scores of the formula, right for 0, 1 and 2 chunks, the same however chunks came and went."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_bm25.analysis import Analyzer
from luna_plugin_bm25.config import BM25Config
from luna_plugin_bm25.retriever import BM25Retriever
from pydantic import ValidationError

from luna_kernel.data.portuguese import fold, stem
from luna_kernel.data.word_families import related

TEXTS = [
    "O sino da capela pesa 180 quilos.",
    "A capela foi erguida em 1801 com pedras do rio.",
    "A estrada de ferro chegou em 1922; as estradas de terra, antes.",
    "Dá-me dois livros sobre limitações e guarda-chuvas.",
    "",
]
WORDS = st.sampled_from(["sino", "capela", "rio", "pedra", "livro", "estrada", "ferro", "água", "quilo", "festa"])
TEXT = st.lists(WORDS, max_size=15).map(" ".join)


def make(texts: list[str], **config: object) -> BM25Retriever:
    retriever = BM25Retriever(BM25Config(**config))
    retriever.add(range(len(texts)), texts)
    return retriever


def search(retriever: BM25Retriever, query: str, k: int = 10) -> list[tuple[int, float]]:
    return [(hit.chunk_id, hit.score) for hit in retriever.search(query, k)]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("Quanto pesa o sino?", 0),
        ("pedra do rio", 1),
        ("ESTRADA DE FERRO", 2),
        ("limitacao", 3),
        ("guarda-chuva", 3),
        ("1922", 2),
    ],
)
def test_finds_other_forms(query: str, first: int) -> None:
    assert search(make(TEXTS), query)[0][0] == first


def test_a_word_that_was_unknown_is_found_once_a_chunk_has_it() -> None:
    retriever = make(TEXTS)
    for query in ("helicóptero", "o helicóptero"):
        assert search(retriever, query) == []
    retriever.add([50], ["helicópteros"])
    assert search(retriever, "o helicóptero")[0][0] == 50


def test_words_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luna_plugin_bm25.retriever._MOST_SEEN", 2)
    retriever = make(TEXTS)
    expected = [search(make(TEXTS), query) for query in TEXTS]
    assert [search(retriever, query) for query in TEXTS * 2] == expected * 2


@pytest.mark.parametrize("config", [{}, {"expansion": 0.3}, {"engine": "rank_bm25"}, {"stemming": False}])
def test_asked_together_they_give_what_each_gives(config: dict[str, object]) -> None:
    if "engine" in config:
        pytest.importorskip("rank_bm25")
    retriever = make(TEXTS, **config)
    queries = [*TEXTS, "sino da capela", "de a o", "xyz", ""]
    each = retriever.search_each(queries, 3)
    assert [list(hits) for hits in each] == [retriever.search(query, 3) for query in queries]
    for hits in each:
        assert [hits[place] for place in range(len(hits))] == list(hits)
        assert list(hits[1:]) == list(hits)[1:]
    assert retriever.search_each([], 3) == []


def test_empty_index_and_empty_query() -> None:
    assert search(BM25Retriever(), "sino") == []
    assert search(make(TEXTS), "") == []
    assert search(make(TEXTS), "sino", 0) == []
    assert search(make(TEXTS), "helicóptero") == []
    assert search(make([""]), "sino") == []


@pytest.mark.parametrize("count", [1, 2])
def test_one_and_two_chunks_have_positive_scores(count: int) -> None:
    found = search(make(["o sino da capela"] * count), "sino")
    assert [chunk for chunk, _ in found] == list(range(count))
    assert all(score > 0 and math.isfinite(score) for _, score in found)


def reference(texts: list[str], query: str, k1: float = 1.2, b: float = 0.75) -> list[float]:
    """The formula of the module, term by term."""
    terms = Analyzer(BM25Config()).terms
    documents = [terms(text) for text in texts]
    mean = max(sum(map(len, documents)) / len(documents), 1e-9)
    scores = []
    for document in documents:
        score = 0.0
        for term in terms(query):
            holding = sum(term in other for other in documents)
            if term in document:
                idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
                count = document.count(term)
                score += idf * count * (k1 + 1) / (count + k1 * (1 - b + b * len(document) / mean))
        scores.append(score)
    return scores


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=12), TEXT)
def test_scores_are_those_of_the_formula(texts: list[str], query: str) -> None:
    expected = {i: score for i, score in enumerate(reference(texts, query)) if score > 0}
    found = dict(search(make(texts), query, 100))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXT, min_size=2, max_size=12), st.sets(st.integers(0, 11)), TEXT, st.randoms())
def test_what_grew_and_shrank_equals_what_was_built_at_once(
    texts: list[str], gone: set[int], query: str, rng: random.Random
) -> None:
    grown = BM25Retriever()
    order = list(range(len(texts)))
    rng.shuffle(order)
    for i in order:
        grown.add([i], [texts[i]])
    grown.remove(sorted(gone))
    grown.remove([99])
    kept = [i for i in range(len(texts)) if i not in gone]
    at_once = BM25Retriever()
    at_once.add(kept, [texts[i] for i in kept])
    assert grown.ids() == at_once.ids() == set(kept)
    assert dict(search(grown, query, 100)) == pytest.approx(dict(search(at_once, query, 100)), rel=1e-5)


def test_the_order_of_equals_is_that_of_their_ids() -> None:
    retriever = BM25Retriever()
    retriever.add([9, 2, 7, 4], ["sino da capela"] * 4)
    assert [chunk for chunk, _ in search(retriever, "sino", 3)] == [2, 4, 7]


@pytest.mark.parametrize("query", ["limitação da estação", "São João", "à sombra das mangueiras"])
def test_accents_in_the_question_do_not_matter(query: str) -> None:
    texts = ["As limitações das estações", "Festa de São João", "Sentou à sombra da mangueira"]
    assert search(make(texts), query) == search(make(texts), fold(query)) != []


def test_options_do_what_they_say() -> None:
    assert search(make(["casas"]), "casa")
    assert not search(make(["casas"], stemming=False), "casa")
    assert not search(make(["a festa de ontem", "x"]), "de festança")
    assert search(make(["a festa de ontem", "x"], stop_words=False), "de festança")
    assert not search(make(["o processo", "o réu do processo"], extra_stop_words=("Processo",)), "processo penal")
    long, short = "sino " + "pedra " * 50, "sino pedra"
    assert search(make([long, short], b=0.0), "sino")[0][1] == search(make([long, short], b=0.0), "sino")[1][1]
    assert search(make([long, short]), "sino")[0][0] == 1
    repeated = search(make(["sino sino sino", "sino x y"], k1=0.0), "sino")
    assert repeated[0][1] == pytest.approx(repeated[1][1])


def test_term_weights_tell_the_rare_from_the_frequent() -> None:
    weights = make(["capela sino", "capela rio", "capela"]).term_weights("capela sino helicóptero")
    terms = Analyzer(BM25Config()).terms
    capela, sino, unknown = (weights[terms(word)[0]] for word in ("capela", "sino", "helicóptero"))
    assert 0 < capela < sino < unknown


def test_save_and_load(tmp_path: Path) -> None:
    retriever = make(TEXTS)
    retriever.remove([2])
    retriever.save(tmp_path)
    loaded = BM25Retriever.load(None, tmp_path)
    for query in ("capela", "guarda-chuva", "ferro"):
        assert search(loaded, query) == search(retriever, query)
    loaded.add([10], ["um helicóptero"])
    assert search(loaded, "helicópteros")[0][0] == 10
    with pytest.raises(ValueError):
        loaded.add([0], ["de novo"])


def test_words_of_a_family_are_found_if_asked_and_weigh_less() -> None:
    texts = ["A morte do rei abalou a corte.", "O rei morreu cedo.", "A decisão do juiz saiu ontem.", "A ponte caiu."]
    plain, wide = make(texts), make(texts, expansion=0.5)
    assert [chunk for chunk, _ in search(plain, "quando morreu")] == [1]
    assert [chunk for chunk, _ in search(wide, "quando morreu")] == [1, 0]
    assert [chunk for chunk, _ in search(wide, "o que decidiram")] == []
    assert [chunk for chunk, _ in search(wide, "decidir")] == [2]
    assert search(wide, "ponte") == search(plain, "ponte")


def test_expansion_needs_stems_and_lunas_own_engine() -> None:
    for fields in ({"stemming": False}, {"engine": "bm25s"}):
        with pytest.raises(ValidationError, match="expansion"):
            BM25Config(expansion=0.5, **fields)


@pytest.mark.parametrize(
    ("word", "other"), [("fez", "fazer"), ("decisao", "decidir"), ("permissao", "permitir"), ("producao", "produzir")]
)
def test_families_work_both_ways(word: str, other: str) -> None:
    assert stem(other) in related(word)
    assert stem(word) in related(other)
    assert stem(word) not in related(word)
