"""The inverted index: what grew and shrank equals what was built at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import IntegrityError
from luna_kernel.data import compiled, weighted_search
from luna_kernel.data import segments as segments_module
from luna_kernel.data.postings import Postings, Vocabulary
from luna_kernel.data.postings_file import load_postings, save_postings
from luna_kernel.data.segments import make_segment, merged
from luna_kernel.data.top_rows import Column, TopRows
from luna_kernel.data.weighted_search import WeightedSearch

ITEM = st.lists(st.integers(0, 8), max_size=12)


def view(postings: Postings) -> dict[int, dict[int, int]]:
    """id -> term -> count, of the living items."""
    found: dict[int, dict[int, int]] = {item: {} for item in postings.live_ids()}
    for term in range(9):
        rows, counts = postings.find(term)
        assert list(rows) == sorted(set(rows.tolist()))
        for row, count in zip(rows, counts, strict=True):
            found[int(postings.ids[row])][term] = int(count)
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30), ITEM), max_size=60))
def test_any_order_of_changes(changes: list[tuple[bool, int, list[int]]]) -> None:
    postings, truth = Postings(), {}
    for add, item_id, terms in changes:
        if add and item_id not in truth:
            postings.add([item_id], [np.asarray(terms, np.int32)])
            truth[item_id] = {term: terms.count(term) for term in set(terms)}
        elif not add:
            postings.remove([item_id])
            truth.pop(item_id, None)
    assert view(postings) == truth
    assert len(postings) == len(truth)
    frequencies = [sum(term in counts for counts in truth.values()) for term in range(9)]
    assert postings.document_frequencies(9).tolist() == frequencies
    postings.compact()
    assert view(postings) == truth
    assert len(postings.ids) == len(truth)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(ITEM, min_size=1, max_size=6), min_size=1, max_size=4), st.data(), st.integers(1, 40))
def test_merged_is_what_sorting_all_gives(parts: list[list[list[int]]], data: st.DataObject, block: int) -> None:
    segments, everything, row = [], [], 0
    for part in parts:
        triples = [(term, row + n, item.count(term)) for n, item in enumerate(part) for term in sorted(set(item))]
        row += len(part)
        columns = np.asarray(triples, np.int32).reshape(-1, 3).T
        segments.append(make_segment(columns[0], columns[1], columns[2].astype(np.uint8)))
        everything += triples
    alive = np.asarray(data.draw(st.lists(st.booleans(), min_size=row, max_size=row)))
    with block_of(block):
        found = merged(segments, alive)
    living = np.asarray([t for t in everything if alive[t[1]]], np.int32).reshape(-1, 3).T
    expected = make_segment(living[0], living[1], living[2].astype(np.uint8))
    assert np.array_equal(found.terms, expected.terms)
    assert np.array_equal(found.starts, expected.starts)
    for mine, right in zip(found.whole(), expected.whole(), strict=True):
        assert np.array_equal(mine, right)


@contextlib.contextmanager
def block_of(size: int) -> Iterator[None]:
    before, segments_module.BLOCK = segments_module.BLOCK, size
    try:
        yield
    finally:
        segments_module.BLOCK = before


def test_ids_are_new_and_not_negative() -> None:
    postings = Postings()
    postings.add([1], [np.asarray([0])])
    for ids in ([1], [-1], [2, 2]):
        with pytest.raises(ValueError):
            postings.add(ids, [np.asarray([0])] * len(ids))
    assert postings.live_ids() == {1}


def test_best_is_deterministic_and_drops_what_scores_nothing() -> None:
    postings = Postings()
    postings.add([5, 3, 9, 1], [np.asarray([term]) for term in (0, 0, 1, 0)])
    search = WeightedSearch(postings, lambda rows, counts, terms: np.ones(len(rows), np.float32))
    assert [item for item, _ in search.best({0: 1.0}, 2)] == [1, 3]
    assert [item for item, _ in search.best({0: 1.0, 7: 1.0}, 10)] == [1, 3, 5]
    assert search.best({0: 1.0}, 0) == search.best({}, 3) == search.best({7: 1.0}, 3) == []


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 30), st.booleans())
def test_the_best_rows_are_those_of_the_whole_sum(seed: int, terms: int, k: int, coarse: bool) -> None:
    """Long and short columns, so that late ones are only asked about some rows; coarse values make ties."""
    rng = np.random.default_rng(seed)
    size = 4000
    total = np.zeros(size, np.float64)
    columns = []
    for _ in range(terms):
        rows = np.flatnonzero(rng.random(size) < rng.choice([0.002, 0.05, 0.6])).astype(np.int32)
        values = (rng.integers(1, 4, len(rows)) / 4 if coarse else rng.random(len(rows)) + 1e-3).astype(np.float32)
        weight = float(rng.choice([0.125, 1.0, 8.0]))
        columns.append(Column(rows, values, weight, float(values.max(initial=0.0))))
        total[rows] += weight * values
    top = TopRows(size)
    for _ in range(2):  # the work space is clean again
        rows, scores = top.search(columns, k)
        assert len(set(rows.tolist())) == len(rows)
        assert np.allclose(scores, total[rows], rtol=1e-5)
        least = np.sort(total)[::-1][k - 1]
        wanted = set(np.flatnonzero((total > 0) & (total > least * (1 + 1e-5))).tolist())
        assert wanted <= set(rows.tolist())
        if coarse:
            assert set(np.flatnonzero((total > 0) & (total >= least)).tolist()) <= set(rows.tolist())
        assert len(rows) >= min(k, int((total > 0).sum()))


def grown(rng: np.random.Generator, vocabulary: int) -> Postings:
    """An index of several segments with removed items in each."""
    index = Postings()
    for first, count in ((0, 200), (200, 20), (220, 3)):
        items = [rng.integers(0, vocabulary, rng.integers(1, 20)) for _ in range(count)]
        index.add(range(first, first + count), items)
    index.remove([3, 85, 210, 221])
    assert len(index.segments) > 1
    return index


def test_weighing_all_gives_what_weighing_one_term_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    index = grown(np.random.default_rng(3), 30)
    for patience in (0.0, 1e6):
        monkeypatch.setattr(weighted_search, "_PATIENCE", patience)
        search = WeightedSearch(
            index, lambda rows, counts, terms: (counts / (1 + rows + terms)).astype(np.float32), float
        )
        search.best({0: 1.0}, 1)
        for term in range(31):
            column = search.column(term, 1.0)
            rows, counts = index.find(term)
            assert (column is None) == (len(rows) == 0)
            if column is not None:
                assert np.array_equal(column.rows, rows)
                assert np.array_equal(column.values, (counts / (1 + rows + term)).astype(np.float32))
                assert column.weight == len(rows)
                assert column.largest == column.values.max()


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 12), st.integers(1, 300), st.booleans())
def test_compiled_loops_give_the_same_bits(seed: int, vocabulary: int, terms: int, k: int, coarse: bool) -> None:
    """Segments, removed rows, terms that nobody holds, ties: item for item and bit for bit what numpy gives."""
    pytest.importorskip("numba")
    assert compiled.loops(wait=True) is not None
    rng = np.random.default_rng(seed)
    index = grown(rng, vocabulary)
    step = 4 if coarse else 10**6

    def worth(rows: np.ndarray, counts: np.ndarray, terms: np.ndarray) -> np.ndarray:
        return (1 + (rows * 7919 + terms * 104729 + counts) % step).astype(np.float32) / np.float32(step)

    questions = []
    for count in (terms, 0, 1, terms // 2):
        numbers = rng.choice(vocabulary + 5, min(count, vocabulary), replace=False).tolist()
        questions.append({number: float(rng.choice([0.125, 0.7, 8.0])) for number in numbers})
    found = []
    for large in (10**9, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(weighted_search, "_PATIENCE", 0.0)
            patch.setattr(weighted_search, "_LARGE", large)
            patch.setattr(weighted_search, "_ROOM", 3 * k)  # some questions at once, and then the others
            search = WeightedSearch(index, worth, lambda count: 1 / count)
            found.append([[search.best(asked, k) for asked in questions] for _ in range(2)])
            found.append([[list(hits) for hits in search.best_of_each(questions, k)]] * 2)
    assert found[0] == found[1] == found[2] == found[3]


def test_save_and_load(tmp_path: Path) -> None:
    vocabulary = Vocabulary(["ação", "água", "x"])
    postings = Postings()
    postings.add([4, 7], [np.asarray([0, 0, 2]), np.asarray([1])])
    postings.remove([7])
    save_postings(tmp_path, postings, vocabulary)
    loaded, words = load_postings(tmp_path)
    assert words.terms == ["ação", "x"]  # nothing stays of what was removed
    assert view(loaded) == {4: {0: 2, 1: 1}}
    loaded.add([9], [np.asarray([0, words.add("água")])])  # a mapped index grows and shrinks as any other
    loaded.remove([4])
    assert view(loaded) == {9: {0: 1, 2: 1}}
    (tmp_path / "empty").mkdir()
    save_postings(tmp_path / "empty", Postings(), Vocabulary())
    loaded, words = load_postings(tmp_path / "empty")
    assert len(loaded) == len(words) == 0


def test_damage_is_refused(tmp_path: Path) -> None:
    vocabulary = Vocabulary(["a", "b"])
    postings = Postings()
    postings.add([0, 1], [np.asarray([0, 1]), np.asarray([1])])
    save_postings(tmp_path, postings, vocabulary)
    path = tmp_path / "postings.safetensors"
    data = path.read_bytes()
    for bad in (data[: len(data) // 2], b"", b"\xff" * 100):
        path.write_bytes(bad)
        with pytest.raises(IntegrityError):
            load_postings(tmp_path)


def test_nothing_is_compiled_while_that_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_loops", None)
    monkeypatch.setattr(compiled, "_thread", None)
    with compiled.held_back():
        with compiled.held_back():
            pass
        assert compiled.loops() is None
        assert compiled._thread is None
    assert not compiled._held_back
