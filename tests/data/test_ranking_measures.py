"""The measures behind the retrieval benchmark, against a slow reference that tries every order."""

from __future__ import annotations

import importlib.util
import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PATH = Path(__file__).parents[2] / "benchmarks" / "knowledge" / "measures.py"
SPEC = importlib.util.spec_from_file_location("ranking_measures", PATH)
assert SPEC is not None
assert SPEC.loader is not None
measures = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(measures)


def gain(found: tuple[int, ...], right: set[int]) -> float:
    """Discounted cumulated gain of the first ten places."""
    return sum(math.log(2) / math.log(place + 2) for place in range(min(len(found), 10)) if found[place] in right)


@settings(deadline=None)
@given(st.permutations(range(7)), st.integers(0, 7), st.sets(st.integers(0, 6), min_size=1))
def test_ndcg_is_the_gain_over_that_of_the_best_order(order: list[int], length: int, right: set[int]) -> None:
    found = tuple(order[:length])
    ideal = max(gain(best, right) for best in itertools.permutations(range(7)))
    assert measures.judge(found, right)["ndcg@10"] == pytest.approx(gain(found, right) / ideal)


@settings(deadline=None)
@given(st.permutations(range(20)), st.sets(st.integers(0, 19), min_size=1))
def test_recall_and_mrr_count_what_stands_where(found: list[int], right: set[int]) -> None:
    judged = measures.judge(found, right)
    for depth in (1, 5, 10):
        assert judged[f"recall@{depth}"] == pytest.approx(len(right & set(found[:depth])) / len(right))
    first = min(found.index(text) for text in right)
    assert judged["mrr@10"] == pytest.approx(1 / (first + 1) if first < 10 else 0)


def test_a_known_ranking_has_its_known_figures() -> None:
    """The right texts on places 2 and 11: the second counts for nothing."""
    judged = measures.judge([9, 1, 8, 7, 6, 5, 4, 3, 11, 12, 2], {1, 2})
    ideal = 1 + 1 / math.log2(3)
    assert judged == pytest.approx(
        {"mrr@10": 0.5, "ndcg@10": (1 / math.log2(3)) / ideal, "recall@1": 0, "recall@5": 0.5, "recall@10": 0.5}
    )


def test_a_mean_comes_in_percent_with_its_standard_error() -> None:
    judged = [measures.judge([1, 2], {1}), measures.judge([1, 2], {2}), measures.judge([1, 2], {3})]
    found = measures.average(judged)
    assert found["mrr@10"] == pytest.approx(50)
    assert found["recall@1"] == pytest.approx(100 / 3)
    assert found["±"] == pytest.approx(100 * math.sqrt((0.25 + 0 + 0.25) / 2 / 3))
    assert measures.average(judged[:1])["±"] == 0
