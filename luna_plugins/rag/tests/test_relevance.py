"""Fusion and reranking: the formula, the order of ties, what relevance means."""

from __future__ import annotations

import math

import pytest
from luna_plugin_rag.fusion import fuse
from luna_plugin_rag.relevance import CALIBRATION, EVIDENCE, FEATURES, WEIGHTS, AlignmentReranker, Question, calibrate

from luna_kernel.contracts.retrievers import Candidate, Hit

TEXT = "A capela é de 1801. O sino da capela pesa 180 quilos. O rio subiu."


def test_reciprocal_ranks() -> None:
    found = fuse({"a": [Hit(1, 9.0), Hit(2, 3.0)], "b": [Hit(2, 0.5), Hit(3, 0.4)]})
    assert [item.chunk_id for item in found] == [2, 1, 3]
    assert found[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert found[0].scores == pytest.approx({"a": 1 / 3, "b": 1.0})
    assert [item.chunk_id for item in fuse({"a": [Hit(5, 1.0)], "b": [Hit(4, 1.0)]})] == [4, 5]
    assert [item.chunk_id for item in fuse({"a": [Hit(5, 1.0)], "b": [Hit(4, 1.0)]}, {"a": 2.0})] == [5, 4]
    assert fuse({}) == fuse({"a": []}) == []


def test_who_was_asked_and_found_nothing_gives_0() -> None:
    found = fuse({"a": [Hit(1, 2.0)], "b": [Hit(2, 3.0)], "c": []})
    assert {item.chunk_id: item.scores for item in found} == {
        1: {"a": 1.0, "b": 0.0, "c": 0.0},
        2: {"a": 0.0, "b": 1.0, "c": 0.0},
    }


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"bm25": 0.4, "tfidf": 0.7}, (0.4, 0.7)),
        ({"bm25": 0.4, "tfidf": 0.7, "faiss": 0.9}, (0.4, 0.7)),
        ({"bm25": 0.4}, (0.4, 0.4)),
        ({"tfidf": 0.7}, (0.7, 0.7)),
        ({"bm25": 0.0, "tfidf": 0.7}, (0.0, 0.7)),
        ({"faiss": 0.9, "pgtext": 0.2}, (0.9, 0.9)),
        ({"bm25": 0.4, "faiss": 0.9}, (0.4, 0.9)),
        ({}, (0.0, 0.0)),
    ],
)
def test_other_retrievers_stand_in(scores: dict[str, float], expected: tuple[float, float]) -> None:
    (found,) = features("sino", Candidate(1, TEXT, scores=scores))
    assert (found["lexical"], found["fuzzy"]) == expected


def features(query: str, *candidates: Candidate, weights: dict[str, float] | None = None) -> list[dict[str, float]]:
    """By name, of each candidate."""
    rows = Question(query, weights or {}).features(candidates)
    return [dict(zip(FEATURES, row, strict=True)) for row in rows]


def test_features() -> None:
    assert len(WEIGHTS) == len(FEATURES)
    query = "Quanto pesa o sino da capela?"
    (full,) = features(query, Candidate(1, TEXT, scores={"bm25": 1.0, "tfidf": 0.0}))
    # of five neighbours, each with a stop word, `o sino`, `sino da` and `da capela` are there; no word is a name
    assert full == pytest.approx(
        {"lexical": 1, "fuzzy": 0, "covered": 1, "words": 1, "phrase": 3 / 5, "letters": full["letters"], "names": 0}
    )
    (titled,) = features(query, Candidate(1, "Nada.", "O sino", "A capela"))
    assert titled["covered"] == pytest.approx(2 / 2.5), "`pesa` names a kind and counts half"
    assert titled["letters"] < full["letters"] / 2


def test_forms_and_order_tell_passages_apart() -> None:
    """All hold the same stems."""
    asked = Candidate(1, "Os moradores compraram o sino da capela.")
    turned = Candidate(2, "A capela dos moradores comprou o sino.")
    other = Candidate(3, "O morador e a capela compram sinos.")
    query = "os moradores compraram o sino da capela?"
    same, order, forms = features(query, asked, turned, other)
    assert same["covered"] == order["covered"] == forms["covered"] == 1
    assert (same["words"], same["phrase"], same["letters"]) == pytest.approx((1, 1, 1))
    assert same["words"] > order["words"] > forms["words"]
    assert same["phrase"] > order["phrase"] > forms["phrase"]
    assert same["letters"] > order["letters"] > forms["letters"]


def test_a_word_that_was_spelt_wrongly_is_found_by_its_letters() -> None:
    right, wrong = features(
        "bibliotecria municipal", Candidate(1, "A bibliotecária municipal."), Candidate(2, "A praça municipal.")
    )
    assert right["words"] == wrong["words"] == 1
    assert right["letters"] > wrong["letters"]


