"""The inverted index: what grew and shrank equals what was built at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luna_kernel.base.errors import IntegrityError
from luna_kernel.data.postings import Postings, Vocabulary, load_postings, save_postings

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


def test_ids_are_new_and_not_negative() -> None:
    postings = Postings()
    postings.add([1], [np.asarray([0])])
    for ids in ([1], [-1], [2, 2]):
        with pytest.raises(ValueError):
            postings.add(ids, [np.asarray([0])] * len(ids))
    assert postings.live_ids() == {1}


def test_best_is_deterministic_and_drops_what_scores_nothing() -> None:
    postings = Postings()
    postings.add([5, 3, 9, 1], [np.asarray([0])] * 4)
    scores = np.asarray([1, 1, 0, 1], np.float32)
    assert [item for item, _ in postings.best(scores, 2)] == [1, 3]
    assert [item for item, _ in postings.best(scores, 10)] == [1, 3, 5]
    assert postings.best(scores, 0) == []


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
