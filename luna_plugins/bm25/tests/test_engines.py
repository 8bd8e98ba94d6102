"""The libraries behind the same words: whatever comes and goes, they rank as Luna does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from luna_plugin_bm25.config import BM25Config
from luna_plugin_bm25.retriever import BM25Retriever

from luna_kernel.base.errors import UsageError

WORDS = st.sampled_from(["sino", "capela", "rio", "pedra", "livro", "estrada", "ferro", "água", "quilo", "festa"])
TEXT = st.lists(WORDS, max_size=15).map(" ".join)
CHANGES = st.lists(st.tuples(st.booleans(), st.integers(0, 8), TEXT), max_size=12)
OTHERS = ["bm25s", "rank_bm25"]


def ranking(retriever: BM25Retriever, query: str, k: int) -> list[tuple[int, float]]:
    return [(hit.chunk_id, hit.score) for hit in retriever.search(query, k)]


def same(found: list[tuple[int, float]], expected: list[tuple[int, float]], whole: dict[int, float]) -> None:
    """The same scores place by place, and each chunk with its own; chunks that tie by rounding may change places."""
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], rel=1e-5)
    assert len({chunk for chunk, _ in found}) == len(found)
    for chunk, score in found:
        assert score == pytest.approx(whole[chunk], rel=1e-5)


@pytest.mark.parametrize("engine", OTHERS)
@settings(max_examples=150, deadline=None)
@given(
    changes=CHANGES, query=TEXT, k=st.integers(0, 10), k1=st.sampled_from([0.0, 1.2]), b=st.sampled_from([0.0, 0.75])
)
def test_it_ranks_as_luna_does(
    engine: str, changes: list[tuple[bool, int, str]], query: str, k: int, k1: float, b: float
) -> None:
    """With none, one or more chunks, after every change."""
    luna = BM25Retriever(BM25Config(k1=k1, b=b))
    other = BM25Retriever(BM25Config(k1=k1, b=b, engine=engine))
    for add, chunk, text in changes:
        for retriever in (luna, other):
            if add and chunk not in retriever.ids():
                retriever.add([chunk], [text])
            elif not add:
                retriever.remove([chunk])
        same(ranking(other, query, k), ranking(luna, query, k), dict(ranking(luna, query, 100)))


@pytest.mark.parametrize("engine", OTHERS)
def test_equal_scores_come_by_their_ids(engine: str) -> None:
    retriever = BM25Retriever(BM25Config(engine=engine))
    retriever.add([9, 2, 7, 4], ["sino da capela"] * 4)
    assert [chunk for chunk, _ in ranking(retriever, "sino", 3)] == [2, 4, 7]
    assert ranking(retriever, "helicóptero", 3) == []


@pytest.mark.parametrize("engine", OTHERS)
def test_the_saved_index_is_the_same(engine: str, tmp_path: Path) -> None:
    """It is Luna's: another engine opens it."""
    retriever = BM25Retriever(BM25Config(engine=engine))
    retriever.add([1, 2], ["o sino da capela", "a estrada de ferro"])
    retriever.save(tmp_path)
    for name in ("luna", *OTHERS):
        assert ranking(BM25Retriever.load(BM25Config(engine=name), tmp_path), "ferro", 3)[0][0] == 2


@pytest.mark.parametrize("engine", OTHERS)
def test_a_library_that_is_missing_is_named(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, engine, None)
    retriever = BM25Retriever(BM25Config(engine=engine))
    retriever.add([1], ["sino"])
    with pytest.raises(UsageError) as raised:
        retriever.search("sino", 3)
    assert f"luna-plugin-bm25[{engine.replace('_', '-')}]" in str(raised.value.hint)