def test_names() -> None:
    there, half = Candidate(1, "Rui Barbosa nasceu em Salvador."), Candidate(2, "Rui nasceu em Cachoeira.")
    assert [row["names"] for row in features("Onde nasceu Rui Barbosa?", there, half)] == [1, 0.5]
    weighted = features("Onde nasceu Rui Barbosa?", half, weights={"rui": 3.0, "barb": 1.0, "nasc": 1.0})
    assert weighted[0]["names"] == 0.75
    assert [row["names"] for row in features("onde nasceu rui barbosa", there, half)] == [1, 0]
    assert features("Onde nasceu D’Ávila?", there)[0]["names"] == 0, "a name that is no word of the question"


def test_a_word_is_a_name_where_documents_write_it_so() -> None:
    common = Candidate(3, "O rui e o barbosa são peixes. Barbosa vem de barba.")
    (found,) = features("onde nasceu rui barbosa", common)
    assert found["names"] == 0, "in small letters, or only at the beginning of a sentence"
    rows = features("quem foi dom pedro", Candidate(4, "Foi Dom Pedro quem veio."), Candidate(5, "Veio de pedra."))
    assert [row["names"] for row in rows] == [1, 0]


def test_a_stop_word_counts_little() -> None:
    stop, content = features("o sino", Candidate(1, "O o o o o."), Candidate(2, "Sino."))
    assert content["words"] == 1
    assert 0 < stop["words"] < 0.3


def evidence(query: str, *candidates: Candidate) -> list[dict[str, float]]:
    """By name, of each candidate, all with one score."""
    rows = Question(query, {}).evidence(candidates, [8.0] * len(candidates))
    return [dict(zip(EVIDENCE, row, strict=True)) for row in rows]


def test_evidence() -> None:
    assert len(CALIBRATION) == len(EVIDENCE)
    (found,) = evidence("Quanto custa o sino novo da capela?", Candidate(1, "O sino da capela é velho. Custou 3 dias."))
    assert found == pytest.approx({
        "one": 1, "score": 8, "lead": 1.5, "length": math.log(5), "missing": 0, "there": 0,
        "unknown": 1 / 4, "few": math.log(30), "sentence": 2 / 4,
    })  # fmt: skip
    (found,) = evidence("Quanto custa o sino novo da capela?", Candidate(1, "O sino da capela sai por R$ 80,00."))
    assert (found["there"], found["unknown"], found["sentence"]) == (1, 1 / 4, 3 / 4), "the price stands for `custa`"
    many = evidence("sino", *[Candidate(place, "O sino.") for place in range(40)])
    assert (many[0]["few"], many[0]["lead"], many[0]["unknown"]) == (0, 0, 0)


def test_the_kind_that_is_asked_for_counts() -> None:
    there, missing = Candidate(1, "O sino pesa 180 quilos."), Candidate(1, "O sino pesa quilos e quilos.")
    (one,), (two,) = evidence("Quantos quilos pesa o sino?", there), evidence("Quantos quilos pesa o sino?", missing)
    assert (one["missing"], two["missing"]) == (0, 1)
    assert (one["there"], two["there"]) == (1, 0)
    assert calibrate(tuple(one.values())) > calibrate(tuple(two.values()))
    far = Candidate(1, "O sino é de bronze. Foi fundido aqui. A porta é nova. A mesa pesa 9 quilos.")
    assert evidence("Quanto pesa o sino?", far)[0]["there"] == 0


def test_order_and_relevance() -> None:
    reranker = AlignmentReranker()
    candidates = [Candidate(1, "O rio subiu muito.", scores={"bm25": 0.2}), Candidate(2, TEXT, scores={"bm25": 1.0})]
    query = "Quanto pesa o sino da capela?"
    low, high = reranker.score(query, candidates, {})
    assert high > low
    best, other = reranker.relevance(query, candidates[::-1], [high, low])
    assert 0 < other < best < 1
    assert best > 0.5 > 0.1 > other
    assert reranker.relevance(query, [], []) == []
    (alone,) = reranker.relevance(query, candidates[1:], [high])
    assert alone == pytest.approx(best, abs=0.3)


@pytest.mark.parametrize("query", ["", "???", "de para", "sino"])
@pytest.mark.parametrize("text", ["", " ", "...", "sino"])
def test_odd_text(query: str, text: str) -> None:
    reranker = AlignmentReranker()
    scores = reranker.score(query, [Candidate(1, text)], {})
    assert 0 <= reranker.relevance(query, [Candidate(1, text)], scores)[0] <= 1
